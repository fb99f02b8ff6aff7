"""Reference engine: a simple implementation in memory.

Versions are Python tuples in a list, each with its position in the published batches. A scan
applies `visible_rows` to all of them. Other engines are compared with it.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pyspark_theflash.base.errors import CorruptionError, invariant
from pyspark_theflash.base.types import ColumnID, Generation, PhysicalTableID, RegionID, TimeStamp
from pyspark_theflash.storage.engine.api import (
    CompactionReport,
    FileStats,
    Handle,
    PartitionStats,
    Piece,
    Publication,
    RegionScan,
    RegionStats,
    ScanSpec,
    TableStats,
)
from pyspark_theflash.storage.engine.whole_tables import WholeTables
from pyspark_theflash.storage.mvcc.filter import filter_rows
from pyspark_theflash.storage.mvcc.project import ScanColumn, batch_of, copied_columns, project
from pyspark_theflash.storage.mvcc.version import COMMIT_TS, HANDLE, OP, START_TS, Op, column_name
from pyspark_theflash.storage.store.manifest import ManifestChange, View

Place = tuple[int, int]
"""Position of a version: index of the table's batch, and row in the batch."""
Version = tuple[Any, TimeStamp, Op, Place]


def visible_rows(
    versions: Iterable[tuple[Any, TimeStamp, Op, Any]], snapshot_ts: TimeStamp
) -> dict[Any, Any]:
    """Return the visible rows by handle, of (handle, commit_ts, op, row) in any order."""
    newest: dict[Any, tuple[TimeStamp, Op, Any]] = {}
    for handle, commit_ts, op, row in versions:
        if commit_ts <= snapshot_ts and (handle not in newest or commit_ts >= newest[handle][0]):
            newest[handle] = (commit_ts, op, row)
    return {handle: row for handle, (_, op, row) in newest.items() if op == Op.PUT}


