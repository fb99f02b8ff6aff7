"""Lookups of regions in PD."""

from pyspark_theflash.base.clock import Deadline, SystemClock
from pyspark_theflash.base.types import RegionEpoch, RegionID
from pyspark_theflash.cluster.located import LocatedPeer, LocatedRegion, RawKeyRange
from pyspark_theflash.cluster.tikv.regions import RegionCache
from pyspark_theflash.tidb.codec.key import RawKey

COUNT = 100
PEER = LocatedPeer(2, 1)


def region(number: int) -> LocatedRegion:
    keys = RawKeyRange(RawKey(bytes([number])), RawKey(bytes([number + 1])))
    return LocatedRegion(RegionID(number + 1), keys, RegionEpoch(1, 1), (PEER,), PEER)


class CountingDirectory:
    """A PD that counts its calls."""

    def __init__(self) -> None:
        self.scans = self.lookups = 0

    def scan_regions(self, keys: RawKeyRange, deadline: Deadline) -> list[LocatedRegion]:
        self.scans += 1
        return [each for each in map(region, range(COUNT)) if each.parts_of([keys])]

    def region_of(self, key: RawKey, deadline: Deadline) -> LocatedRegion | None:
        self.lookups += 1
        return region(key[0])


def test_neighbours_are_looked_up_together_though_the_first_one_is_cached() -> None:
    directory = CountingDirectory()
    cache = RegionCache(directory)  # type: ignore[arg-type]
    keys = RawKeyRange(RawKey(b"\0"), RawKey(bytes([COUNT])))
    deadline = Deadline(SystemClock(), 60_000)
    cache.learn([region(0), region(50)])
    covered = cache.cover([keys], deadline)
    assert [each for each, _ in covered] == list(map(region, range(COUNT)))
    assert (directory.scans, directory.lookups) == (1, 0)
    cache.cover([keys], deadline)
    assert (directory.scans, directory.lookups) == (1, 0)
