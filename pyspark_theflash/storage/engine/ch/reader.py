"""The engine *ch*'s `EngineReader`."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pyspark_theflash.base.clock import Clock
from pyspark_theflash.base.errors import CorruptionError, UnsupportedError
from pyspark_theflash.base.fs import FileSystem
from pyspark_theflash.base.types import ColumnID, PhysicalTableID, RegionID, TimeStamp
from pyspark_theflash.storage.engine.api import (
    FileStats,
    Handle,
    HandleSet,
    PartitionStats,
    RegionScan,
    RegionStats,
    ScanSpec,
    TableStats,
)
from pyspark_theflash.storage.engine.ch.batch import (
    BATCH_KIND,
    META,
    RegionBatches,
    StoredBatch,
    batches_of,
    damages,
    load_batch,
    read_meta,
)
from pyspark_theflash.storage.engine.ch.column import StoredColumn, from_exchange, united
from pyspark_theflash.storage.engine.ch.query import Read, all_versions, visible, within
from pyspark_theflash.storage.engine.ch.session import session
from pyspark_theflash.storage.mvcc.filter import filter_rows
from pyspark_theflash.storage.mvcc.project import (
    Default,
    ScanColumn,
    batch_of,
    copied_columns,
    project,
    stored_names,
)
from pyspark_theflash.storage.mvcc.version import (
    COMMIT_TS,
    HANDLE,
    OP,
    START_TS,
    SUPERSEDED_TS,
    absence,
    column_name,
)
from pyspark_theflash.storage.store.folder import DATA_FOLDER, open_manifest
from pyspark_theflash.storage.store.manifest import View

_REGION = RegionID(1)
_SYSTEM = (HANDLE, COMMIT_TS, START_TS, OP)


class ClickHouseReader:
    """Reader of a store; opens no file for writing."""

    def __init__(self, path: Path, fs: FileSystem, clock: Clock) -> None:
        self._path, self._fs, self._clock = path, fs, clock
        self._data = path / DATA_FOLDER
        self._manifest = open_manifest(path, fs)

    def read(self, kinds: Sequence[str]) -> View:
        return self._manifest.read([*kinds, BATCH_KIND])

    def plan(self, view: View, physical_id: PhysicalTableID) -> Sequence[RegionScan]:
        batches = tuple(batches_of(view, physical_id))
        return [RegionScan(physical_id, _REGION, RegionBatches(batches))] if batches else []

    def scan(self, region: RegionScan, spec: ScanSpec) -> Iterator[pa.RecordBatch]:
        ts = spec.snapshot_ts
        batches = [each for each in RegionBatches.of(region).batches if each.min_ts <= ts]
        reads = self._load(batches)
        for number, read in enumerate(reads):
            yield from _rows(read, reads[number + 1 :], spec)

    def keys(
        self, view: View, physical_id: PhysicalTableID, start: Handle | None, end: Handle | None
    ) -> Iterator[pa.RecordBatch]:
        chosen = [each for each in batches_of(view, physical_id) if each.overlaps(start, end)]
        for _, loaded in self._load(chosen):
            sql = f"SELECT {HANDLE}, {COMMIT_TS}, {OP} FROM {loaded.sql}"  # noqa: S608
            yield from session().stream(f"{sql} WHERE {within(start, end)}", loaded.where)

    def versions(
        self,
        view: View,
        physical_id: PhysicalTableID,
        columns: Sequence[ScanColumn],
        start: Handle | None,
    ) -> Iterator[pa.RecordBatch]:
        chosen = [each for each in batches_of(view, physical_id) if each.overlaps(start, None)]
        if not chosen:
            return
        reads = self._load(chosen)
        stored = columns_of(reads)
        if stored is None:
            what = "versions whose values of a column have types of which none has all values"
            raise UnsupportedError(what, reads[0][1].where)
        sql = f"{all_versions(reads, stored, within(start, None))} ORDER BY {HANDLE}, {COMMIT_TS}"
        for batch in session().stream(sql, reads[0][1].where):
            rows = batch.drop_columns([SUPERSEDED_TS])
            arrays = _arrays(rows, {column.name: column for column in stored})
            system = {name: arrays[name] for name in _SYSTEM}
            copied = copied_columns(arrays, columns, batch.num_rows)
            yield pa.RecordBatch.from_pydict(system | copied)

    def repeating(self, region: RegionScan, columns: Sequence[ScanColumn]) -> Collection[ColumnID]:
        return ()

    def never_null(self, region: RegionScan, columns: Sequence[ScanColumn]) -> Collection[ColumnID]:
        ids = {c.id for c in columns if isinstance(c.fill, Default)}
        for batch in RegionBatches.of(region).batches:
            meta = read_meta(self._data, batch)
            full = {column.name for column in meta.columns if not column.has_null}
            ids = {i for i in ids if column_name(i) in full}
            ids = {i for i in ids if column_name(absence(i)) not in meta.names}
        return ids

    def tables(self, view: View) -> Sequence[PhysicalTableID]:
        return sorted({PhysicalTableID(batch.physical_id) for batch in batches_of(view)})

    def regions(self, view: View, physical_id: PhysicalTableID) -> Sequence[RegionStats]:
        size = self.stats(view, physical_id)
        whole = RegionStats(_REGION, None, None, size.files, size.rows, size.bytes, 0)
        return [whole] if size.files else []

    def stats(self, view: View, physical_id: PhysicalTableID) -> TableStats:
        return _stats(batches_of(view, physical_id))

    def collectable(
        self, view: View, physical_id: PhysicalTableID, safe_point: TimeStamp
    ) -> TableStats:
        batches = batches_of(view, physical_id)
        is_collectable = any(batch.min_ts <= safe_point for batch in batches)
        return _stats(batches if is_collectable else [])

    def files(self, view: View, physical_id: PhysicalTableID) -> Sequence[FileStats]:
        return [
            FileStats(
                _REGION,
                batch.path + META,
                "parts",
                batch.rows,
                batch.size_bytes,
                TimeStamp(batch.min_ts),
                TimeStamp(batch.max_ts),
            )
            for batch in batches_of(view, physical_id)
        ]

    def partitions(self, view: View) -> Sequence[PartitionStats]:
        return ()

    def check(self, view: View) -> Iterator[CorruptionError]:
        for batch in batches_of(view):
            yield from damages(self._data, batch)

    def close(self) -> None:
        self._manifest.close()

    def _load(self, batches: Sequence[StoredBatch]) -> list[Read]:
        return [(batch, load_batch(self._data, batch)) for batch in batches]


def columns_of(reads: Sequence[Read]) -> list[StoredColumn] | None:
    """Return the columns of the rows of several batches; None if their types do not fit."""
    columns = united([loaded.meta.columns for _, loaded in reads])
    return columns and [column for column in columns if column.name != SUPERSEDED_TS]


def _rows(read: Read, newer: Sequence[Read], spec: ScanSpec) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a batch that a scan returns."""
    loaded = read[1]
    condition = spec.condition
    compared = () if condition is None else condition.columns
    needed = stored_names([*compared, *spec.columns])
    stored = {column.name: column for column in loaded.meta.columns}
    names = [HANDLE] * (spec.with_handle or spec.without is not None)
    names += [name for name in needed if name in stored]
    for batch in session().stream(visible(read, newer, spec.snapshot_ts, names), loaded.where):
        rows = batch if spec.without is None else _left(batch, spec.without)
        arrays = _arrays(rows, stored)
        if condition is not None:
            ids = [column_name(column.id) for column in compared]
            values = batch_of(ids, project(arrays, compared, rows.num_rows), rows.num_rows)
            rows = filter_rows(rows, condition.rows(values))
            arrays = _arrays(rows, stored)
        values = [
            value.dictionary_encode() if column.id in spec.dictionaries else value
            for column, value in zip(
                spec.columns, project(arrays, spec.columns, rows.num_rows), strict=True
            )
        ]
        handles = [arrays[HANDLE]] if spec.with_handle else []
        yield batch_of(spec.names, [*handles, *values], rows.num_rows)


def _left(batch: pa.RecordBatch, without: HandleSet) -> pa.RecordBatch:
    return batch.filter(pc.invert(pc.is_in(batch.column(HANDLE), value_set=without.handles)))


def _arrays(batch: pa.RecordBatch, stored: Mapping[str, StoredColumn]) -> dict[str, pa.Array]:
    """Return the columns of ClickHouse's batch in the types of the store."""
    return {
        name: from_exchange(values, stored[name].type)
        for name, values in zip(batch.schema.names, batch.columns, strict=True)
    }


def _stats(batches: Sequence[StoredBatch]) -> TableStats:
    rows, size = sum(each.rows for each in batches), sum(each.size_bytes for each in batches)
    return TableStats(len(batches), rows, size)
