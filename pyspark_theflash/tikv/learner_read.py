"""Snapshot reads of regions from a raft learner, which applies the regions' logs asynchronously.

Data acknowledged before the snapshot's timestamp was allocated is in the leaders' logs, but perhaps
not applied by the replica yet. So, for every region of the ranges:

    read index    The leader returns the index up to which its log is committed. The request
                  contains snapshot_ts: from then on, async commit and 1PC choose a commit_ts above
                  it. A transaction that is already choosing one is returned as a lock.
    wait          Wait until the replica has applied that index.
    locks         Resolve the locks of open transactions in the replica.
    read
    validate      Check the region's epoch: after a split or merge, keys may have moved to another
                  region before or after they were read.

If a step fails, the region is looked up again, possibly as several regions, and its unread ranges
are retried. So a read without an error has read every key of the ranges once, from its region. See
TiFlash's `LearnerRead`.

`LearnerRead` processes one region at a time. `CatchUp` is for a replica that provides a consistent
view of all regions, with locks and rows of the same point in time.
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
    """Regions and their leaders in the cluster. Methods end by the deadline."""

    def cover(
        self, ranges: Sequence[RawKeyRange], deadline: Deadline
    ) -> Sequence[tuple[LocatedRegion, Sequence[RawKeyRange]]]:
        """Return regions that cover the ranges, each with its intersections.

        They may be stale. Raises `RegionGapError` if a part of the ranges is not covered.
        """

    def read_index(
        self,
        region: LocatedRegion,
        ranges: Sequence[RawKeyRange],
        snapshot_ts: TimeStamp,
        deadline: Deadline,
    ) -> "int | Lock | None":
        """Return the committed index of a region's log, or a lock that is not in the log yet.

        None if the leader does not respond, or if the region has changed; then the next `cover`
        returns the current regions.
        """


class AppliedLog(Protocol):
    """The replica's apply progress, implemented by `tikv.region_store.RegionStore`."""

    def wait_applied(self, region_id: RegionID, index: int, deadline: Deadline) -> None:
        """Wait until a region has applied its log up to an index.

        Raises `RegionNotReadableError` if the replica does not have the region,
        `RegionBehindError` at the deadline.
        """


class RegionReplica(AppliedLog, Protocol):
    """The replica, for reads of one region at a time."""

    def version_of(self, region_id: RegionID) -> int | None:
        """Return the version of a region's epoch; None if the region is missing or not readable."""

    def locks(self, region_id: RegionID, ranges: Sequence[RawKeyRange]) -> Iterable[Lock]:
        """Return a region's locks on keys of the ranges."""


Read = Callable[[LocatedRegion, Sequence[RawKeyRange], ResolvedLocks], T]
"""Reads ranges of a region completely, with the resolved locks, before it returns.

It may raise `RegionNotReadableError`, `RegionEpochNotMatchError`, `RegionGapError` to be retried.
"""


OpenAt = Callable[[dict[RegionID, int]], T]
"""Opens a consistent view of regions at these epoch versions, unaffected by later changes.

It raises `RegionNotReadableError`, `RegionEpochNotMatchError` or `RegionGapError` on a mismatch.
"""


@dataclass(frozen=True, slots=True)
class RegionRead(Generic[T]):
    """The result of reading `ranges` of one region."""

    region: LocatedRegion
    ranges: tuple[RawKeyRange, ...]
    value: T


class _Regions:
    """Read index and waiting for each region, shared by `CatchUp` and `LearnerRead`."""

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
        """Wait until a region is applied far enough; return False to look it up again."""
        index = self.leaders.read_index(region, ranges, self.snapshot_ts, deadline)
        if isinstance(index, Lock):
            # The transaction is being prewritten. Once it is resolved, its outcome is in the log.
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
        """Wait before the next attempt. After the deadline, raise the error of the last one."""
        if not deadline.sleep_ms(self._backoff_ms):
            raise self.failure or TiKVUnavailableError("a region", "cannot be read")
        self._backoff_ms = min(2 * self._backoff_ms, _BACKOFF_MS_MAX)


class CatchUp:
    """Waits for all regions of a snapshot, then opens one consistent view of them."""

    def __init__(
        self,
        leaders: RegionLeaders,
        log: AppliedLog,
        resolver: LockResolver,
        snapshot_ts: TimeStamp,
    ) -> None:
        self._regions = _Regions(leaders, log, resolver, snapshot_ts)

    def open(self, ranges: Sequence[RawKeyRange], open_at: OpenAt[T], deadline: Deadline) -> T:
        """Return the result of `open_at` once all regions of the ranges are applied far enough.

        `open_at` gets the version of each region's epoch, and raises an error on a mismatch; then
        the read index is requested again for the mismatching regions only.

        Raises:
            As `LearnerRead.run`, and other errors of `open_at`.
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
                    # A region without a read index comes from the split of another region.
                    if caught.pop(RegionID(error.region_id), None) is None:
                        caught.clear()
                except RegionGapError as error:
                    regions.failure = error
                    caught.clear()
            regions.wait(deadline)


class LearnerRead(Generic[T]):
    """Reads one snapshot, a region at a time."""

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
        """Read the ranges, and return the results in key order.

        Raises:
            KeyIsLockedError: A blocking transaction has not ended, by the resolver's policy.
            RegionBehindError: The replica has not applied the read index by the deadline.
            RegionNotReadableError, RegionEpochNotMatchError, TiKVUnavailableError: Until the
                deadline, a region was missing in the replica, was changing, or had no leader.
            RegionGapError: No region covers some of the keys.
        """
        done: list[RegionRead[T]] = []
        left = [keys for each in ranges if (keys := each.rest(each.start)) is not None]
        while left:
            again: list[RawKeyRange] = []
            for region, parts in self._regions.leaders.cover(left, deadline):
                result = self._region(region, parts, deadline)
                if result is None:
                    again += parts
                else:
                    done.append(result)
            left = again
            if left:
                self._regions.wait(deadline)
        done.sort(key=lambda each: each.ranges[0])
        _check_whole(ranges, done)
        return done

    def _region(
        self, region: LocatedRegion, ranges: Sequence[RawKeyRange], deadline: Deadline
    ) -> RegionRead[T] | None:
        """Read a region; None if it must be looked up again."""
        regions = self._regions
        if not regions.catch_up(region, ranges, deadline):
            return None
        try:
            self._validate(region)
            locks = self._replica.locks(region.id, ranges)
            resolved = regions.resolver.resolve(locks, regions.snapshot_ts, deadline)
            value = self._read(region, ranges, resolved)
            self._validate(region)
        except (RegionNotReadableError, RegionEpochNotMatchError, RegionGapError) as error:
            regions.failure = error
            return None
        return RegionRead(region, tuple(ranges), value)

    def _validate(self, region: LocatedRegion) -> None:
        version = self._replica.version_of(region.id)
        if version is None:
            raise RegionNotReadableError(region.id, "is missing or not readable")
        if version != region.epoch.version:
            raise RegionEpochNotMatchError(region.id, region.epoch.version, version)


def _check_whole(ranges: Sequence[RawKeyRange], done: Sequence[RegionRead[T]]) -> None:
    parts = [part for each in done for part in each.ranges]
    for keys in ranges:
        gap = first_gap(keys, parts)
        if gap is not None:
            raise RegionGapError(gap.start[:9].hex(), gap.end[:9].hex())
