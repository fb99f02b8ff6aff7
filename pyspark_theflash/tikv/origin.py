"""Snapshots of a store that TiKV feeds: what a learner has applied, in files and in memory.

    timestamp   given, or PD's newest; PD keeps what it needs from then on (`ServiceSafePoint`)
    schema      that of the cluster, read up to the timestamp
    rows        for each table that is planned: a read index of every region, waited for; the
                cache at one moment, locks in the way resolved; and, taken after it, the files

Everything a scan needs is settled when it is planned. Its tasks read files and what was in memory
then (`tikv.overlay`), however long they take and whatever is applied meanwhile.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

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
from pyspark_theflash.cluster.resolve import LockResolver
from pyspark_theflash.read.plan.metadata import batch_of
from pyspark_theflash.storage.engine.api import EngineReader
from pyspark_theflash.storage.store.latch.lease import ReadLease
from pyspark_theflash.storage.store.manifest import View
from pyspark_theflash.storage.store.progress import Progress
from pyspark_theflash.storage.store.raft_fed import RAFT_FED_KIND
from pyspark_theflash.tidb.codec.key import RawKey, encode_record_key
from pyspark_theflash.tidb.schema.history import SchemaHistory
from pyspark_theflash.tidb.schema.model import TableInfo
from pyspark_theflash.tikv.learner_read import CatchUp, RegionLeaders
from pyspark_theflash.tikv.metadata import ROWS
from pyspark_theflash.tikv.overlay import OverlaidReader, Overlay, Overlays
from pyspark_theflash.tikv.read import Resolved, newest_rows, open_tables
from pyspark_theflash.tikv.region_store import RegionStore
from pyspark_theflash.tikv.tables import PhysicalTables, SchemaAt

_LOOK_MS: Final = 50
READ_WAIT_MS: Final = 30_000


class Tso(Protocol):
    """PD's clock."""

    def tso(self, deadline: Deadline) -> TimeStamp:
        """A timestamp above every one handed out before this call."""


class ServiceSafePoint(Protocol):
    """What keeps TiKV from collecting what is being read."""

    def ensure(self, snapshot_ts: TimeStamp) -> None:
        """Held from now on, as long as the latch on that timestamp lives.

        Raises:
            SnapshotTooOldError: it comes too late.
            PDUnavailableError, PDRefusedError: as PD says.
        """


@dataclass(frozen=True, slots=True)
class Replica:
    """A learner and the cluster that it follows, as reads need them.

    `memory_bytes`: with more than that kept for scans that are being read, memory is written out
    (`flush`) before the next is planned.
    """

    regions: RegionStore
    overlays: Overlays
    leaders: RegionLeaders
    resolver: LockResolver
    schema: SchemaAt
    clock: Tso
    hold: ServiceSafePoint
    flush: Callable[[], None]
    memory_bytes: int
    wait_ms: int = READ_WAIT_MS
    """How long a read may take to be planned where its caller does not say."""

    def reader(self, stored: EngineReader) -> EngineReader:
        """What reads the tasks of all scans that were planned here."""
        return OverlaidReader(stored, self.overlays)

    def origin(self, deadline: Deadline, *, may_wait: bool) -> "RaftReplicaSource":
        """Where the rows of one snapshot come from; see there."""
        return RaftReplicaSource(self, deadline, may_wait=may_wait)


