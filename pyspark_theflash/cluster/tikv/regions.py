"""A cache of regions by key range.

An entry can be stale at any time: regions split and merge, and change their peers and leaders. A
stale entry costs a call, but never leads to a wrong result: each request contains the region's id
and epoch, and a store rejects a mismatch with a region error, which often contains the current
state:

    NotLeader        use the leader in the error; otherwise look the region up in PD
    EpochNotMatch    use the regions in the error
    all others       look the region up in PD; PD may lag behind, so wait between attempts
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
from pyspark_theflash.cluster.tikv.wire.call import RegionError, RegionFault
from pyspark_theflash.cluster.tikv.wire.directory import Directory
from pyspark_theflash.tidb.codec.key import RawKey

_RETRY_MS: Final = 50
_EXCERPT_BYTES: Final = 9
"""The length of a prefix that identifies a key's table, but not its row."""


class RegionCache:
    """A thread-safe cache of regions."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._mutex = threading.Lock()
        # Sorted by start, without overlaps.
        self._regions: list[LocatedRegion] = []
        self._by_id: dict[RegionID, LocatedRegion] = {}

    def locate(self, key: RawKey, deadline: Deadline) -> LocatedRegion:
        """Return the region that contains a key, with its leader.

        Raises:
            RegionGapError: PD has no such region until the deadline.
            TiKVUnavailableError: The region has no leader until the deadline.
            PDUnavailableError, PDRefusedError: PD does not respond, or returns an error.
        """
        has_gap = False
        while True:
            region = self._cached(key)
            if region is None:
                try:
                    region = self._directory.region_of(key, deadline)
                except PDUnavailableError as error:
                    if has_gap and not deadline.left_ms():
                        # PD's last response before the deadline was a gap.
                        raise _gap(key) from error
                    raise
                has_gap = region is None or key not in region.range
                if region is not None and key in region.range and region.leader is not None:
                    self.learn([region])
                    return region
            elif region.leader is not None:
                return region
            else:
                self._find_leader(region, deadline)
                region = self._cached(key)
                if region is not None and region.leader is not None:
                    return region
            if not deadline.sleep_ms(_RETRY_MS):
                if region is None or key not in region.range:
                    raise _gap(key)
                raise TiKVUnavailableError(f"region {region.id}", "has no leader")

    def cover(
        self, ranges: Iterable[RawKeyRange], deadline: Deadline
    ) -> list[tuple[LocatedRegion, list[RawKeyRange]]]:
        """Return regions that cover the ranges, each with its intersections.

        Regions that are not cached are looked up many at a time, those of the next ranges too.

        Raises:
            RegionGapError: A part of the ranges is not covered until the deadline.
            TiKVUnavailableError, PDUnavailableError, PDRefusedError: As in `locate`.
        """
        parts: dict[tuple[RegionID, RegionEpoch], tuple[LocatedRegion, list[RawKeyRange]]] = {}
        ranges = list(ranges)
        ends = [keys.end for keys in ranges]
        last = max(ends, default=RawKey(b"")) if all(ends) else RawKey(b"")
        for keys in ranges:
            left = keys.rest(keys.start)
            while left is not None:
                if self._cached(left.start) is None:
                    # Usually the next ones are missing, too.
                    missing = RawKeyRange(left.start, last)
                    regions = self._directory.scan_regions(missing, deadline)
                    self.learn([region for region in regions if region.leader is not None])
                region = self.locate(left.start, deadline)
                _, covered = parts.setdefault((region.id, region.epoch), (region, []))
                covered += region.parts_of([left])
                end = region.range.end
                left = left.rest(end) if end else None
        return list(parts.values())

    def learn(self, regions: Sequence[LocatedRegion]) -> None:
        """Cache regions reported by PD or a store, and remove entries that overlap them.

        An older epoch of a region does not replace a newer one.
        """
        with self._mutex:
            for region in regions:
                same = self._by_id.get(region.id)
                if same is None or same.epoch.version <= region.epoch.version:
                    self._put(region)

    def forget(self, region: LocatedRegion) -> None:
        """Remove a region, so that it is looked up in PD next time."""
        with self._mutex:
            self._remove(region.id)

    def failed(self, region: LocatedRegion, error: RegionError) -> None:
        """Update the cache after a region error."""
        is_behind = any(
            each.id == region.id and each.epoch.version < region.epoch.version
            for each in error.regions
        )
        # A store that has not applied a split or merge yet reports older regions than these.
        if error.fault is RegionFault.BUSY or is_behind:
            return
        self.forget(region)
        if error.fault is RegionFault.NOT_LEADER and error.leader in region.peers:
            self.learn([replace(region, leader=error.leader)])
        # A store does not report leaders; most often the leader stays on the same store.
        self.learn([_led_by_same_store(each, region) for each in error.regions])

    def _cached(self, key: RawKey) -> LocatedRegion | None:
        with self._mutex:
            at = bisect.bisect_right(self._regions, key, key=_start) - 1
            region = self._regions[at] if at >= 0 else None
        return region if region is not None and key in region.range else None

    def _find_leader(self, region: LocatedRegion, deadline: Deadline) -> None:
        current = self._directory.region(region.id, deadline)
        if current is None:
            self.forget(region)
        else:
            self.learn([current])

    def _put(self, new: LocatedRegion) -> None:
        self._remove(new.id)
        at = bisect.bisect_right(self._regions, new.range.start, key=_start)
        low = at - 1 if at and self._regions[at - 1].overlaps(new) else at
        high = low
        while high < len(self._regions) and self._regions[high].overlaps(new):
            del self._by_id[self._regions[high].id]
            high += 1
        self._regions[low:high] = [new]
        self._by_id[new.id] = new

    def _remove(self, region_id: RegionID) -> None:
        old = self._by_id.pop(region_id, None)
        if old is not None:
            del self._regions[bisect.bisect_left(self._regions, old.range.start, key=_start)]


def _start(region: LocatedRegion) -> RawKey:
    return region.range.start


def _led_by_same_store(region: LocatedRegion, before: LocatedRegion) -> LocatedRegion:
    store_id = before.leader.store_id if before.leader else None
    return replace(region, leader=next((p for p in region.peers if p.store_id == store_id), None))


def _gap(key: RawKey) -> RegionGapError:
    return RegionGapError(_excerpt(key), _excerpt(RawKey(key + b"\0")))


def _excerpt(key: RawKey) -> str:
    return key[:_EXCERPT_BYTES].hex()
