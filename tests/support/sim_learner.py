"""A learner of a `SimCluster`: each region's log, and a replica that applies it at any time.

Changes of keys by transactions are appended to the log of the key's region at that time; a split is
an entry, too. Only the replica's copies are read.
"""

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from pyspark_theflash.base.clock import Deadline
from pyspark_theflash.base.errors import (
    RegionBehindError,
    RegionEpochNotMatchError,
    RegionGapError,
    RegionNotReadableError,
)
from pyspark_theflash.base.types import RegionID, TimeStamp
from pyspark_theflash.cluster.located import LocatedRegion, RawKeyRange
from pyspark_theflash.cluster.lock import Lock
from pyspark_theflash.cluster.resolve import (
    SecondaryLocks,
    StatusCheck,
    TxnStatus,
)
from pyspark_theflash.tidb.codec.key import RawKey
from tests.support.percolator import Percolator, Record
from tests.support.sim_cluster import SimCluster, SimRegion

T = TypeVar("T")
Pairs = list[tuple[bytes, bytes]]


@dataclass
class KeyEntry:
    """The state of a key from this entry on."""

    key: bytes
    lock: Lock | None
    records: list[Record]


@dataclass
class SplitEntry:
    """The region keeps `start`..`end` at `version`; another one gets the rest."""

    start: bytes
    end: bytes
    version: int
    other: tuple[int, bytes, bytes]


class LoggedCluster(SimCluster):
    """Also a `RegionLeaders`, whose cache of regions is updated after rejected calls only."""

    def __init__(self) -> None:
        super().__init__()
        self.logs: dict[int, list[KeyEntry | SplitEntry]] = {1: []}
        self.max_ts = 0
        self.cached = [region.located() for region in self.sorted()]
        self.tick: Callable[[], None] = lambda: None
        """Called whenever a reader waits, or could be overtaken."""

    def run(self, change: Callable[[], T]) -> T:
        """Run a change by transactions, and log its effects."""
        locks, records = dict(self.tikv.locks), {k: list(r) for k, r in self.tikv.records.items()}
        try:
            return change()
        finally:
            for key in sorted(self.tikv.locks.keys() | self.tikv.records.keys() | locks.keys()):
                lock, now = self.tikv.locks.get(key), list(self.tikv.records.get(key, ()))
                if (lock, now) != (locks.get(key), records.get(key, [])):
                    self._append(self.region_of(key), KeyEntry(key, lock, now))

    def split(self, key: bytes, *, new_is_left: bool = False) -> SimRegion:
        old = self.region_of(key)
        new = super().split(key, new_is_left=new_is_left)
        if new is not old:
            other = (new.id, new.start, new.end)
            self.logs[old.id].append(SplitEntry(old.start, old.end, old.epoch.version, other))
            self.logs[new.id] = []
        return new

    def cover(
        self, ranges: Sequence[RawKeyRange], deadline: Deadline
    ) -> list[tuple[LocatedRegion, list[RawKeyRange]]]:
        self.tick()
        covering = [(region, region.parts_of(ranges)) for region in self.cached]
        return [(region, parts) for region, parts in covering if parts]

    def read_index(
        self,
        region: LocatedRegion,
        ranges: Sequence[RawKeyRange],
        snapshot_ts: TimeStamp,
        deadline: Deadline,
    ) -> int | Lock | None:
        self.tick()
        now = self.regions.get(region.id)
        if now is None or now.located() != region or now.leader is None:
            self.cached = [each.located() for each in self.sorted()]
            return None
        self.max_ts = max(self.max_ts, snapshot_ts)
        for key, lock in self.memory_locks.items():
            if any(RawKey(key) in keys for keys in ranges) and lock.blocks(snapshot_ts):
                return lock
        return now.index

    def _append(self, region: SimRegion, entry: KeyEntry) -> None:
        self.logs[region.id].append(entry)
        region.index += 1


