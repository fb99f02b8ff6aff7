"""Where keys are: ranges of them, and the regions of TiKV that PD or a store says they are in.

All keys here are TiDB's own; memcomparable ones, as TiKV and PD have them, stay in messages. An
empty end is behind all keys, an empty start is the first one.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from pyspark_theflash.base.types import RegionEpoch, RegionID
from pyspark_theflash.tidb.codec.key import RawKey


@dataclass(frozen=True, slots=True, order=True)
class RawKeyRange:
    """The keys from `start` up to `end`, which is not one of them."""

    start: RawKey
    end: RawKey

    def __contains__(self, key: RawKey) -> bool:
        return self.start <= key and (not self.end or key < self.end)

    def clip(self, start: RawKey, end: RawKey) -> "RawKeyRange | None":
        """Return the part from `start` up to `end`; None if there is none."""
        low = max(self.start, start)
        high = self.end if not end else end if not self.end else min(self.end, end)
        return None if high and low >= high else RawKeyRange(low, high)

    def rest(self, start: RawKey) -> "RawKeyRange | None":
        """Return the part from `start` on; None if there is none."""
        return self.clip(start, self.end)


@dataclass(frozen=True, slots=True)
class LocatedPeer:
    """A region's copy on a store."""

    id: int
    store_id: int
    is_learner: bool = False
    is_witness: bool = False


@dataclass(frozen=True, slots=True)
class LocatedRegion:
    """A region as it was when somebody said so; `leader` is None where that is not known."""

    id: RegionID
    range: RawKeyRange
    epoch: RegionEpoch
    peers: tuple[LocatedPeer, ...] = ()
    leader: LocatedPeer | None = None

    def overlaps(self, other: "LocatedRegion") -> bool:
        return self.range.clip(other.range.start, other.range.end) is not None

    def parts_of(self, ranges: Iterable[RawKeyRange]) -> list[RawKeyRange]:
        """Return the parts of the ranges that lie in the region."""
        clipped = (each.clip(self.range.start, self.range.end) for each in ranges)
        return [part for part in clipped if part is not None]


def first_gap(wanted: RawKeyRange, parts: Iterable[RawKeyRange]) -> RawKeyRange | None:
    """The first stretch of a range that none of the parts has; None if they have all of it."""
    at = wanted.start
    for part in sorted(parts):
        if part.start > at:
            return wanted.clip(at, part.start)
        if not part.end or (wanted.end and part.end >= wanted.end):
            return None
        at = max(at, part.end)
    return wanted.rest(at)
