"""Splitting a region where an operator says, and merging two.

    files       1 ──────────┬──────────     a file that lies on one side of the cut goes there as
                stable      │               it is; the others are merged and written anew, one for
                   layer    │    layer      each side
    afterwards  2 ──────────┼ 3 ────────
                stable, new │ stable, new

Either way the new map takes the place of the old one in one commit. A region's id is given once and
stands for one range, so an id from before is refused; what has the same effect and was done already
is not done again: the new regions say what they were made of.

No delta may be there: it would point into files that are merged.
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
    next_id,
)
from pyspark_theflash.storage.engine.magic.encode import FileEncoder
from pyspark_theflash.storage.engine.magic.file import DataFile, FileKind
from pyspark_theflash.storage.engine.magic.layout import Layout, LayoutChange
from pyspark_theflash.storage.engine.magic.merge import Cursor, merged, sample_of
from pyspark_theflash.storage.engine.magic.region import Region, is_below
from pyspark_theflash.storage.mvcc.project import ScanColumn


def region_to_split(layout: Layout, region_id: RegionID, at: Handle) -> Region | None:
    """The region that is to be split; None if that was done.

    Raises:
        RegionNotFoundError: it is not there, or not any more.
        OptionError: the cut is not inside it.
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
    """The neighbours that are to be merged; None if that was done.

    Raises:
        RegionNotFoundError: one is not there, or not any more.
        OptionError: they are no neighbours, or would be too large for one region.
    """
    if any(r.made_of == (left_id, right_id) for r in layout.regions):
        return None
    regions = [layout.known_region(region_id) for region_id in (left_id, right_id)]
    left, right = regions
    if left.end is None or left.end != right.start:
        raise OptionError("right", f"region {right_id} does not begin where {left_id} ends")
    if left.partitions != right.partitions:
        raise OptionError("right", "is in another partition: theflash move one of them first")
    files = [f for f in layout.files if f.region_id in (left_id, right_id)]
    rows, size = sum(f.rows for f in files), sum(f.data_bytes for f in files)
    if rows > limits.region_rows or size > limits.region_bytes:
        reason = f"both have {rows} versions of {size} bytes, and would be split again at once"
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
    """What has become of a region that is cut at `at`; there is no delta."""
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
    files = [_written(folder, own, cursors, half, write) for half in (lower, upper)]
    kept = [info for info in files if info is not None]
    rows = sum(info.rows for info in own)
    report = CompactionReport(
        rows_read=rows,
        rows_written=sum(info.rows for info in kept),
        files_replaced=len(own),
        files_written=len(kept),
        bytes_written=sum(info.size_bytes for info in kept),
    )
    return LayoutChange(kept, own, [lower, upper], [region]), report


def _written(
    folder: Path, own: Sequence[DataFile], cursors: Sequence[Cursor], half: Region, write: Write
) -> DataFile | None:
    """All versions of one half, merged, as its file; None where it has none."""
    encoder, numbers = FileEncoder(FileKind.STABLE), {info.number for info in own}
    for end in [*sample_of(folder, own).cuts(half, PIECES_A_FILE), half.end]:
        tables = [table for cursor in cursors for table in cursor.take_below(end)]
        if sum(map(len, tables)):
            encoder.add(merged(tables, numbers, None))
    if not encoder.rows:
        return None
    return replace(write(encoder, half.partitions), region_id=half.region_id)


def _side(info: DataFile, lower: Region, upper: Region) -> Region | None:
    """The half that has all of a file; None if both have some, or it is not known."""
    for half in (lower, upper):
        if half.covers(info.min_handle, info.max_handle):
            return half
    return None
