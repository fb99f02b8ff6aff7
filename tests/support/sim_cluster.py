"""A TiKV cluster in memory: keys as `Percolator` has them, in regions that split and move.

Each region has an index, which increases with each write to it. The test determines how far the
index and epoch that a learner has applied are behind.
"""

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pyspark_theflash.base.types import RegionEpoch, RegionID
from pyspark_theflash.cluster.located import LocatedPeer, LocatedRegion, RawKeyRange
from pyspark_theflash.tidb.codec.key import RawKey
from tests.support.percolator import Percolator

if TYPE_CHECKING:
    from pyspark_theflash.cluster.lock import Lock

STORES: Final = (1, 2, 3)


@dataclass
class SimRegion:
    """A region. Every store has a peer of it, whose id derives from both ids."""

    id: int
    start: bytes
    end: bytes
    epoch: RegionEpoch
    leader: int | None
    index: int = 5

    def located(self) -> LocatedRegion:
        peers = tuple(LocatedPeer(10 * self.id + store, store) for store in STORES)
        leader = next((p for p in peers if p.store_id == self.leader), None)
        keys = RawKeyRange(RawKey(self.start), RawKey(self.end))
        return LocatedRegion(RegionID(self.id), keys, self.epoch, peers, leader)

    def __contains__(self, key: bytes) -> bool:
        return self.start <= key and (not self.end or key < self.end)


class SimCluster:
    """`mutex` is held while a store serves a request."""

    def __init__(self) -> None:
        self.mutex = threading.RLock()
        self.tikv = Percolator()
        self.regions = {1: SimRegion(1, b"", b"", RegionEpoch(1, 1), 1)}
        self.memory_locks: dict[bytes, Lock] = {}
        self._next_id = 2

    def region_of(self, key: bytes) -> SimRegion:
        return next(region for region in self.sorted() if key in region)

    def sorted(self) -> list[SimRegion]:
        return sorted(self.regions.values(), key=lambda region: region.start)

    def split(self, key: bytes, *, new_is_left: bool = False) -> SimRegion:
        """Split a region before a key; TiKV chooses the part that keeps the id."""
        with self.mutex:
            old = self.region_of(key)
            if old.start == key:
                return old
            epoch = RegionEpoch(old.epoch.conf_ver, old.epoch.version + 1)
            new_id, self._next_id = self._next_id, self._next_id + 1
            ends = (old.start, key), (key, old.end)
            (a, b), (c, d) = ends if new_is_left else ends[::-1]
            new = SimRegion(new_id, a, b, epoch, old.leader)
            old.start, old.end, old.epoch = c, d, epoch
            old.index += 1
            self.regions[new_id] = new
            return new

    def merge(self, key: bytes) -> None:
        """Merge the region before a key's region into it, if there is one."""
        with self.mutex:
            right = self.region_of(key)
            left = next((r for r in self.regions.values() if r.end == right.start and r.end), None)
            if left is None:
                return
            version = max(left.epoch.version, right.epoch.version) + 1
            right.epoch = RegionEpoch(right.epoch.conf_ver, version)
            right.start = left.start
            right.index = max(left.index, right.index) + 1
            del self.regions[left.id]

    def move_leader(self, key: bytes, store: int | None = None) -> None:
        """Move the leader to the next store, or to a given one; 0 for none."""
        with self.mutex:
            region = self.region_of(key)
            following = STORES[(STORES.index(region.leader or 1) + 1) % len(STORES)]
            region.leader = (store or None) if store is not None else following

    def change_peers(self, key: bytes) -> None:
        """Increase the epoch's `conf_ver`."""
        with self.mutex:
            region = self.region_of(key)
            region.epoch = RegionEpoch(region.epoch.conf_ver + 1, region.epoch.version)

    def wrote(self, keys: Iterable[bytes]) -> None:
        """Append an entry to the logs of the regions of these keys."""
        with self.mutex:
            for region in self.regions.values():
                region.index += any(key in region for key in keys)
