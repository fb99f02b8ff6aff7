"""Remove the rows of a range of handles from a physical table's files.

    range             ├───────────────┤
    regions    1 ────────┬ 2 ───────┬ 3 ─────     files inside the range are dropped; other files
    files      rewritten │ dropped  │ rewritten   of the region are merged and rewritten

Regions do not change. There must not be any deltas, since they could point into removed files.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from pyspark_theflash.storage.engine.api import CompactionReport, Handle
from pyspark_theflash.storage.engine.magic.compaction import PIECES_A_FILE, Write, merge_into_one
from pyspark_theflash.storage.engine.magic.file import DataFile, combine_chunks, read_columns
from pyspark_theflash.storage.engine.magic.handles import within
from pyspark_theflash.storage.engine.magic.layout import Layout, LayoutChange
from pyspark_theflash.storage.engine.magic.merge import Cursor, sample_of
from pyspark_theflash.storage.engine.magic.region import Region, is_below
from pyspark_theflash.storage.mvcc.project import ScanColumn
from pyspark_theflash.storage.mvcc.version import HANDLE


def has_rows(folder: Path, info: DataFile, purged: Region) -> bool:
    """Return whether a file has rows in the range of `purged`."""
    if purged.covers(info.min_handle, info.max_handle):
        return True
    if not purged.overlaps(info.min_handle, info.max_handle):
        return False
    handles = combine_chunks(read_columns(folder, info, [HANDLE]).column(HANDLE))
    return within(handles, purged.start, purged.end)[1] > 0


def without_range(
    folder: Path, layout: Layout, purged: Region, columns: Sequence[ScanColumn], write: Write
) -> tuple[LayoutChange, CompactionReport]:
    """Remove the rows in the range of `purged` from a table's files."""
    files: list[DataFile] = []
    replaced: list[DataFile] = []
    for region, own in layout.by_region():
        if any(has_rows(folder, info, purged) for info in own):
            replaced += own
            if not all(purged.covers(info.min_handle, info.max_handle) for info in own):
                cursors = [Cursor(folder, info, columns) for info in own]
                cuts = _cuts(folder, region, own, purged)
                is_purged = partial(_is_inside, purged)
                files += merge_into_one(region, cursors, cuts, write, is_purged)
    change = LayoutChange(files, replaced)
    return change, change.report()


def _cuts(folder: Path, region: Region, own: Sequence[DataFile], purged: Region) -> list[Handle]:
    """Return ascending handles inside a region; between two of them all or no rows are purged."""
    cuts = set(sample_of(folder, own).cuts(region, PIECES_A_FILE))
    for bound in (purged.start, purged.end):
        is_above = bound is not None and (region.start is None or is_below(region.start, bound))
        if bound is not None and is_above and (region.end is None or is_below(bound, region.end)):
            cuts.add(bound)
    return sorted(cuts)


def _is_inside(purged: Region, low: Handle | None, high: Handle | None) -> bool:
    """Return whether all handles from `low` to before `high` are purged."""
    is_above = purged.start is None or (low is not None and not is_below(low, purged.start))
    return is_above and (
        purged.end is None or (high is not None and not is_below(purged.end, high))
    )
