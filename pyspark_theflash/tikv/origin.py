"""Plan snapshots of a store replicated by a learner, from its files and its memory.

    timestamp   the requested one, or a new one of PD; a service safe point in PD protects it from
                TiKV's GC (`SharedHold`)
    schema      the cluster's, read up to the timestamp
    rows        for each planned table: wait for the read index of every region, take a consistent
                view of the cache, resolve blocking locks, and then take a view of the files

A planned scan is fixed: its tasks read the files and the memory as of planning (`tikv.overlay`),
regardless of how long they take and of what is applied later.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from pyspark_theflash.base.clock import Deadline
from pyspark_theflash.base.errors import (
    NotCaughtUpError,
    SnapshotTooOldError,
    TiKVUnavailableError,
    UnsupportedError,
)
from pyspark_theflash.base.types import PhysicalTableID, TimeStamp
from pyspark_theflash.cluster.located import RawKeyRange
from pyspark_theflash.cluster.lock import Lock
from pyspark_theflash.cluster.resolve import LockResolver, ResolvedLocks
from pyspark_theflash.read.plan.metadata import batch_of
from pyspark_theflash.replication.apply.tables import PhysicalTables, SchemaAt
from pyspark_theflash.storage.engine.api import EngineReader
from pyspark_theflash.storage.store.latch.lease import ReadLease
from pyspark_theflash.storage.store.manifest import View
from pyspark_theflash.storage.store.progress import Progress
from pyspark_theflash.storage.store.raft_fed import RAFT_FED_KIND
from pyspark_theflash.tidb.codec.key import encode_record_key
from pyspark_theflash.tidb.schema.history import SchemaHistory
from pyspark_theflash.tidb.schema.model import TableInfo
from pyspark_theflash.tikv.learner_read import CatchUp, RegionLeaders
from pyspark_theflash.tikv.metadata import ROWS
from pyspark_theflash.tikv.overlay import OverlaidReader, Overlay, Overlays
from pyspark_theflash.tikv.read import newest_rows, open_tables
from pyspark_theflash.tikv.region_store import RegionStore

_POLL_MS: Final = 50
READ_WAIT_MS: Final = 30_000


@dataclass(frozen=True, slots=True)
class Replica:
    """A learner and its cluster, as needed by reads.

    If overlays of open scans exceed `memory_bytes`, `flush` publishes the cache before the next
    scan is planned.
    """

    regions: RegionStore
    overlays: Overlays
    leaders: RegionLeaders
    resolver: LockResolver
    schema: SchemaAt
    now: Callable[[Deadline], TimeStamp]
    """Returns a new timestamp of PD."""
    hold: Callable[[TimeStamp], None]
    """Protects a timestamp until its read latch is released; see `SharedHold.ensure`."""
    flush: Callable[[], None]
    memory_bytes: int
    wait_ms: int = READ_WAIT_MS
    """The default deadline for planning a read."""

    def reader(self, stored: EngineReader) -> EngineReader:
        """Return a reader for the tasks of all scans planned here."""
        return OverlaidReader(stored, self.overlays)

    def origin(self, deadline: Deadline, *, may_wait: bool) -> "RaftReplicaSource":
        """Return an origin for one snapshot."""
        return RaftReplicaSource(self, deadline, may_wait=may_wait)


class RaftReplicaSource:
    """An `Origin` of one snapshot, which must be planned by the deadline.

    With `may_wait`, it waits for a timestamp that PD has not allocated yet.
    """

    def __init__(self, replica: Replica, deadline: Deadline, *, may_wait: bool = False) -> None:
        self._replica, self._deadline, self._may_wait = replica, deadline, may_wait
        self._overlays: dict[PhysicalTableID, Overlay] = {}

    def check_store(self, view: View, path: str) -> None:
        if not view.of_kind(RAFT_FED_KIND):
            raise UnsupportedError("a store that TiKV does not feed", path)

    def choose(self, view: View, wanted: TimeStamp | None) -> TimeStamp:
        now = self._replica.now(self._deadline)
        while wanted is not None and now < wanted:
            if not (self._may_wait and self._deadline.sleep_ms(_POLL_MS)):
                raise NotCaughtUpError(now, wanted)
            now = self._replica.now(self._deadline)
        chosen = now if wanted is None else wanted
        _check_not_collected(view, chosen)
        return chosen

    def reader(self, stored: EngineReader) -> EngineReader:
        return OverlaidReader(stored, self._replica.overlays, self._overlays)

    def confirm(self, view: View, lease: ReadLease) -> None:
        _check_not_collected(view, lease.snapshot_ts)
        self._replica.hold(lease.snapshot_ts)

    def history(self, view: View, snapshot_ts: TimeStamp) -> SchemaHistory:
        return self._replica.schema(snapshot_ts).history

    def check_table(self, view: View, table: TableInfo, snapshot_ts: TimeStamp) -> None:
        """Accept every table: TiKV replicates all of them."""

    def view(self, table: TableInfo, view: View, engine: EngineReader, lease: ReadLease) -> View:
        """Create overlays of the rows in memory, then return a view of the files.

        Raises:
            KeyIsLockedError: A blocking transaction has not ended, by the resolver's policy.
            RegionBehindError, RegionNotReadableError, RegionEpochNotMatchError, RegionGapError,
            TiKVUnavailableError, PDUnavailableError: A region could not be read in this replica
                until the deadline.
        """
        replica, ts = self._replica, lease.snapshot_ts
        if replica.overlays.size_bytes > replica.memory_bytes:
            replica.flush()
        tables = replica.schema(ts)
        while True:
            removals = replica.regions.removals
            files_view = self._view_of(table, tables, engine, lease)
            # If a region was removed after the view of the cache was taken, its rows may have been
            # purged from the files.
            if replica.regions.removals == removals:
                return files_view
            if not self._deadline.left_ms():
                raise TiKVUnavailableError("a region", "was removed during each attempt to read")

    def metadata(self, kind: str, table: TableInfo, schema: pa.Schema) -> pa.RecordBatch:
        return batch_of(ROWS[kind](self._replica.regions, table), schema)

    def _view_of(
        self, table: TableInfo, tables: PhysicalTables, engine: EngineReader, lease: ReadLease
    ) -> View:
        replica, ts = self._replica, lease.snapshot_ts
        catch_up = CatchUp(replica.leaders, replica.regions, replica.resolver, ts)
        views = catch_up.open(
            [RawKeyRange.of_prefix(encode_record_key(i, b"")) for i in table.physical_ids],
            lambda versions: open_tables(
                replica.regions, table.physical_ids, ts, versions=versions
            ),
            self._deadline,
        )
        for each in views:
            newest = newest_rows(each, tables, self._resolve)
            self._overlays.pop(each.physical_id, None)
            if newest is not None:
                overlay = Overlay(lease, newest)
                replica.overlays.add(overlay)
                self._overlays[each.physical_id] = overlay
        # Taken after the view of the cache, so that rows published in between are in both.
        return engine.read([])

    def _resolve(self, locks: Sequence[Lock], snapshot_ts: TimeStamp) -> ResolvedLocks:
        return self._replica.resolver.resolve(locks, snapshot_ts, self._deadline)


def _check_not_collected(view: View, snapshot_ts: TimeStamp) -> None:
    progress = Progress.of(view)
    if progress is None:
        raise NotCaughtUpError(0, snapshot_ts)
    if snapshot_ts < progress.oldest_ts:
        raise SnapshotTooOldError(snapshot_ts, progress.oldest_ts)