class MemoryEngine(WholeTables):
    """Reference implementation of `Engine`."""

    engine_name = "the engine in memory"

    def __init__(self) -> None:
        self._generation = Generation(0)
        self._records: dict[str, dict[str, bytes]] = {}
        self._versions: dict[PhysicalTableID, list[Version]] = {}
        self._batches: dict[PhysicalTableID, list[pa.RecordBatch]] = {}

    def read(self, kinds: Sequence[str]) -> View:
        records = {kind: dict(sorted(self._records.get(kind, {}).items())) for kind in kinds}
        return View(self._generation, records)

    def publish(self, publication: Publication) -> Generation:
        for kind, key in publication.change.deletes:
            missing = key not in self._records.get(kind, {})
            invariant(not missing, f"no record {kind} {key} to delete")
        for versions in publication.versions:
            batches = self._batches.setdefault(versions.physical_id, [])
            keys = versions.batch.select([HANDLE, COMMIT_TS, OP]).to_pylist()
            self._versions.setdefault(versions.physical_id, []).extend(
                (key[HANDLE], TimeStamp(key[COMMIT_TS]), Op(key[OP]), (len(batches), row))
                for row, key in enumerate(keys)
            )
            batches.append(versions.batch)
        for kind, key in publication.change.deletes:
            del self._records[kind][key]
        for record in publication.change.puts:
            self._records.setdefault(record.kind, {})[record.key] = record.body
        self._generation = Generation(self._generation + 1)
        return self._generation

    def compact(
        self,
        physical_id: PhysicalTableID,
        columns: Sequence[ScanColumn],
        *,
        safe_point: TimeStamp | None = None,
        everything: bool = False,
    ) -> CompactionReport:
        """Drop all garbage; there are no files to merge."""
        versions = self._versions.get(physical_id, [])
        retained = versions if safe_point is None else list(_needed(versions, safe_point))
        if physical_id in self._versions:
            self._versions[physical_id] = retained
        return CompactionReport(
            rows_read=len(versions),
            rows_written=len(retained),
            rows_dropped=len(versions) - len(retained),
        )

    def begin(
        self,
        physical_id: PhysicalTableID,
        columns: Sequence[ScanColumn],
        *,
        everything_to: TimeStamp | None = None,
        garbage_to: TimeStamp | None = None,
    ) -> Piece | None:
        """Compact at once; the piece only returns the report."""
        report = self.compact(physical_id, columns, safe_point=garbage_to)
        return (lambda: report) if report.rows_dropped else None

    def partitions(self, view: View) -> Sequence[PartitionStats]:
        return ()

    def purge_range(
        self,
        physical_id: PhysicalTableID,
        start: Handle | None,
        end: Handle | None,
        columns: Sequence[ScanColumn],
        others: ManifestChange | None = None,
    ) -> CompactionReport:
        before = self._versions.get(physical_id, [])
        retained = [v for v in before if not _lies_within(v[0], start, end)]
        if physical_id in self._versions:
            self._versions[physical_id] = retained
        self.publish(Publication((), others or ManifestChange()))
        rows, left = len(before), len(retained)
        return CompactionReport(rows_read=rows, rows_written=left, rows_dropped=rows - left)

    def purge(self, physical_ids: Sequence[PhysicalTableID]) -> Generation:
        for physical_id in physical_ids:
            self._versions.pop(physical_id, None)
            self._batches.pop(physical_id, None)
        self._generation = Generation(self._generation + 1)
        return self._generation

    def tables(self, view: View) -> Sequence[PhysicalTableID]:
        return sorted(i for i, versions in self._versions.items() if versions)

    def regions(self, view: View, physical_id: PhysicalTableID) -> Sequence[RegionStats]:
        rows = len(self._versions.get(physical_id, []))
        return [RegionStats(RegionID(1), None, None, 0, rows, 0, 0)] if rows else []

    def stats(self, view: View, physical_id: PhysicalTableID) -> TableStats:
        return TableStats(0, len(self._versions.get(physical_id, [])), 0)

    def collectable(
        self, view: View, physical_id: PhysicalTableID, safe_point: TimeStamp
    ) -> TableStats:
        return self.stats(view, physical_id)

    def plan(self, view: View, physical_id: PhysicalTableID) -> Sequence[RegionScan]:
        has_rows = bool(self._versions.get(physical_id))
        return [RegionScan(physical_id, RegionID(1))] if has_rows else []

    def keys(
        self, view: View, physical_id: PhysicalTableID, start: Handle | None, end: Handle | None
    ) -> Iterator[pa.RecordBatch]:
        for number, batch in enumerate(self._batches.get(physical_id, [])):
            rows = [
                row
                for handle, _, _, (at, row) in self._versions.get(physical_id, [])
                if at == number and _lies_within(handle, start, end)
            ]
            yield batch.select([HANDLE, COMMIT_TS, OP]).take(pa.array(rows, pa.int64()))

    def versions(
        self,
        view: View,
        physical_id: PhysicalTableID,
        columns: Sequence[ScanColumn],
        start: Handle | None,
    ) -> Iterator[pa.RecordBatch]:
        batches = [_copied(batch, columns) for batch in self._batches.get(physical_id, [])]
        for handle, _, _, (number, row) in sorted(self._versions.get(physical_id, [])):
            if _lies_within(handle, start, None):
                yield batches[number].slice(row, 1)

    def repeating(self, region: RegionScan, columns: Sequence[ScanColumn]) -> Collection[ColumnID]:
        return ()

    def scan(self, region: RegionScan, spec: ScanSpec) -> Iterator[pa.RecordBatch]:
        places = visible_rows(self._versions[region.physical_id], spec.snapshot_ts).values()
        for number, batch in enumerate(self._batches[region.physical_id]):
            rows = batch.take(pa.array([row for at, row in places if at == number], pa.int64()))
            if spec.without is not None:
                excluded = pc.is_in(rows.column(HANDLE), value_set=spec.without.handles)
                rows = rows.filter(pc.invert(excluded))
            if spec.condition is not None:
                filtered = _projected(rows, spec.condition.columns)
                rows = filter_rows(rows, spec.condition.rows(filtered))
            stored = dict(zip(rows.schema.names, rows.columns, strict=True))
            handles = [stored[HANDLE]] * spec.with_handle
            values = project(stored, spec.columns, rows.num_rows)
            encoded = (
                v.dictionary_encode() if c.id in spec.dictionaries else v
                for c, v in zip(spec.columns, values, strict=True)
            )
            arrays = [*handles, *encoded]
            yield batch_of(spec.names, arrays, rows.num_rows)

    def never_null(self, region: RegionScan, columns: Sequence[ScanColumn]) -> Collection[ColumnID]:
        return ()

    def files(self, view: View, physical_id: PhysicalTableID) -> Sequence[FileStats]:
        return ()

    def check(self, view: View) -> Iterator[CorruptionError]:
        return iter(())

    def close(self) -> None:
        self._versions.clear()


def _lies_within(handle: Any, start: Handle | None, end: Handle | None) -> bool:
    return (start is None or handle >= start) and (end is None or handle < end)


def _copied(batch: pa.RecordBatch, columns: Sequence[ScanColumn]) -> pa.RecordBatch:
    """Return the versions of a batch with all columns and their absence masks."""
    stored = dict(zip(batch.schema.names, batch.columns, strict=True))
    system = {name: stored[name] for name in (HANDLE, COMMIT_TS, START_TS, OP)}
    copied = system | copied_columns(stored, columns, batch.num_rows)
    return batch_of(list(copied), list(copied.values()), batch.num_rows)


def _projected(rows: pa.RecordBatch, columns: Sequence[ScanColumn]) -> pa.RecordBatch:
    """Return the columns of a condition."""
    stored = dict(zip(rows.schema.names, rows.columns, strict=True))
    arrays = project(stored, columns, rows.num_rows)
    return batch_of([column_name(column.id) for column in columns], arrays, rows.num_rows)


def _needed(versions: list[Version], safe_point: TimeStamp) -> Iterator[Version]:
    """Yield the versions that a snapshot at or above the safe point may see."""
    newest: dict[Any, TimeStamp] = {}
    for handle, commit_ts, _, _ in versions:
        if commit_ts <= safe_point:
            newest[handle] = max(newest.get(handle, commit_ts), commit_ts)
    for version in versions:
        handle, commit_ts, op, _ = version
        if commit_ts > safe_point or (commit_ts == newest[handle] and op == Op.PUT):
            yield version