class RaftReplicaSource:
    """An `Origin`, of one snapshot, for which there is time until the deadline.

    It waits for a timestamp that PD has not given out yet only with `may_wait`.
    """

    def __init__(self, replica: Replica, deadline: Deadline, *, may_wait: bool = False) -> None:
        self._replica, self._deadline, self._may_wait = replica, deadline, may_wait
        self._taken: dict[PhysicalTableID, Overlay] = {}

    def check_store(self, view: View, path: str) -> None:
        if not view.of_kind(RAFT_FED_KIND):
            raise UnsupportedError("a store that TiKV does not feed", path)

    def choose(self, view: View, wanted: TimeStamp | None) -> TimeStamp:
        now = self._replica.clock.tso(self._deadline)
        while wanted is not None and now < wanted:
            if not (self._may_wait and self._deadline.sleep_ms(_LOOK_MS)):
                raise NotCaughtUpError(now, wanted)
            now = self._replica.clock.tso(self._deadline)
        chosen = now if wanted is None else wanted
        _check_not_collected(view, chosen)
        return chosen

    def reader(self, stored: EngineReader) -> EngineReader:
        return OverlaidReader(stored, self._replica.overlays, self._taken)

    def confirm(self, view: View, lease: ReadLease) -> None:
        _check_not_collected(view, lease.snapshot_ts)
        self._replica.hold.ensure(lease.snapshot_ts)

    def history(self, view: View, snapshot_ts: TimeStamp) -> SchemaHistory:
        return self._replica.schema(snapshot_ts).history

    def check_table(self, view: View, table: TableInfo, snapshot_ts: TimeStamp) -> None:
        """TiKV feeds them all."""

    def view(self, table: TableInfo, view: View, engine: EngineReader, lease: ReadLease) -> View:
        """Of the files, once what they lack is in hand.

        Raises:
            KeyIsLockedError: a transaction in the way has not ended, by the policy.
            RegionBehindError, RegionNotReadableError, RegionEpochNotMatchError, RegionGapError,
            TiKVUnavailableError, PDUnavailableError: until the deadline, a region could not be
            read here.
        """
        replica, ts = self._replica, lease.snapshot_ts
        if replica.overlays.size_bytes > replica.memory_bytes:
            replica.flush()
        tables = replica.schema(ts)
        while True:
            removals = replica.regions.removals
            found = self._view_of(table, tables, engine, lease)
            # Of a region that leaves meanwhile, the files may have lost rows, though it was here
            # when the cache was looked at.
            if replica.regions.removals == removals:
                return found
            if not self._deadline.left_ms():
                raise TiKVUnavailableError("a region", "one leaves whenever it is read")

    def metadata(self, kind: str, table: TableInfo, schema: pa.Schema) -> pa.RecordBatch:
        return batch_of(ROWS[kind](self._replica.regions, table), schema)

    def _view_of(
        self, table: TableInfo, tables: PhysicalTables, engine: EngineReader, lease: ReadLease
    ) -> View:
        replica, ts = self._replica, lease.snapshot_ts
        catch_up = CatchUp(replica.leaders, replica.regions, replica.resolver, ts)
        views = catch_up.open(
            [_records(physical_id) for physical_id in table.physical_ids],
            lambda versions: open_tables(
                replica.regions, table.physical_ids, ts, versions=versions
            ),
            self._deadline,
        )
        for each in views:
            newest = newest_rows(each, tables, self._resolve)
            self._taken.pop(each.physical_id, None)
            if newest is not None:
                overlay = Overlay(lease, newest)
                replica.overlays.add(overlay)
                self._taken[each.physical_id] = overlay
        # After the cache's moment: what was written out in between is in both.
        return engine.read([])

    def _resolve(self, locks: Sequence[Lock], snapshot_ts: TimeStamp) -> Resolved:
        return self._replica.resolver.resolve(locks, snapshot_ts, self._deadline)


def _check_not_collected(view: View, snapshot_ts: TimeStamp) -> None:
    progress = Progress.of(view)
    if progress is None:
        raise NotCaughtUpError(0, snapshot_ts)
    if snapshot_ts < progress.oldest_ts:
        raise SnapshotTooOldError(snapshot_ts, progress.oldest_ts)


def _records(physical_id: PhysicalTableID) -> RawKeyRange:
    """The keys of all rows of a physical table."""
    start = encode_record_key(physical_id, b"")
    return RawKeyRange(start, RawKey(start[:-1] + bytes([start[-1] + 1])))
