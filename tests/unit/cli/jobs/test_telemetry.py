"""The start line, heartbeats and their fields."""

import argparse
import logging
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.base.types import PhysicalTableID, TimeStamp, from_physical_ms
from pyspark_theflash.cli.jobs.figures import lag_s, progress_figures, store_figures
from pyspark_theflash.cli.jobs.first_load import load_figures
from pyspark_theflash.cli.jobs.telemetry import Telemetry, heartbeat_fields
from pyspark_theflash.replication.load.load import LoadReport
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.storage.engine.api import Publication
from pyspark_theflash.storage.store.aside import Aside
from pyspark_theflash.storage.store.folder import open_manifest, read_identity
from pyspark_theflash.storage.store.latch.lease import LeaseTable
from pyspark_theflash.storage.store.manifest import ManifestChange
from pyspark_theflash.testing.stores import StoreBuilder, id_column, table_info
from tests.support.manual_clock import ManualClock


@pytest.fixture
def made(caplog: pytest.LogCaptureFixture) -> Iterator[tuple[Telemetry, ManualClock]]:
    clock = ManualClock()
    arguments = argparse.Namespace(log="text", heartbeat=60_000, metrics=None)
    with ExitStack() as undo, caplog.at_level(logging.INFO):
        yield Telemetry("writer", arguments, clock, undo), clock


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[str, dict[str, Any]]]:
    return [(each.getMessage(), each.__dict__["fields"]) for each in caplog.records]


def test_the_start_line_has_no_secrets(
    made: tuple[Telemetry, ManualClock], caplog: pytest.LogCaptureFixture
) -> None:
    made[0].started(
        {
            "store": "/data/store",
            "source": ["cdc:s3://user:secret@bucket/prefix?secret-access-key=k", "pump:h:1"],
            "schema": "tidb:http://me:pass@tidb:10080",
            "until_ts": 7,
            "base": None,
        }
    )
    [(message, fields)] = lines(caplog)
    assert message == "writer started"
    assert fields["version"]
    assert fields["pid"]
    assert {name: fields[name] for name in fields if name not in ("version", "pid")} == {
        "store": "/data/store",
        "source": "cdc:s3://bucket/prefix,pump:h:1",
        "schema": "tidb:http://tidb:10080",
        "until_ts": 7,
    }


def test_a_heartbeat_is_logged_once_in_an_interval(
    made: tuple[Telemetry, ManualClock],
    caplog: pytest.LogCaptureFixture,
) -> None:
    telemetry, clock = made
    rows = 0
    telemetry.figures = lambda: {"rows_total": rows, "regions": {"streaming": 3}}
    beats: list[tuple[int, dict[str, Any]]] = []
    for second in range(200):
        rows += 10
        telemetry.beat()
        beats += [(second, fields) for _, fields in lines(caplog)]
        caplog.clear()
        clock.sleep_ms(1_000)
    assert [second for second, _ in beats] == [60, 120, 180]
    assert [fields["rows_per_second"] for _, fields in beats] == [10.2, 10.0, 10.0]
    assert beats[0][1]["rows"] == 610
    assert beats[0][1]["regions"] == {"streaming": 3}
    assert beats[0][1]["resident_bytes"] > 1 << 20


def test_no_heartbeats(caplog: pytest.LogCaptureFixture) -> None:
    clock = ManualClock()
    arguments = argparse.Namespace(log="text", heartbeat=0, metrics=None)
    with ExitStack() as undo, caplog.at_level(logging.INFO):
        telemetry = Telemetry("writer", arguments, clock, undo)
        clock.sleep_ms(10_000_000)
        telemetry.beat()
    assert lines(caplog) == []


def test_rates_of_a_writer_that_counts_from_zero_again() -> None:
    fields = heartbeat_fields({"rows_total": 50}, {"rows_total": 1_000}, 10_000)
    assert fields["rows_per_second"] == 5.0


def test_lag_is_that_of_the_newest_readable_timestamp() -> None:
    clock = ManualClock()
    ts = TimeStamp(from_physical_ms(clock.wall_ms() - 2_500))
    assert lag_s(ts, clock) == 2.5
    assert progress_figures(ts, clock) == {
        "resolved_timestamp_seconds": (clock.wall_ms() - 2_500) / 1000,
        "resolved_ts_lag_seconds": 2.5,
    }
    assert progress_figures(TimeStamp(0), clock) == {}
    # The clock of this machine is behind that of PD.
    assert lag_s(TimeStamp(from_physical_ms(clock.wall_ms() + 100)), clock) == 0


def test_figures_of_a_store_count_its_latches_and_tables_set_aside(tmp_path: Path) -> None:
    clock, table = SystemClock(), table_info(1, "d.t", [id_column()])
    aside = Aside(PhysicalTableID(1), TimeStamp(300), "d.t", "a reason").to_record()
    store = StoreBuilder(tmp_path / "store", table).publish(200)
    identity, fs = read_identity(store.path, LocalFileSystem()), LocalFileSystem()
    with closing(registry.open_engine(store.path, identity, fs, clock)) as engine:
        engine.publish(Publication((), ManifestChange([aside])))
    with closing(open_manifest(store.path, LocalFileSystem())) as manifest:
        LeaseTable(manifest, clock).take(TimeStamp(200), 60_000)
    figures = store_figures(store.path, clock, has_progress=True)
    assert figures["latches"] == {"read": 1, "pin": 0, "write": 0, "admin": 0}
    assert figures["set_aside_tables"] == 1
    assert figures["resolved_timestamp_seconds"] == 0.0
    assert set(store_figures(store.path, clock)) == {"latches", "set_aside_tables"}


def test_a_load_estimates_its_end() -> None:
    assert load_figures(LoadReport(), 10_000) == {"load_ratio": 0.0, "load_rows_total": 0}
    report = LoadReport(tables=1, rows=1_000, share_before=0.5, share=0.75)
    assert load_figures(report, 10_000) == {
        "load_ratio": 0.75,
        "load_rows_total": 1_000,
        "load_remaining_seconds": 10,
    }
