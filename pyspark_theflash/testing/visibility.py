"""Golden scripts of visibility: the versions of a row that a snapshot of a store sees.

put, delete   add a version of a row (of db.t unless `table` is given) to the next publication
publish       write the added versions as one file for each table, readable up to resolved_ts
collect       run a garbage collection with this safe point
open, close   open a snapshot that is kept under a name; close it
read          the rows of a table in a new snapshot, or in one that is open
"""

from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.read.plan.snapshot import ReadSnapshot
from pyspark_theflash.replication.upkeep.maintenance import Maintenance
from pyspark_theflash.replication.upkeep.work_queue import run_all
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.storage.store.folder import open_manifest, read_identity
from pyspark_theflash.testing.stores import StoreBuilder, Version, column, id_column, table_info
from pyspark_theflash.tidb.codec.field_type import MySQLType

FS = LocalFileSystem()
TABLES = {
    name: table_info(number, f"db.{name}", [id_column(), column("v", MySQLType.VARCHAR)])
    for number, name in ((1, "t"), (2, "u"))
}


class Visibility:
    """A store of two tables, db.t and db.u, each with an integer key and a text."""

    def __init__(self, folder: Path, engine: str = registry.MAGIC) -> None:
        self._path, self._clock = folder / "store", SystemClock()
        self._builder = StoreBuilder(self._path, *TABLES.values(), engine=engine)
        self._added: dict[str, list[Version]] = {}
        self._open: dict[str, ReadSnapshot] = {}
        self._undo = ExitStack()

    def close(self) -> None:
        self._undo.close()

    def do_put(self, row: str, ts: str, value: str | None = None, table: str = "t") -> None:
        self._added.setdefault(table, []).append((int(row), int(ts), (int(row), value)))

    def do_delete(self, row: str, ts: str, table: str = "t") -> None:
        self._added.setdefault(table, []).append((int(row), int(ts), None))

    def do_publish(self, resolved_ts: str) -> None:
        """Publish the added versions."""
        versions = {TABLES[name]: rows for name, rows in self._added.items()}
        self._builder.publish(int(resolved_ts), versions)
        self._added.clear()

    def do_collect(self, safe_point: str) -> Iterator[str]:
        """Collect garbage."""
        engine = registry.open_engine(self._path, read_identity(self._path, FS), FS, self._clock)
        with closing(engine), closing(open_manifest(self._path, FS)) as manifest:
            report = run_all(
                Maintenance(engine, manifest, self._clock).collecting(TimeStamp(int(safe_point)))
            )
        assert report is not None
        yield f"safe point {report.safe_point.ts}, {report.compaction.rows_dropped} dropped"

    def do_open(self, snapshot: str, ts: str) -> None:
        self._open[snapshot] = self._undo.enter_context(self._snapshot(ts))

    def do_close(self, snapshot: str) -> None:
        self._open.pop(snapshot).__exit__(None, None, None)

    def do_read(
        self, ts: str | None = None, snapshot: str | None = None, table: str = "t"
    ) -> list[str]:
        """Read a table."""
        if snapshot is not None:
            return _rows(self._open[snapshot], table)
        with self._snapshot(ts) as opened:
            return _rows(opened, table)

    def _snapshot(self, ts: str | None) -> ReadSnapshot:
        wanted = None if ts is None else TimeStamp(int(ts))
        return ReadSnapshot(self._path, wanted, FS, self._clock)


def _rows(snapshot: ReadSnapshot, table: str) -> list[str]:
    rows = [row for batch in snapshot.scan(f"db.{table}") for row in batch.to_pylist()]
    rows.sort(key=lambda row: row["id"])
    return [f"{row['id']} {_text(row['v'])}" for row in rows] or ["no rows"]


def _text(value: str | None) -> str:
    return "NULL" if value is None else value or "''"