class LoggedTransactions:
    """A `Transactions` of the cluster, whose changes are logged."""

    def __init__(self, cluster: LoggedCluster) -> None:
        self._cluster = cluster

    def now(self, deadline: Deadline) -> TimeStamp:
        return self._cluster.tikv.now(deadline)

    def check_status(self, check: StatusCheck, deadline: Deadline) -> TxnStatus:
        cluster = self._cluster
        return cluster.run(lambda: cluster.tikv.check_status(check, deadline))

    def check_secondaries(
        self, keys: Sequence[RawKey], start_ts: TimeStamp, deadline: Deadline
    ) -> Sequence[SecondaryLocks]:
        cluster = self._cluster
        return cluster.run(lambda: cluster.tikv.check_secondaries(keys, start_ts, deadline))

    def resolve(
        self,
        keys: Sequence[RawKey],
        start_ts: TimeStamp,
        commit_ts: TimeStamp,
        deadline: Deadline,
    ) -> None:
        cluster = self._cluster
        cluster.run(lambda: cluster.tikv.resolve(keys, start_ts, commit_ts, deadline))


@dataclass
class AppliedRegion:
    """A region in the replica."""

    start: bytes
    end: bytes
    version: int
    applied: int = 5


@dataclass
class SimReplica:
    """The replica of a learner, which begins with the cluster's first region, still empty."""

    cluster: LoggedCluster
    regions: dict[int, AppliedRegion] = field(
        default_factory=lambda: {1: AppliedRegion(b"", b"", 1)}
    )
    keys: Percolator = field(default_factory=Percolator)

    def apply(self, number: int) -> None:
        """Apply the next entry of one of the regions that have one."""
        waiting = [i for i, r in sorted(self.regions.items()) if self._next(i, r) is not None]
        if waiting:
            self._apply(waiting[number % len(waiting)])

    def apply_all(self) -> None:
        while any(self._next(i, r) is not None for i, r in self.regions.items()):
            self.apply(0)

    def wait_applied(self, region_id: RegionID, index: int, deadline: Deadline) -> None:
        while True:
            region = self.regions.get(region_id)
            if region is None:
                raise RegionNotReadableError(region_id, "is not in this store")
            if region.applied >= index:
                return
            if not deadline.sleep_ms(5):
                raise RegionBehindError(region_id, region.applied, index)

    def open_at(self, ranges: Sequence[RawKeyRange], versions: dict[RegionID, int]) -> Percolator:
        """Return all keys, if the regions of the ranges have these versions."""
        parts = []
        for region_id, region in self.regions.items():
            keys = RawKeyRange(RawKey(region.start), RawKey(region.end))
            if all(each.clip(keys.start, keys.end) is None for each in ranges):
                continue
            wanted = versions.get(RegionID(region_id))
            if wanted != region.version:
                raise RegionEpochNotMatchError(region_id, wanted or 0, region.version)
            parts.append(keys)
        for each in ranges:
            gap = _first_gap(each, parts)
            if gap is not None:
                raise RegionGapError(gap.start.hex(), gap.end.hex())
        return copy.deepcopy(self.keys)

    def _next(self, region_id: int, region: AppliedRegion) -> KeyEntry | SplitEntry | None:
        log, at = self.cluster.logs[region_id], region.applied - 5
        return log[at] if at < len(log) else None

    def _apply(self, region_id: int) -> None:
        region = self.regions[region_id]
        entry = self._next(region_id, region)
        region.applied += 1
        if isinstance(entry, SplitEntry):
            region.start, region.end, region.version = entry.start, entry.end, entry.version
            other, start, end = entry.other
            self.regions[other] = AppliedRegion(start, end, entry.version)
        elif entry is not None:
            self.keys.records[entry.key] = entry.records
            self.keys.locks.pop(entry.key, None)
            if entry.lock is not None:
                self.keys.locks[entry.key] = entry.lock


def _first_gap(keys: RawKeyRange, parts: Iterable[RawKeyRange]) -> RawKeyRange | None:
    """Return the first subrange that no part covers; None if the parts cover the whole range."""
    covered_end = keys.start
    for part in sorted(parts):
        if part.start > covered_end:
            return keys.clip(covered_end, part.start)
        if not part.end or (keys.end and part.end >= keys.end):
            return None
        covered_end = max(covered_end, part.end)
    return keys.rest(covered_end)
