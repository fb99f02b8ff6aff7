"""Reading a snapshot of regions from a replica that applies their logs by itself: a learner.

What has been acknowledged before a snapshot's timestamp was given out is in the leaders' logs, and
not yet in the replica. So, for every region of the ranges:

    read index    the leader says up to where its log is committed. It is told snapshot_ts, and no
                  transaction that calculates its own commit_ts gets one at or below it from then
                  on; one that is about to is answered as a lock
    wait          until the replica has applied the log up to there
    locks         what the replica has of transactions that have not ended is resolved
    read
    validate      the region is still the same: a split or merge meanwhile means that keys may have
                  gone elsewhere, before or after they were read

A region of which any of this fails is looked up again, which may give several; only what has not
been read is. In the end every key of the ranges has been read once, from its own region, or there
is an error. As TiFlash's `LearnerRead` does.

`LearnerRead` does all of it for one region after the other. `CatchUp` is for a replica that can
keep one moment of all regions: locks and rows come from there, and nothing can move under them.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

from pyspark_theflash.base.clock import Deadline
from pyspark_theflash.base.errors import (
    RegionEpochNotMatchError,
    RegionGapError,
    RegionNotReadableError,
    TheFlashError,
    TiKVUnavailableError,
)
from pyspark_theflash.base.types import RegionID, TimeStamp
from pyspark_theflash.cluster.located import LocatedRegion, RawKeyRange, first_gap
from pyspark_theflash.cluster.lock import Lock
from pyspark_theflash.cluster.resolve import LockResolver, ResolvedLocks

T = TypeVar("T")

_BACKOFF_MS: Final = 10
_BACKOFF_MS_MAX: Final = 500


class RegionLeaders(Protocol):
    """The cluster's side. Methods end by the deadline."""

    def cover(
        self, ranges: Sequence[RawKeyRange], deadline: Deadline
    ) -> Sequence[tuple[LocatedRegion, Sequence[RawKeyRange]]]:
        """Regions that together have all of the ranges, each with its part of them.

        They may be out of date; raises `RegionGapError` rather than leave something out.
        """

    def read_index(
        self,
        region: LocatedRegion,
        ranges: Sequence[RawKeyRange],
        snapshot_ts: TimeStamp,
        deadline: Deadline,
    ) -> "int | Lock | None":
        """Up to where the log is committed, or a lock that is not in it yet.

        None if the region is another one by now, which `cover` knows from then on, or cannot say.
        """


class AppliedLog(Protocol):
    """Our side: `tikv.region_store.RegionStore` is one."""

    def wait_applied(self, region_id: RegionID, index: int, deadline: Deadline) -> None:
        """Wait until a region has applied its log up to an index.

        Raises `RegionNotReadableError` if it is not here, `RegionBehindError` at the deadline.
        """


class RegionReplica(AppliedLog, Protocol):
    """Our side, for reads of one region after the other."""

    def version_of(self, region_id: RegionID) -> int | None:
        """The version in a region's epoch; None if it is not here, or not to be read just now."""

    def locks(self, region_id: RegionID, ranges: Sequence[RawKeyRange]) -> Iterable[Lock]:
        """The locks that a region has on keys of the ranges."""


Read = Callable[[LocatedRegion, Sequence[RawKeyRange], ResolvedLocks], T]
"""Reads ranges of a region whole, past and through these locks, before it returns.

It may raise `RegionNotReadableError`, `RegionEpochNotMatchError` and `RegionGapError` to be asked
again.
"""


OpenAt = Callable[[dict[RegionID, int]], T]
"""Opens a view of regions that are of these versions, which it keeps whatever happens later.

It raises `RegionNotReadableError`, `RegionEpochNotMatchError` or `RegionGapError` if they are not.
"""


@dataclass(frozen=True, slots=True)
class RegionRead(Generic[T]):
    """What was read of one region: all rows of `ranges`."""

    region: LocatedRegion
    ranges: tuple[RawKeyRange, ...]
    value: T


class _Regions:
    """What both kinds of reads ask of one region after the other."""

    def __init__(
        self,
        leaders: RegionLeaders,
        log: AppliedLog,
        resolver: LockResolver,
        snapshot_ts: TimeStamp,
    ) -> None:
        self.leaders, self.snapshot_ts, self.resolver = leaders, snapshot_ts, resolver
        self.failure: TheFlashError | None = None
        self._log = log
        self._backoff_ms = _BACKOFF_MS

    def catch_up(
        self, region: LocatedRegion, ranges: Sequence[RawKeyRange], deadline: Deadline
    ) -> bool:
        """Whether a region has all that a snapshot needs of it; if not, look it up again."""
        index = self.leaders.read_index(region, ranges, self.snapshot_ts, deadline)
        if isinstance(index, Lock):
            # Its transaction is about to write it, and then it is in the log, or not.
            self.resolver.resolve([index], self.snapshot_ts, deadline)
            index = None
        if index is None:
            self.failure = TiKVUnavailableError(f"region {region.id}", "gives no read index")
            return False
        try:
            self._log.wait_applied(region.id, index, deadline)
        except RegionNotReadableError as error:
            self.failure = error
            return False
        return True

    def wait(self, deadline: Deadline) -> None:
        """Between two looks. Raises why the last one failed if the time is up."""
        if not deadline.sleep_ms(self._backoff_ms):
            raise self.failure or TiKVUnavailableError("a region", "cannot be read")
        self._backoff_ms = min(2 * self._backoff_ms, _BACKOFF_MS_MAX)


