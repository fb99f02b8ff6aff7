"""Which region a key is in, remembered.

What is remembered may be wrong at any time: a region splits, merges, gets other peers or another
leader. Nobody tells; the store that is asked refuses the request, as region and epoch are part of
it, and often says how things are now. So an answer always comes from the right region, and a wrong
entry costs a call.

    NotLeader        go to the leader that is named; else ask PD
    EpochNotMatch    take the regions that the store names
    all others       ask PD, which may itself be a moment behind: wait between two tries
"""

import bisect
import threading
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from pyspark_theflash.base.clock import Deadline
from pyspark_theflash.base.errors import PDUnavailableError, RegionGapError, TiKVUnavailableError
from pyspark_theflash.base.types import RegionEpoch, RegionID
from pyspark_theflash.cluster.located import LocatedRegion, RawKeyRange
from pyspark_theflash.cluster.tikv.directory import SCAN_LIMIT, Directory
from pyspark_theflash.cluster.tikv.wire.call import RegionError, RegionFault
from pyspark_theflash.tidb.codec.key import RawKey

_RETRY_MS: Final = 50
_EXCERPT_BYTES: Final = 9
"""Enough of a key to name its table, not its row."""


class RegionCache:
    """A cache of regions. Safe to use from many threads."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._mutex = threading.Lock()
        # Sorted by start; no two overlap.
        self._starts: list[RawKey] = []
        self._regions: list[LocatedRegion] = []
        self._by_id: dict[RegionID, LocatedRegion] = {}

    def locate(self, key: RawKey, deadline: Deadline) -> LocatedRegion:
        """The region that a key is in, with its leader.

        Raises:
            RegionGapError: until the deadline, PD knows none.
            TiKVUnavailableError: until the deadline, it has no leader.
            PDUnavailableError, PDRefusedError: as PD says.
        """
        has_gap = False
        while True:
            found = self._cached(key)
            if found is None:
                try:
                    found = self._directory.region_of(key, deadline)
                except PDUnavailableError as error:
                    if has_gap and not deadline.left_ms():
                        # What it said before the time was over.
                        raise _gap(key) from error
                    raise
                has_gap = found is None or key not in found.range
                if found is not None and key in found.range and found.leader is not None:
                    self.learn([found])
                    return found
            elif found.leader is not None:
                return found
            else:
                self._find_leader(found, deadline)
                found = self._cached(key)
                if found is not None and found.leader is not None:
                    return found
            if not deadline.sleep_ms(_RETRY_MS):
                if found is None or key not in found.range:
                    raise _gap(key)
                raise TiKVUnavailableError(f"region {found.id}", "has no leader")

    def cover(
        self, ranges: Iterable[RawKeyRange], deadline: Deadline
    ) -> list[tuple[LocatedRegion, list[RawKeyRange]]]:
        """Regions that together have all of the ranges, each with its part of them.

        Raises:
            RegionGapError: they do not, until the deadline.
            TiKVUnavailableError, PDUnavailableError, PDRefusedError: as `locate`.
        """
        parts: dict[tuple[RegionID, RegionEpoch], tuple[LocatedRegion, list[RawKeyRange]]] = {}
        for wanted in ranges:
            self._load(wanted, deadline)
            left = wanted.rest(wanted.start)
            while left is not None:
                region = self.locate(left.start, deadline)
                _, mine = parts.setdefault((region.id, region.epoch), (region, []))
                mine += region.parts_of([left])
                end = region.range.end
                left = left.rest(end) if end else None
        return list(parts.values())

    def learn(self, regions: Sequence[LocatedRegion]) -> None:
        """Take over what PD or a store has said; what overlaps it is forgotten.

        A region's older epoch does not replace a newer one.
        """
        with self._mutex:
            for region in regions:
                same = self._by_id.get(region.id)
                if same is None or same.epoch.version <= region.epoch.version:
                    self._put(region)

    def forget(self, region: LocatedRegion) -> None:
        """Ask PD about it next time."""
        with self._mutex:
            self._remove(region.id)

    def failed(self, region: LocatedRegion, error: RegionError) -> None:
        """A request was refused: learn from it."""
        is_behind = any(
            each.id == region.id and each.epoch.version < region.epoch.version
            for each in error.regions
        )
        # A store that has not heard of a split or merge yet knows nothing better.
        if error.fault is RegionFault.BUSY or is_behind:
            return
        self.forget(region)
        if error.fault is RegionFault.NOT_LEADER and error.leader in region.peers:
            self.learn([replace(region, leader=error.leader)])
        # Stores do not say who leads a region; most often it is the same store as before.
        self.learn([_led_by_same_store(each, region) for each in error.regions])

    def _cached(self, key: RawKey) -> LocatedRegion | None:
        with self._mutex:
            at = bisect.bisect_right(self._starts, key) - 1
            found = self._regions[at] if at >= 0 else None
        return found if found is not None and key in found.range else None

    def _load(self, wanted: RawKeyRange, deadline: Deadline) -> None:
        """Ask PD for many regions at once, where the first is not known."""
        if self._cached(wanted.start) is not None:
            return
        left: RawKeyRange | None = wanted
        while left is not None:
            found = self._directory.scan_regions(left, deadline)
            self.learn([region for region in found if region.leader is not None])
            if len(found) < SCAN_LIMIT or not found[-1].range.end:
                return
            left = left.rest(found[-1].range.end)

    def _find_leader(self, region: LocatedRegion, deadline: Deadline) -> None:
        found = self._directory.region(region.id, deadline)
        if found is None:
            self.forget(region)
        else:
            self.learn([found])

    def _put(self, new: LocatedRegion) -> None:
        self._remove(new.id)
        at = bisect.bisect_right(self._starts, new.range.start)
        low = at - 1 if at and self._regions[at - 1].overlaps(new) else at
        high = low
        while high < len(self._regions) and self._regions[high].overlaps(new):
            del self._by_id[self._regions[high].id]
            high += 1
        self._regions[low:high] = [new]
        self._starts[low:high] = [new.range.start]
        self._by_id[new.id] = new

    def _remove(self, region_id: RegionID) -> None:
        old = self._by_id.pop(region_id, None)
        if old is not None:
            at = bisect.bisect_left(self._starts, old.range.start)
            del self._regions[at], self._starts[at]


def _led_by_same_store(region: LocatedRegion, before: LocatedRegion) -> LocatedRegion:
    store_id = before.leader.store_id if before.leader else None
    return replace(region, leader=next((p for p in region.peers if p.store_id == store_id), None))


def _gap(key: RawKey) -> RegionGapError:
    return RegionGapError(_excerpt(key), _excerpt(RawKey(key + b"\0")))


def _excerpt(key: RawKey) -> str:
    return key[:_EXCERPT_BYTES].hex()
