"""Split and merge regions at an operator's request.

    before      1 ──────────┬──────────     If every file is on one side of the cut, the files are
                stable      │               assigned to the new regions unchanged. Otherwise all are
                   layer    │    layer      merged and rewritten, as one file for each side.
    after       2 ──────────┼ 3 ────────
                stable, new │ stable, new

One commit replaces the regions. Region ids are never reused, so a request with an old id is
rejected. A repeated request does nothing: new regions have `made_of`, the ids that they replaced.

There must not be any deltas, since they could point into files that are merged.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pyspark_theflash.base.errors import OptionError, RegionNotFoundError
from pyspark_theflash.base.types import RegionID
from pyspark_theflash.storage.engine.api import CompactionReport, Handle
from pyspark_theflash.storage.engine.magic.compaction import (
    PIECES_A_FILE,
    CompactionLimits,
    Write,
    merge_into_one,
    next_id,
)
from pyspark_theflash.storage.engine.magic.file import DataFile
from pyspark_theflash.storage.engine.magic.layout import Layout, LayoutChange
from pyspark_theflash.storage.engine.magic.merge import Cursor, sample_of
from pyspark_theflash.storage.engine.magic.region import Region, is_below
from pyspark_theflash.storage.mvcc.project import ScanColumn


def region_to_split(layout: Layout, region_id: RegionID, at: Handle) -> Region | None:
    """Return the region to split; None if this split was done before.

    Raises:
        RegionNotFoundError: The region does not exist (any more).
        OptionError: `at` is not inside the region.
    """
    region = layout.region(region_id)
    if region is None:
        if any(r.start == at and region_id in r.made_of for r in layout.regions):
            return None
        raise RegionNotFoundError(layout.physical_id, region_id)
    is_inside = region.start is None or is_below(region.start, at)
    if not is_inside or not (region.end is None or is_below(at, region.end)):
        raise OptionError("at", f"is not inside region {region_id}")
    return region


def regions_to_merge(
    layout: Layout, left_id: RegionID, right_id: RegionID, limits: CompactionLimits
) -> Sequence[Region] | None:
    """Return the two adjacent regions to merge; None if this merge was done before.

    Raises:
        RegionNotFoundError: A region does not exist (any more).
        OptionError: The regions are not adjacent, or are too large for one region.
    """
    if any(r.made_of == (left_id, right_id) for r in layout.regions):
        return None
    regions = [layout.known_region(region_id) for region_id in (left_id, right_id)]
    left, right = regions
    if left.end is None or left.end != right.start:
        raise OptionError("right", f"region {right_id} does not begin where {left_id} ends")
    if left.partitions != right.partitions:
        reason = f"is in another partition than {left_id}; use theflash move on one of them first"
        raise OptionError("right", reason)
    files = [f for f in layout.files if f.region_id in (left_id, right_id)]
    rows, size = sum(f.rows for f in files), sum(f.data_bytes for f in files)
    if rows > limits.region_rows or size > limits.region_bytes:
        reason = f"both have {rows} versions, {size} bytes in total, more than one region can hold"
        raise OptionError("right", reason)
    return regions


def split_region(
    folder: Path,
    layout: Layout,
    region: Region,
    at: Handle,
    columns: Sequence[ScanColumn],
    write: Write,
) -> tuple[LayoutChange, CompactionReport]:
    """Split a region at `at`; the table has no deltas."""
    lower, upper = (
        replace(half, made_of=(region.region_id,))
        for half in region.split_at([at], next_id(layout))
    )
    upper = replace(upper, is_fixed=True)
    own = [f for f in layout.files if f.region_id == region.region_id]
    sides = [_side(info, lower, upper) for info in own]
    if None not in sides:
        moved = [
            replace(info, region_id=side.region_id)
            for info, side in zip(own, sides, strict=True)
            if side is not None
        ]
        return LayoutChange(moved, (), [lower, upper], [region]), CompactionReport()
    cursors = [Cursor(folder, info, columns) for info in own]
    sample, files = sample_of(folder, own), list[DataFile]()
    for half in (lower, upper):
        files += merge_into_one(half, cursors, sample.cuts(half, PIECES_A_FILE), write)
    change = LayoutChange(files, own, [lower, upper], [region])
    return change, change.report()


def _side(info: DataFile, lower: Region, upper: Region) -> Region | None:
    """Return the half that contains a file; None if both have rows of it, or it is unknown."""
    for half in (lower, upper):
        if half.covers(info.min_handle, info.max_handle):
            return half
    return None