class CatchUp:
    """Regions brought to where their leaders are, to be read at one moment of all of them."""

    def __init__(
        self,
        leaders: RegionLeaders,
        log: AppliedLog,
        resolver: LockResolver,
        snapshot_ts: TimeStamp,
    ) -> None:
        self._regions = _Regions(leaders, log, resolver, snapshot_ts)

    def open(self, ranges: Sequence[RawKeyRange], open_at: OpenAt[T], deadline: Deadline) -> T:
        """What `open_at` makes of the ranges, once all of their regions have come far enough.

        It is given the version of each region's epoch, and says if one is another by now; then
        only such regions are asked anew.

        Raises:
            As `LearnerRead.run`, and what `open_at` raises besides.
        """
        regions, caught = self._regions, dict[RegionID, int]()
        while True:
            versions: dict[RegionID, int] = {}
            for region, parts in regions.leaders.cover(ranges, deadline):
                version = region.epoch.version
                if caught.get(region.id) == version or regions.catch_up(region, parts, deadline):
                    caught[region.id] = versions[region.id] = version
                else:
                    caught.pop(region.id, None)
                    break
            else:
                try:
                    return open_at(versions)
                except (RegionNotReadableError, RegionEpochNotMatchError) as error:
                    regions.failure = error
                    # One that nobody has asked of comes from a region that was split.
                    if caught.pop(RegionID(error.region_id), None) is None:
                        caught.clear()
                except RegionGapError as error:
                    regions.failure = error
                    caught.clear()
            regions.wait(deadline)


class LearnerRead(Generic[T]):
    """One snapshot's reads, a region at a time."""

    def __init__(
        self,
        leaders: RegionLeaders,
        replica: RegionReplica,
        resolver: LockResolver,
        snapshot_ts: TimeStamp,
        read: Read[T],
    ) -> None:
        self._regions = _Regions(leaders, replica, resolver, snapshot_ts)
        self._replica, self._read = replica, read

    def run(self, ranges: Sequence[RawKeyRange], deadline: Deadline) -> list[RegionRead[T]]:
        """All of the ranges, in the order of their keys.

        Raises:
            KeyIsLockedError: a transaction in the way has not ended, by the resolver's policy.
            RegionBehindError: the replica has not come far enough by the deadline.
            RegionNotReadableError, RegionEpochNotMatchError, TiKVUnavailableError: until the
            deadline, a region was not here, was changing, or had no leader.
            RegionGapError: no region has some of the keys.
        """
        done: list[RegionRead[T]] = []
        left = [keys for each in ranges if (keys := each.rest(each.start)) is not None]
        while left:
            again: list[RawKeyRange] = []
            for region, parts in self._regions.leaders.cover(left, deadline):
                found = self._region(region, parts, deadline)
                if found is None:
                    again += parts
                else:
                    done.append(found)
            left = again
            if left:
                self._regions.wait(deadline)
        done.sort(key=lambda each: each.ranges[0])
        _check_whole(ranges, done)
        return done

    def _region(
        self, region: LocatedRegion, ranges: Sequence[RawKeyRange], deadline: Deadline
    ) -> RegionRead[T] | None:
        """What a region has; None if it is to be looked up again."""
        regions = self._regions
        if not regions.catch_up(region, ranges, deadline):
            return None
        try:
            self._validate(region)
            locks = self._replica.locks(region.id, ranges)
            through = regions.resolver.resolve(locks, regions.snapshot_ts, deadline)
            value = self._read(region, ranges, through)
            self._validate(region)
        except (RegionNotReadableError, RegionEpochNotMatchError, RegionGapError) as error:
            regions.failure = error
            return None
        return RegionRead(region, tuple(ranges), value)

    def _validate(self, region: LocatedRegion) -> None:
        version = self._replica.version_of(region.id)
        if version is None:
            raise RegionNotReadableError(region.id, "is not to be read now")
        if version != region.epoch.version:
            raise RegionEpochNotMatchError(region.id, region.epoch.version, version)


def _check_whole(ranges: Sequence[RawKeyRange], done: Sequence[RegionRead[T]]) -> None:
    parts = [part for each in done for part in each.ranges]
    for keys in ranges:
        gap = first_gap(keys, parts)
        if gap is not None:
            raise RegionGapError(gap.start[:9].hex(), gap.end[:9].hex())
