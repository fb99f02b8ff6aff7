"""A replica's rows that the files do not have yet, laid over those that they have.

    region of the files    its rows without those of which there is a newer version in memory
    region 0               the newest versions in memory, where they are rows

What was in memory when a scan was planned is kept under an id, which the scan's regions carry, for
as long as the scan's read latch lives. It is in this process alone: once that has ended, who comes
with such a region is told that the latch has run out, and plans anew. Regions of which nothing is
in memory carry no id, and are read as the files have them.
"""

import threading
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from pyspark_theflash.base.clock import Clock
from pyspark_theflash.base.errors import CorruptionError, LeaseExpiredError, invariant
from pyspark_theflash.base.types import ColumnID, PhysicalTableID, RegionID, TimeStamp
from pyspark_theflash.storage.engine.api import (
    EngineReader,
    FileStats,
    Handle,
    HandleSet,
    PartitionStats,
    RegionScan,
    RegionStats,
    RowCondition,
    TableStats,
)
from pyspark_theflash.storage.mvcc.filter import filter_rows
from pyspark_theflash.storage.mvcc.project import ScanColumn, batch_of, dictionary_of
from pyspark_theflash.storage.mvcc.version import HANDLE, column_name
from pyspark_theflash.storage.store.latch.lease import ReadLease
from pyspark_theflash.storage.store.manifest import View
from pyspark_theflash.tikv.memory_versions import MemoryVersions

MEMORY_REGION: Final = RegionID(0)
"""No region of an engine has it."""
_MARK: Final = "memory:"


@dataclass(frozen=True, slots=True)
class Overlay:
    """The newest versions of rows of a physical table, for the scans of one latch."""

    lease: ReadLease
    newest: MemoryVersions
    id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def reaches(self, start: Handle | None, end: Handle | None) -> bool:
        """Whether there is any from `start` to before `end`; None for no bound."""
        handles = self.newest.handles.handles
        low = 0 if start is None else _place(handles, start)
        return low < (len(handles) if end is None else _place(handles, end))


