"""Scripts of visibility: the versions of a row that a snapshot of a store on disk sees.

put, delete   add a version of a row (of db.t unless `table` is given) to the next publication
publish       write the added versions as one file for each table, readable up to resolved_ts
collect       run a garbage collection with this safe point
open, close   open a snapshot that is kept under a name; close it
read          the rows of a table in a new snapshot, or in one that is open
stored        every version as it is stored: its file, its end, the version that it replaces
"""

from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.base.types import MAX_TS, TimeStamp
from pyspark_theflash.read.plan.snapshot import ReadSnapshot
from pyspark_theflash.replication.upkeep.maintenance import Maintenance
from pyspark_theflash.replication.upkeep.work_queue import run_all
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.storage.engine.magic.file import FILE_KIND, DataFile
from pyspark_theflash.storage.mvcc.version import Op
from pyspark_theflash.storage.store.folder import open_manifest, read_identity
from pyspark_theflash.tidb.codec.field_type import MySQLType
from tests.support.manual_clock import ManualClock
from tests.support.script import check_script, script_paths
from tests.support.stores import StoreBuilder, Version, column, id_column, table_info

FS = LocalFileSystem()
TABLES = {
    name: table_info(number, f"db.{name}", [id_column(), column("v", MySQLType.VARCHAR)])
    for number, name in ((1, "t"), (2, "u"))
}


class Visibility:
    """A store of two tables, db.t and db.u, each with an integer key and a text."""

    def __init__(self, folder: Path) -> None:
        self._path, self._clock = folder / "store", ManualClock()
        self._builder = StoreBuilder(self._path, *TABLES.values())
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
        versions = {TABLES[name]: rows for name, rows in self._added.items()}
        self._builder.publish(int(resolved_ts), versions)
        self._added.clear()

    def do_collect(self, safe_point: str) -> Iterator[str]:
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
        if snapshot is not None:
            return _rows(self._open[snapshot], table)
        with self._snapshot(ts) as opened:
            return _rows(opened, table)

    def do_stored(self) -> Iterator[str]:
        with closing(open_manifest(self._path, FS)) as manifest:
            records = manifest.read([FILE_KIND]).of_kind(FILE_KIND).values()
        files = sorted(map(DataFile.from_json, records), key=lambda f: f.number)
        order = {info.number: place for place, info in enumerate(files, 1)}
        for info in files:
            rows = pq.read_table(self._path / "data" / info.path).to_pylist()
            for place, version in enumerate(rows):
                op = Op(version["_op"]).name.lower()
                end = version["_superseded_ts"]
                yield (
                    f"file {order[info.number]} place {place}: row {version['_handle']}"
                    f" {op}@{version['_commit_ts']}"
                    + (f", superseded at {end}" if end != MAX_TS else "")
                    + _replaced(order.get(version["_previous_file"]), version["_previous_row"])
                )

    def _snapshot(self, ts: str | None) -> ReadSnapshot:
        wanted = None if ts is None else TimeStamp(int(ts))
        return ReadSnapshot(self._path, wanted, FS, self._clock)


def _replaced(file: int | None, place: int | None) -> str:
    return "" if file is None else f", replaces file {file} place {place}"


def _rows(snapshot: ReadSnapshot, table: str) -> list[str]:
    rows = [row for batch in snapshot.scan(f"db.{table}") for row in batch.to_pylist()]
    rows.sort(key=lambda row: row["id"])
    return [f"{row['id']} {_text(row['v'])}" for row in rows] or ["no rows"]


def _text(value: str | None) -> str:
    return "NULL" if value is None else value or "''"


@pytest.mark.parametrize("path", script_paths("visibility"), ids=lambda path: path.stem)
def test_script(path: Path, tmp_path: Path) -> None:
    check_script(path, Visibility(tmp_path))
