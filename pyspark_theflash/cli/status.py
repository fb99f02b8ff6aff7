"""Tell how a store is: what it can answer, who writes it, what holds it back, how large it is.

`rows` counts versions. The lag is the age of the newest timestamp that can be answered. Where
transactions are pending, `held_by_start_ts` is the one that keeps `resolved_ts` where it is.
"""

import argparse
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from pyspark_theflash.binlog.ledger import ENTRY
from pyspark_theflash.binlog.pending import Pending
from pyspark_theflash.cli.latches import describe_holder
from pyspark_theflash.cli.reader import opened_reader
from pyspark_theflash.cli.regions import physical_tables
from pyspark_theflash.cli.show import print_json, utc
from pyspark_theflash.clock import Clock, SystemClock
from pyspark_theflash.engine.api import EngineReader
from pyspark_theflash.fs import LocalFileSystem
from pyspark_theflash.jobs.arguments import add_json, add_store
from pyspark_theflash.replication.state import LEDGER_KIND, PENDING_KIND
from pyspark_theflash.store.catalog import SCHEMA_KIND, schema_history
from pyspark_theflash.store.folder import FORMAT, open_manifest
from pyspark_theflash.store.lease import LeaseTable
from pyspark_theflash.store.manifest import View
from pyspark_theflash.store.progress import PROGRESS_KIND, Progress
from pyspark_theflash.store.setting import SETTING_KIND, interval_ms
from pyspark_theflash.store.writer_lock import current_writer
from pyspark_theflash.types import physical_ms

KINDS: Final = (PROGRESS_KIND, SCHEMA_KIND, LEDGER_KIND, PENDING_KIND, SETTING_KIND)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `status`."""
    add_store(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print a line a fact."""
    status = read_status(arguments.store, SystemClock())
    if arguments.json:
        print_json(status)
        return 0
    for name, value in status.items():
        shown = value if value is not None else "none"
        if isinstance(value, dict):
            shown = "process {pid} on {host} ({program})".format(**value)
        print(f"{name:24} {shown}")
    return 0


def read_status(path: Path, clock: Clock) -> dict[str, Any]:
    """Every fact by its name, in the order to show them."""
    with closing(open_manifest(path, LocalFileSystem())) as manifest:
        latches = LeaseTable(manifest, clock).living()
    with opened_reader(path) as (identity, engine):
        view = engine.read(KINDS)
        return {
            "store": str(path),
            "store_id": identity.store_id,
            "engine": identity.engine,
            "format": FORMAT,
            "generation": view.generation,
            **_timestamps(Progress.of(view), clock),
            "writer": describe_holder(current_writer(path, clock)),
            "interval_ms": interval_ms(view),
            **_transactions(view),
            "latches": len(latches),
            **_sizes(engine, view),
        }


def _timestamps(progress: Progress | None, clock: Clock) -> dict[str, Any]:
    names = ("resolved_ts", "resolved_time", "lag_ms", "oldest_ts", "oldest_time", "position")
    if progress is None:
        return dict.fromkeys(names)
    resolved_ts, oldest_ts = progress.resolved_ts, progress.oldest_ts
    lag_ms = clock.wall_ms() - physical_ms(resolved_ts)
    values = (
        resolved_ts,
        utc(resolved_ts),
        lag_ms,
        oldest_ts,
        utc(oldest_ts),
        progress.position,
    )
    return dict(zip(names, values, strict=True))


def _transactions(view: View) -> dict[str, Any]:
    pending = [Pending.from_bytes(body) for body in view.of_kind(PENDING_KIND).values()]
    holding = [p for p in pending if p.hold_ts]
    ledger_bytes = sum(map(len, view.of_kind(LEDGER_KIND).values()))
    return {
        "pending_transactions": len(pending),
        "held_by_start_ts": min(holding, key=lambda p: p.hold_ts).start_ts if holding else None,
        "ledger_entries": ledger_bytes // ENTRY.itemsize,
        "ledger_bytes": ledger_bytes,
    }


def _sizes(engine: EngineReader, view: View) -> dict[str, Any]:
    ids = [physical_id for _, physical_id in physical_tables(schema_history(view))]
    tables = [engine.stats(view, physical_id) for physical_id in ids]
    return {
        "physical_tables": sum(table.rows > 0 for table in tables),
        "regions": sum(len(engine.regions(view, physical_id)) for physical_id in ids),
        "files": sum(table.files for table in tables),
        "rows": sum(table.rows for table in tables),
        "bytes": sum(table.bytes for table in tables),
    }