class Overlays:
    """Those of all scans that somebody may still read. Thread-safe."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._mutex = threading.Lock()
        self._known: dict[str, Overlay] = {}
        self._used_ms: dict[str, int] = {}

    @property
    def size_bytes(self) -> int:
        """What they take in memory."""
        with self._mutex:
            kept = {id(each.newest): each.newest for each in self._known.values()}
            return sum(newest.size_bytes for newest in kept.values())

    def add(self, overlay: Overlay) -> None:
        """Keep one for its latch."""
        with self._mutex:
            self._known[overlay.id] = overlay
            self._used_ms[overlay.id] = self._clock.boottime_ms()

    def get(self, id: str, snapshot_ts: TimeStamp) -> Overlay:
        """Raises `LeaseExpiredError`: it is not there, or not any more."""
        with self._mutex:
            found = self._known.get(id)
            if found is None:
                raise LeaseExpiredError(id, snapshot_ts)
            self._used_ms[id] = self._clock.boottime_ms()
            return found

    def forget(self, living: Callable[[], Collection[str]]) -> None:
        """Forget what is kept for latches that are not among the living ones, which this asks for.

        Where the store has no room for latches, what nobody has used for as long as one lives.
        """
        # In this order: a scan that is planned in between has its latch before its memory.
        with self._mutex:
            known = list(self._known.values())
        ids = living() if known else ()
        now_ms = self._clock.boottime_ms()
        with self._mutex:
            for each in known:
                lease = each.lease
                is_used = lease.shared and now_ms < self._used_ms[each.id] + lease.ttl_ms
                if lease.id not in ids and not is_used:
                    del self._known[each.id], self._used_ms[each.id]


class OverlaidReader:
    """An `EngineReader`. `taken`: what was in memory of the tables that are planned with it."""

    def __init__(
        self,
        stored: EngineReader,
        overlays: Overlays,
        taken: "dict[PhysicalTableID, Overlay] | None" = None,
    ) -> None:
        self._stored, self._overlays = stored, overlays
        self._taken = {} if taken is None else taken

    def read(self, kinds: Sequence[str]) -> View:
        return self._stored.read(kinds)

    def plan(self, view: View, physical_id: PhysicalTableID) -> Sequence[RegionScan]:
        found = self._stored.plan(view, physical_id)
        overlay = self._taken.get(physical_id)
        if overlay is None:
            return found
        mark = _MARK + overlay.id
        bounds = {r.region_id: (r.start, r.end) for r in self._stored.regions(view, physical_id)}
        regions = [
            replace(region, parts=(mark, *region.parts))
            if overlay.reaches(*bounds[region.region_id])
            else region
            for region in found
        ]
        if overlay.newest.rows:
            regions.append(RegionScan(physical_id, MEMORY_REGION, (mark,)))
        return regions

    def scan(
        self,
        region: RegionScan,
        columns: Sequence[ScanColumn],
        snapshot_ts: TimeStamp,
        *,
        with_handle: bool = False,
        dictionaries: Collection[ColumnID] = (),
        as_stored: bool = False,
        condition: RowCondition | None = None,
        without: HandleSet | None = None,
    ) -> Iterator[pa.RecordBatch]:
        invariant(without is None, "rows are left out of files only")
        id, own = _split(region)
        newest = None if id is None else self._overlays.get(id, snapshot_ts).newest
        if newest is None or own.region_id != MEMORY_REGION:
            yield from self._stored.scan(
                own,
                columns,
                snapshot_ts,
                with_handle=with_handle,
                dictionaries=dictionaries,
                as_stored=as_stored,
                condition=condition,
                without=newest.handles if newest else None,
            )
            return
        asked = {c.id: c for c in (*columns, *(condition.columns if condition else ()))}
        names = [*[HANDLE] * with_handle, *(column_name(column.id) for column in columns)]
        for batch in newest.batches(list(asked.values()), with_handle=with_handle):
            kept = batch if condition is None else _kept(batch, condition)
            if kept.num_rows:
                arrays = [kept.column(name) for name in names]
                yield _encoded(batch_of(names, arrays, kept.num_rows), columns, dictionaries)

    def keys(
        self, view: View, physical_id: PhysicalTableID, start: Handle | None, end: Handle | None
    ) -> Iterator[pa.RecordBatch]:
        return self._stored.keys(view, physical_id, start, end)

    def repeating(self, region: RegionScan, columns: Sequence[ScanColumn]) -> Collection[ColumnID]:
        _, own = _split(region)
        return () if own.region_id == MEMORY_REGION else self._stored.repeating(own, columns)

    def never_null(self, region: RegionScan, columns: Sequence[ScanColumn]) -> Collection[ColumnID]:
        _, own = _split(region)
        return () if own.region_id == MEMORY_REGION else self._stored.never_null(own, columns)

    def tables(self, view: View) -> Sequence[PhysicalTableID]:
        taken = [physical_id for physical_id in self._taken if self.regions(view, physical_id)]
        return sorted({*self._stored.tables(view), *taken})

    def regions(self, view: View, physical_id: PhysicalTableID) -> Sequence[RegionStats]:
        found = self._stored.regions(view, physical_id)
        overlay = self._taken.get(physical_id)
        newest = None if overlay is None else overlay.newest
        if newest is None or not newest.rows:
            return found
        inside = RegionStats(MEMORY_REGION, None, None, 0, newest.rows, newest.size_bytes, 0)
        return [*found, inside]

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


def _split(region: RegionScan) -> tuple[str | None, RegionScan]:
    """The id that a region carries, and the region without it."""
    if region.parts and region.parts[0].startswith(_MARK):
        own = replace(region, parts=region.parts[1:])
        return region.parts[0].removeprefix(_MARK), own
    return None, region


def _kept(batch: pa.RecordBatch, condition: RowCondition) -> pa.RecordBatch:
    if not batch.num_rows:
        return batch
    names = [column_name(column.id) for column in condition.columns]
    arrays = [batch.column(name) for name in names]
    kept = condition.rows(batch_of(names, arrays, batch.num_rows))
    return filter_rows(batch, kept)


def _encoded(
    batch: pa.RecordBatch, columns: Sequence[ScanColumn], dictionaries: Collection[ColumnID]
) -> pa.RecordBatch:
    """The batch with those columns as dictionaries that are asked for so."""
    for column in columns:
        name = column_name(column.id)
        values = batch.column(name)
        if column.id in dictionaries and not pa.types.is_dictionary(values.type):
            encoded = pc.dictionary_encode(values).cast(dictionary_of(column.type))
            batch = batch.set_column(batch.schema.get_field_index(name), name, encoded)
    return batch


def _place(handles: pa.Array, handle: Handle) -> int:
    """How many of the sorted handles lie below."""
    low, high = 0, len(handles)
    while low < high:
        middle = (low + high) // 2
        if handles[middle].as_py() < handle:
            low = middle + 1
        else:
            high = middle
    return low
