"""Regions: contiguous, disjoint ranges of handles that cover a physical table.

A new table has one region without bounds, which needs no record in the manifest. A region that has
become too large is split: new regions with new ids replace it in the commit that adds their files.
So the range of a region id never changes.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from pyspark_theflash.base.types import PhysicalTableID, RegionID
from pyspark_theflash.storage.engine.api import Handle
from pyspark_theflash.storage.store.manifest import Record
from pyspark_theflash.storage.store.partition import HOME, Partitions
from pyspark_theflash.tidb.codec.document import boolean, int64, load, shaped

REGION_KIND: Final = "region"
FIRST_REGION: Final = RegionID(1)
NO_REGION: Final = RegionID(0)
"""`region_id` of files that belong to no region."""


@dataclass(frozen=True, slots=True)
class Region:
    """A range of handles of a physical table, from `start` to before `end`; None is no bound.

    `is_fixed`: an operator has split at `start`, so compaction does not merge it with the region
    before. `made_of`: the regions that it replaced in a split or merge by an operator; makes
    repeated requests idempotent. `partitions`: each has all of the region's own files.
    """

    physical_id: PhysicalTableID
    region_id: RegionID
    start: Handle | None
    end: Handle | None
    is_fixed: bool = False
    made_of: tuple[RegionID, ...] = ()
    partitions: Partitions = HOME

    def overlaps(self, low: Handle | None, high: Handle | None) -> bool:
        """Return whether a file with handles from `low` to `high` may have rows in the region."""
        ends_before = low is not None and self.end is not None and not is_below(low, self.end)
        return not ends_before and not is_below(high, self.start)

    def covers(self, low: Handle | None, high: Handle | None) -> bool:
        """Return whether all handles from `low` to `high` are in the region."""
        if self.start is None and self.end is None:
            return True
        if low is None or high is None:
            return False
        return not is_below(low, self.start) and (self.end is None or is_below(high, self.end))

    @property
    def is_recorded(self) -> bool:
        """Whether the manifest has a record of the region.

        The first region of a table has one only after it was moved.
        """
        return self.region_id != FIRST_REGION or self.partitions != HOME

    def to_json(self) -> str:
        bounds = [handle_to_json(self.start), handle_to_json(self.end)]
        more: list[object] = []
        if self.is_fixed or self.made_of or self.partitions != HOME:
            more.append([self.is_fixed, *self.made_of])
        if self.partitions != HOME:
            more.append(self.partitions)
        return json.dumps([self.physical_id, self.region_id, *bounds, *more])

    @classmethod
    def from_json(cls, text: str | bytes) -> "Region":
        """Inverse of `to_json`. Raises `CodecError`."""
        with shaped(f"{REGION_KIND} record"):
            physical_id, region_id, start, end, *more = load(text)
            is_fixed, *made_of = more[0] if more else (False,)
            partitions = tuple(map(int64, more[1])) if len(more) > 1 else HOME
            return cls(
                PhysicalTableID(int64(physical_id)),
                RegionID(int64(region_id)),
                handle_from_json(start),
                handle_from_json(end),
                boolean(is_fixed),
                tuple(RegionID(int64(each)) for each in made_of),
                partitions,
            )

    def split_at(self, bounds: Sequence[Handle], first_id: int) -> list["Region"]:
        """Split the region at ascending `bounds`; new ids start at `first_id`."""
        return [
            Region(
                self.physical_id,
                RegionID(first_id + n),
                start,
                end,
                self.is_fixed and not n,
                partitions=self.partitions,
            )
            for n, (start, end) in enumerate(pairwise([self.start, *bounds, self.end]))
        ]

    @property
    def key(self) -> str:
        """The record's key."""
        return f"{self.physical_id:020d}-{self.region_id:020d}"

    def to_record(self) -> Record:
        return Record(REGION_KIND, self.key, self.to_json().encode())


def first_region(physical_id: PhysicalTableID) -> Region:
    """Return the initial region of a table."""
    return Region(physical_id, FIRST_REGION, None, None)


def sorted_regions(regions: Iterable[Region]) -> Sequence[Region]:
    """Sort regions by start, None first."""
    all_regions = list(regions)
    unbounded = [r for r in all_regions if r.start is None]
    return unbounded + sorted(
        (r for r in all_regions if r.start is not None),
        key=lambda r: r.start,  # type: ignore[arg-type,return-value]
    )


def regions_error(regions: Sequence[Region]) -> str | None:
    """Return why sorted regions do not cover each handle exactly once; None if they do."""
    if not regions or regions[0].start is not None or regions[-1].end is not None:
        return "the regions do not cover all handles"
    for region, after in pairwise(regions):
        if region.end is None or after.start is None or is_below(after.start, region.end):
            return f"regions {region.region_id} and {after.region_id} overlap"
        if region.end != after.start:
            return f"there is a gap between regions {region.region_id} and {after.region_id}"
    return None


def is_below(handle: Handle | None, bound: Handle | None) -> bool:
    """Return whether both are known and `handle < bound`."""
    if isinstance(handle, int) and isinstance(bound, int):
        return handle < bound
    if isinstance(handle, bytes) and isinstance(bound, bytes):
        return handle < bound
    return False


def handle_to_json(handle: Handle | None) -> int | str | None:
    """Encode a handle as a number, bytes in hex, or null."""
    return handle.hex() if isinstance(handle, bytes) else handle


def handle_from_json(value: object) -> Handle | None:
    """Decode `handle_to_json`. Raises one of `SHAPE_ERRORS`."""
    if isinstance(value, str):
        return bytes.fromhex(value)
    return None if value is None else int64(value)
