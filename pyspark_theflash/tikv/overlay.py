"""Overlays: rows in a learner's memory, merged with the files when a scan is read.

    region of the files    its rows except those with a version in memory
    region 0               the newest versions in memory that are not deletes

The versions in memory at planning are retained under an id, which is part of the scan's regions,
until the scan's read latch is released. They exist in this process only: after a restart, a task
with such an id fails with `LeaseExpiredError`, and its scan must be planned again. A region without
rows in memory has no id, and is read from the files alone.
"""

import threading
import uuid
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from pyspark_theflash.base.clock import Clock
from pyspark_theflash.base.errors import (
    CorruptionError,
    LeaseExpiredError,
    UnsupportedError,
    invariant,
)
from pyspark_theflash.base.types import ColumnID, PhysicalTableID, RegionID, TimeStamp
from pyspark_theflash.storage.engine.api import (
    EngineReader,
    FileStats,
    Handle,
    PartitionStats,
    RegionScan,
    RegionStats,
    RowCondition,
    ScanSpec,
    TableStats,
)
from pyspark_theflash.storage.mvcc.filter import filter_rows
from pyspark_theflash.storage.mvcc.project import ScanColumn, batch_of, dictionary_of
from pyspark_theflash.storage.mvcc.version import column_name
from pyspark_theflash.storage.store.latch.lease import ReadLease
from pyspark_theflash.storage.store.manifest import View
from pyspark_theflash.tikv.memory_versions import MemoryVersions

MEMORY_REGION: Final = RegionID(0)
"""The id of the region in memory; engines do not use it."""


@dataclass(frozen=True, slots=True)
class Overlay:
    """The newest versions in memory of a physical table, for scans under one read latch."""

    lease: ReadLease
    newest: MemoryVersions
    id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def reaches(self, start: Handle | None, end: Handle | None) -> bool:
        """Return whether a handle is in [start, end); None means no bound."""
        handles = self.newest.handles.handles

        def count_below(handle: Handle) -> int:
            return bisect_left(handles, handle, key=pa.Scalar.as_py)

        low = 0 if start is None else count_below(start)
        return low < (len(handles) if end is None else count_below(end))


