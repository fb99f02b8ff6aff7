"""The guarantees of a snapshot and its tasks, on small stores."""

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pyspark_theflash.base.errors import (
    ColumnNotFoundError,
    CorruptionError,
    LeaseExpiredError,
    NotCaughtUpError,
    OptionError,
    SnapshotTooOldError,
    StoreMismatchError,
    TableNotFoundError,
    TheFlashError,
)
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.read.plan.read import read_task
from pyspark_theflash.read.plan.snapshot import open_snapshot
from pyspark_theflash.storage.engine.magic.reader import MagicReader
from pyspark_theflash.storage.store.folder import DATA_FOLDER
from pyspark_theflash.storage.store.latch.lease import LEASE_TTL_MS
from pyspark_theflash.testing.stores import OLDEST_TS, StoreBuilder, column, id_column, table_info
from pyspark_theflash.tidb.codec.field_type import MySQLType
from tests.support.manual_clock import ManualClock

TABLE = table_info(7, "shop.item", [id_column(), column("name", MySQLType.VARCHAR)])
HIDDEN = table_info(8, "shop.log", [column("line", MySQLType.VARCHAR)], has_rowid=True)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Two tables; the readable timestamps are 100 to 300."""
    builder = StoreBuilder(tmp_path / "store", TABLE, HIDDEN)
    items = [(1, 150, [1, "one"]), (1, 200, [1, "uno"]), (2, 150, [2, None]), (2, 250, None)]
    return builder.publish(300, {TABLE: items, HIDDEN: [(5, 150, ["hello"])]}).path


def rows(store: Path, ts: int, table: str = "shop.item", *columns: str) -> list[tuple[object, ...]]:
    with open_snapshot(store, TimeStamp(ts)) as snapshot:
        batches = snapshot.scan(table, columns or None)
        return sorted(tuple(row.values()) for batch in batches for row in batch.to_pylist())


def test_time_travel(store: Path) -> None:
    assert rows(store, 149) == []
    assert rows(store, 150) == [(1, "one"), (2, None)]
    assert rows(store, 200) == [(1, "uno"), (2, None)]
    assert rows(store, 300) == [(1, "uno")]


def test_columns_in_any_order_and_the_hidden_rowid(store: Path) -> None:
    assert rows(store, 300, "SHOP.Item", "name", "id") == [("uno", 1)]
    assert rows(store, 300, "shop.log", "_tidb_rowid", "line") == [(5, "hello")]
    with pytest.raises(ColumnNotFoundError, match="_tidb_rowid"):
        rows(store, 300, "shop.item", "_tidb_rowid")
    with pytest.raises(OptionError, match="named twice"):
        rows(store, 300, "shop.item", "id", "name", "ID")


def test_only_what_can_be_answered_is(store: Path) -> None:
    with pytest.raises(NotCaughtUpError, match="301"):
        rows(store, 301)
    with pytest.raises(SnapshotTooOldError, match="99"):
        rows(store, OLDEST_TS - 1)
    with pytest.raises(TableNotFoundError, match="no table shop"):
        rows(store, 300, "shop.nothing")


def test_without_a_timestamp_the_newest_is_read(store: Path) -> None:
    with open_snapshot(store) as snapshot:
        assert snapshot.snapshot_ts == 300


def test_a_task_survives_pickle_and_reads_what_was_planned(store: Path) -> None:
    with open_snapshot(store, TimeStamp(200)) as snapshot:
        tasks = pickle.loads(pickle.dumps(snapshot.plan("shop.item", ["id"]).tasks))
        ids = [
            row["id"] for task in tasks for batch in read_task(task) for row in batch.to_pylist()
        ]
    assert sorted(ids) == [1, 2]


def test_a_task_on_another_store_raises(store: Path, tmp_path: Path) -> None:
    with open_snapshot(store, TimeStamp(200)) as snapshot:
        (task,) = snapshot.plan("shop.item").tasks
    store.rename(tmp_path / "elsewhere")
    with pytest.raises(StoreMismatchError, match="no store at this path"):
        next(read_task(task))
    StoreBuilder(store, TABLE).publish(300)
    with pytest.raises(StoreMismatchError, match="different store"):
        next(read_task(task))


def test_a_task_keeps_its_latch_alive_and_fails_when_it_is_lost(store: Path) -> None:
    clock = ManualClock()
    with open_snapshot(store, TimeStamp(200), clock=clock) as snapshot:
        (task,) = snapshot.plan("shop.item").tasks
        for _ in range(5):
            clock.now_ms += LEASE_TTL_MS - 1
            assert sum(batch.num_rows for batch in read_task(task, clock=clock)) == 2
        clock.now_ms += LEASE_TTL_MS
        with pytest.raises(LeaseExpiredError, match="200"):
            next(read_task(task, clock=clock))


@pytest.mark.parametrize(
    ("stopped_ms", "expected"), [(LEASE_TTL_MS, LeaseExpiredError), (0, CorruptionError)]
)
def test_a_file_that_goes_while_a_scan_is_stopped(
    store: Path,
    monkeypatch: pytest.MonkeyPatch,
    stopped_ms: int,
    expected: type[TheFlashError],
) -> None:
    """A missing file is an expired latch if the latch has ended, and damage otherwise."""
    clock, scan = ManualClock(), MagicReader.scan

    def stopped(*arguments: Any, **options: Any) -> Iterator[pa.RecordBatch]:
        clock.now_ms += stopped_ms
        for path in (store / DATA_FOLDER).rglob("*.parquet"):
            path.unlink()
        return scan(*arguments, **options)

    with open_snapshot(store, TimeStamp(200), clock=clock) as snapshot:
        (task,) = snapshot.plan("shop.item").tasks
        monkeypatch.setattr(MagicReader, "scan", stopped)
        with pytest.raises(expected):
            next(read_task(task, clock=clock))
