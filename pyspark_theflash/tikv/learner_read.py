"""Snapshot reads of regions from a raft learner, which applies the regions' logs asynchronously.

Data acknowledged before the snapshot's timestamp was allocated is in the leaders' logs, but perhaps
not applied by the replica yet. So, for every region of the ranges:

    read index    The leader returns the index up to which its log is committed. The request
                  contains snapshot_ts: from then on, async commit and 1PC choose a commit_ts above
                  it. A transaction that is already choosing one is returned as a lock.
    wait          Wait until the replica has applied that index.

Then open a consistent view of all regions in the replica, which contains the locks and rows of one
point in time, and check the epochs of its regions: after a split or merge, keys may have moved to a
region whose read index has not been requested. If a step fails, the regions that have changed are
looked up again. The locks in the view are resolved afterwards. See TiFlash's `LearnerRead`.
"""

from collections.abc import Callable, Sequence
from typing import Final, Protocol, TypeVar

from pyspark_theflash.base.clock import Deadline
from pyspark_theflash.base.errors import (
    RegionEpochNotMatchError,
    RegionGapError,
    RegionNotReadableError,
    TheFlashError,
    TiKVUnavailableError,
)
from pyspark_theflash.base.types import RegionID, TimeStamp
from pyspark_theflash.cluster.located import LocatedRegion, RawKeyRange
from pyspark_theflash.cluster.lock import Lock
from pyspark_theflash.cluster.resolve import LockResolver
from pyspark_theflash.tikv.region_store import RegionStore

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


OpenAt = Callable[[dict[RegionID, int]], T]
"""Opens a consistent view of regions at these epoch versions, unaffected by later changes.

It raises `RegionNotReadableError`, `RegionEpochNotMatchError` or `RegionGapError` on a mismatch.
"""


class CatchUp:
    """Waits for all regions of a snapshot, then opens one consistent view of them."""

    def __init__(
        self,
        leaders: RegionLeaders,
        replica: RegionStore,
        resolver: LockResolver,
        snapshot_ts: TimeStamp,
    ) -> None:
        self._leaders, self._replica = leaders, replica
        self._resolver, self._snapshot_ts = resolver, snapshot_ts
        self._failure: TheFlashError | None = None
        self._backoff_ms = _BACKOFF_MS

    def open(self, ranges: Sequence[RawKeyRange], open_at: OpenAt[T], deadline: Deadline) -> T:
        """Return the result of `open_at` once all regions of the ranges are applied far enough.

        `open_at` gets the version of each region's epoch, and raises an error on a mismatch; then
        the read index is requested again for the mismatching regions only.

        Raises:
            KeyIsLockedError: A lock in a leader's memory has not been resolved, by the policy.
            RegionBehindError: The replica has not applied a read index by the deadline.
            RegionNotReadableError, RegionEpochNotMatchError, TiKVUnavailableError: Until the
                deadline, a region was missing in the replica, was changing, or had no leader.
            RegionGapError: No region covers some of the keys.
        """
        caught = dict[RegionID, int]()
        while True:
            versions: dict[RegionID, int] = {}
            for region, parts in self._leaders.cover(ranges, deadline):
                version = region.epoch.version
                if caught.get(region.id) == version or self._catch_up(region, parts, deadline):
                    caught[region.id] = versions[region.id] = version
                else:
                    caught.pop(region.id, None)
                    break
            else:
                try:
                    return open_at(versions)
                except (RegionNotReadableError, RegionEpochNotMatchError) as error:
                    self._failure = error
                    # A region without a read index comes from the split of another region.
                    if caught.pop(RegionID(error.region_id), None) is None:
                        caught.clear()
                except RegionGapError as error:
                    self._failure = error
                    caught.clear()
            self._wait(deadline)

    def _catch_up(
        self, region: LocatedRegion, ranges: Sequence[RawKeyRange], deadline: Deadline
    ) -> bool:
        """Wait until a region is applied far enough; return False to look it up again."""
        index = self._leaders.read_index(region, ranges, self._snapshot_ts, deadline)
        if isinstance(index, Lock):
            # The transaction is being prewritten. Once it is resolved, its outcome is in the log.
            self._resolver.resolve([index], self._snapshot_ts, deadline)
            index = None
        if index is None:
            self._failure = TiKVUnavailableError(f"region {region.id}", "gives no read index")
            return False
        try:
            self._replica.wait_applied(region.id, index, deadline)
        except RegionNotReadableError as error:
            self._failure = error
            return False
        return True

    def _wait(self, deadline: Deadline) -> None:
        """Wait before the next attempt. After the deadline, raise the error of the last one."""
        if not deadline.sleep_ms(self._backoff_ms):
            raise self._failure or TiKVUnavailableError("a region", "cannot be read")
        self._backoff_ms = min(2 * self._backoff_ms, _BACKOFF_MS_MAX)