class Overlays:
    """The overlays of all open scans, by id. Thread-safe."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._mutex = threading.Lock()
        self._by_id: dict[str, Overlay] = {}
        self._used_ms: dict[str, int] = {}

    @property
    def size_bytes(self) -> int:
        """The size in memory of all overlays."""
        with self._mutex:
            distinct = {id(each.newest): each.newest for each in self._by_id.values()}
            return sum(newest.size_bytes for newest in distinct.values())

    def add(self, overlay: Overlay) -> None:
        """Retain an overlay for its latch."""
        with self._mutex:
            self._by_id[overlay.id] = overlay
            self._used_ms[overlay.id] = self._clock.boottime_ms()

    def get(self, id: str, snapshot_ts: TimeStamp) -> Overlay:
        """Return an overlay. Raises `LeaseExpiredError` if it does not exist any more."""
        with self._mutex:
            overlay = self._by_id.get(id)
            if overlay is None:
                raise LeaseExpiredError(id, snapshot_ts)
            self._used_ms[id] = self._clock.boottime_ms()
            return overlay

    def forget(self, living: Callable[[], Collection[str]]) -> None:
        """Drop the overlays of released latches; `living` returns the ids of active latches.

        If the store has no room for latch records, drop those not used for a latch's TTL.
        """
        # In this order, because a scan takes its latch before it adds its overlay.
        with self._mutex:
            overlays = list(self._by_id.values())
        ids = living() if overlays else ()
        now_ms = self._clock.boottime_ms()
        with self._mutex:
            for each in overlays:
                lease = each.lease
                is_used = lease.shared and now_ms < self._used_ms[each.id] + lease.ttl_ms
                if lease.id not in ids and not is_used:
                    del self._by_id[each.id], self._used_ms[each.id]


class OverlaidReader:
    """An `EngineReader` that merges overlays; `planned` are those of tables planned with it."""

    def __init__(
        self,
        stored: EngineReader,
        overlays: Overlays,
        planned: "dict[PhysicalTableID, Overlay] | None" = None,
    ) -> None:
        self._stored, self._overlays = stored, overlays
        self._planned = {} if planned is None else planned

    def read(self, kinds: Sequence[str]) -> View:
        return self._stored.read(kinds)

    def plan(self, view: View, physical_id: PhysicalTableID) -> Sequence[RegionScan]:
        stored = self._stored.plan(view, physical_id)
        overlay = self._planned.get(physical_id)
        if overlay is None:
            return stored
        bounds = {r.region_id: (r.start, r.end) for r in self._stored.regions(view, physical_id)}
        regions = [
            replace(region, overlay=overlay.id)
            if overlay.reaches(*bounds[region.region_id])
            else region
            for region in stored
        ]
        if overlay.newest.rows:
            regions.append(RegionScan(physical_id, MEMORY_REGION, overlay=overlay.id))
        return regions

    def scan(self, region: RegionScan, spec: ScanSpec) -> Iterator[pa.RecordBatch]:
        invariant(spec.without is None, "an overlay excludes rows of files by itself")
        id = region.overlay
        newest = None if id is None else self._overlays.get(id, spec.snapshot_ts).newest
        if newest is None or region.region_id != MEMORY_REGION:
            without = newest.handles if newest else None
            yield from self._stored.scan(region, replace(spec, without=without))
            return
        condition = spec.condition
        needed = {c.id: c for c in (*spec.columns, *(condition.columns if condition else ()))}
        for batch in newest.batches(
            list(needed.values()), with_handle=spec.with_handle, budget=spec.budget
        ):
            matching = batch if condition is None else _matching(batch, condition)
            if matching.num_rows:
                arrays = [matching.column(name) for name in spec.names]
                result = batch_of(spec.names, arrays, matching.num_rows)
                yield _encoded(result, spec.columns, spec.dictionaries)

    def keys(
        self, view: View, physical_id: PhysicalTableID, start: Handle | None, end: Handle | None
    ) -> Iterator[pa.RecordBatch]:
        return self._stored.keys(view, physical_id, start, end)

    def versions(
        self,
        view: View,
        physical_id: PhysicalTableID,
        columns: Sequence[ScanColumn],
        start: Handle | None,
    ) -> Iterator[pa.RecordBatch]:
        raise UnsupportedError("copying versions", "a store that TiKV feeds")

    def repeating(self, region: RegionScan, columns: Sequence[ScanColumn]) -> Collection[ColumnID]:
        if region.region_id == MEMORY_REGION:
            return ()
        return self._stored.repeating(region, columns)

    def never_null(self, region: RegionScan, columns: Sequence[ScanColumn]) -> Collection[ColumnID]:
        if region.region_id == MEMORY_REGION:
            return ()
        return self._stored.never_null(region, columns)

    def tables(self, view: View) -> Sequence[PhysicalTableID]:
        planned = [physical_id for physical_id in self._planned if self.regions(view, physical_id)]
        return sorted({*self._stored.tables(view), *planned})

    def regions(self, view: View, physical_id: PhysicalTableID) -> Sequence[RegionStats]:
        stored = self._stored.regions(view, physical_id)
        overlay = self._planned.get(physical_id)
        newest = None if overlay is None else overlay.newest
        if newest is None or not newest.rows:
            return stored
        in_memory = RegionStats(MEMORY_REGION, None, None, 0, newest.rows, newest.size_bytes, 0)
        return [*stored, in_memory]

    def collectable(
        self, view: View, physical_id: PhysicalTableID, safe_point: TimeStamp
    ) -> TableStats:
        return self._stored.collectable(view, physical_id, safe_point)

    def stats(self, view: View, physical_id: PhysicalTableID) -> TableStats:
        return self._stored.stats(view, physical_id)

    def files(self, view: View, physical_id: PhysicalTableID) -> Sequence[FileStats]:
        return self._stored.files(view, physical_id)

    def partitions(self, view: View) -> Sequence[PartitionStats]:
        return self._stored.partitions(view)

    def check(self, view: View) -> Iterator[CorruptionError]:
        return self._stored.check(view)

    def close(self) -> None:
        self._stored.close()


def _matching(batch: pa.RecordBatch, condition: RowCondition) -> pa.RecordBatch:
    if not batch.num_rows:
        return batch
    names = [column_name(column.id) for column in condition.columns]
    arrays = [batch.column(name) for name in names]
    return filter_rows(batch, condition.rows(batch_of(names, arrays, batch.num_rows)))


def _encoded(
    batch: pa.RecordBatch, columns: Sequence[ScanColumn], dictionaries: Collection[ColumnID]
) -> pa.RecordBatch:
    """Dictionary-encode the columns in `dictionaries`."""
    for column in columns:
        name = column_name(column.id)
        values = batch.column(name)
        if column.id in dictionaries and not pa.types.is_dictionary(values.type):
            encoded = pc.dictionary_encode(values).cast(dictionary_of(column.type))
            batch = batch.set_column(batch.schema.get_field_index(name), name, encoded)
    return batch
