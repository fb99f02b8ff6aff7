"""Ranges of raw keys, and regions with their ranges, peers and leaders.

All keys here are raw keys of TiDB. Memcomparable keys, as TiKV and PD use them, occur in messages
only. An empty start is the first key; an empty end means no upper bound.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from pyspark_theflash.base.types import RegionEpoch, RegionID
from pyspark_theflash.tidb.codec.key import RawKey


@dataclass(frozen=True, slots=True, order=True)
class RawKeyRange:
    """Raw keys in [start, end)."""

    start: RawKey
    end: RawKey

    @classmethod
    def of_prefix(cls, prefix: bytes) -> "RawKeyRange":
        """Return the keys that begin with a prefix, whose last byte is below 255."""
        return cls(RawKey(prefix), RawKey(prefix[:-1] + bytes([prefix[-1] + 1])))

    def __contains__(self, key: RawKey) -> bool:
        return self.start <= key and (not self.end or key < self.end)

    def clip(self, start: RawKey, end: RawKey) -> "RawKeyRange | None":
        """Return the intersection with [start, end); None if it is empty."""
        low = max(self.start, start)
        high = self.end if not end else end if not self.end else min(self.end, end)
        return None if high and low >= high else RawKeyRange(low, high)

    def rest(self, start: RawKey) -> "RawKeyRange | None":
        """Return the part at or above `start`; None if it is empty."""
        return self.clip(start, self.end)


@dataclass(frozen=True, slots=True)
class LocatedPeer:
    """A replica of a region on a store."""

    id: int
    store_id: int
    is_learner: bool = False
    is_witness: bool = False


@dataclass(frozen=True, slots=True)
class LocatedRegion:
    """A region as last reported by PD or a store. `leader` is None if it is unknown."""

    id: RegionID
    range: RawKeyRange
    epoch: RegionEpoch
    peers: tuple[LocatedPeer, ...] = ()
    leader: LocatedPeer | None = None

    def overlaps(self, other: "LocatedRegion") -> bool:
        return self.range.clip(other.range.start, other.range.end) is not None

    def parts_of(self, ranges: Iterable[RawKeyRange]) -> list[RawKeyRange]:
        """Return the intersections of the ranges with the region."""
        clipped = (each.clip(self.range.start, self.range.end) for each in ranges)
        return [part for part in clipped if part is not None]
