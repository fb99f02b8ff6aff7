"""Compaction: merge deltas into layers, and layers into their region's stable file.

    deltas   ──┬──────────┬──────────┬──   All deltas are merged in one commit, cut by region.
               ▼          ▼          ▼
    layers   region 1 │ region 2 │ region 3     A region's layers are merged with its stable file
               ▼          ▼          ▼     when they have a large share of its rows, or to drop
    stable   region 1 │ 2a │ 2b  │ region 3     garbage. The region is split if it is too large.

Only the newest files of a range of handles are merged: layers only while there are no deltas, the
stable file only together with all layers. So no other file that existed when the step was planned
has pointers into the merged files. Deltas published during the merge may; `rebase.py` rewrites
them.

Adjacent regions that garbage collection has left small are merged, except at an operator's split.

Rows are merged in pieces (`merge.py`): memory holds the rows of one output file and one row group
of each input file.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Final, TypeAlias

import pyarrow as pa

from pyspark_theflash.base.types import RegionID, TimeStamp
from pyspark_theflash.storage.engine.api import CompactionReport, Handle
from pyspark_theflash.storage.engine.magic.encode import FileEncoder
from pyspark_theflash.storage.engine.magic.file import DataFile, FileKind
from pyspark_theflash.storage.engine.magic.layout import Layout, LayoutChange
from pyspark_theflash.storage.engine.magic.merge import Cursor, Sample, merged, sample_of
from pyspark_theflash.storage.engine.magic.region import Region, is_below
from pyspark_theflash.storage.mvcc.project import ScanColumn
from pyspark_theflash.storage.store.partition import Partitions

PIECES_A_FILE: Final = 4
"""Pieces merged into one file, as garbage collection may drop most of a piece."""


@dataclass(frozen=True, slots=True)
class CompactionLimits:
    """Thresholds of compaction and placement.

    A region is split above `region_rows` or `region_bytes` (in memory). Deltas are merged when
    there are at least `deltas` of them with at least `layer_rows` rows per region on average, or
    `most_deltas` of them. A region's layers are merged when there are `layers` of them, and with
    the stable file when they have a `share` of its rows: at 50% each row is rewritten about twice
    while a table grows, at 1% a hundred times. Layers above all older rows do not count, since
    merging them saves no work. A commit rewrites about `commit_rows` rows of stable files. A
    publication with `direct_rows` rows for each region that it overlaps is written by region
    instead of as a delta. Deltas with four times as many rows are merged, since that requires that
    there are none.
    """

    region_rows: int = 400_000
    region_bytes: int = 64 << 20
    direct_rows: int = 1 << 14
    deltas: int = 8
    most_deltas: int = 64
    layer_rows: int = 1024
    layers: int = 8
    share: float = 0.5
    commit_rows: int = 1_600_000

    def due_rows(self, regions: Sequence[Region]) -> int:
        """Return the number of rows at which deltas are merged, however few files they are."""
        return 4 * self.direct_rows * len(regions)


class Depth(IntEnum):
    """Kinds of a region's own files to merge, besides the deltas."""

    DELTAS = 0
    LAYERS = 1
    ALL = 2


@dataclass(frozen=True, slots=True)
class Task:
    """One region's part of a step: its own files to merge, and the cuts between pieces."""

    region: Region
    depth: Depth
    files: Sequence[DataFile]
    cuts: Sequence[Handle]
    file_rows: int
    merged_regions: Sequence[Region] = ()
    """The existing regions that `region` replaces, if several are merged into one."""


Write: TypeAlias = Callable[[FileEncoder, Partitions], DataFile]
"""Write and sync a file in each of these partitions."""
Merged: TypeAlias = tuple[LayoutChange, CompactionReport]
"""The change to commit, whose files have been written, and the report of the work."""
Step: TypeAlias = Callable[[], Merged]
"""The work of one commit, planned for one layout; reads and writes files when called."""


class Compaction:
    """One compaction of one physical table."""

    def __init__(
        self,
        folder: Path,
        columns: Sequence[ScanColumn],
        limits: CompactionLimits,
        *,
        safe_point: TimeStamp | None = None,
        everything_to: TimeStamp | None = None,
        write: Write,
    ) -> None:
        """See `Engine.compact` and `Engine.begin`; `write` writes each output file."""
        self._folder, self._columns, self._limits = folder, columns, limits
        self._safe_point, self._everything_to, self._write = safe_point, everything_to, write

    def step(self, layout: Layout) -> Step | None:
        """Return the next worthwhile step, or None. Reads no files."""
        if layout.deltas:
            if not self._deltas_are_due(layout):
                return None
            return lambda: self._run(layout, layout.deltas, self._tasks(layout))
        for region, own in layout.by_region():
            if (depth := self._depth(own)) is not Depth.DELTAS:
                return partial(self._run_region, layout, region, own, depth)
        return self._merging_small(layout)

    def collection(self, layout: Layout, safe_point: TimeStamp) -> Step | None:
        """Return a step that drops one region's garbage; None if no region has any."""
        for region, own in layout.by_region():
            if layout.has_garbage(region, own, safe_point):
                if layout.deltas:
                    return partial(self._run_deltas_and, layout, region)
                return partial(self._run_region, layout, region, own, Depth.ALL)
        return self._merging_small(layout)

    def flush(self, layout: Layout) -> Merged:
        """Distribute the deltas, at least one, among the regions, which do not change."""
        return self._run(layout, layout.deltas, self._tasks(layout, most=Depth.DELTAS))

    def _merging_small(self, layout: Layout) -> Step | None:
        groups = small_neighbours(layout, self._limits)
        return partial(self.merge_regions, layout, groups[0]) if groups else None

    def _run_region(
        self, layout: Layout, region: Region, own: Sequence[DataFile], depth: Depth
    ) -> Merged:
        return self._run(layout, (), [self._task(region, depth, own, Sample(()))])

    def _run_deltas_and(self, layout: Layout, whole: Region) -> Merged:
        """Merge all of a region. The newer deltas must be merged, too, and so into all regions."""
        tasks = self._tasks(layout, most=Depth.DELTAS, whole=whole)
        return self._run(layout, layout.deltas, tasks)

    # -- choosing files

    def _deltas_are_due(self, layout: Layout) -> bool:
        deltas, limits = layout.deltas, self._limits
        rows = sum(f.rows for f in deltas)
        enough = rows >= limits.layer_rows * (len(layout.regions) - 1)
        return (
            any(self._is_forced(own, deltas) for _, own in layout.by_region())
            or len(deltas) >= limits.most_deltas
            or rows >= limits.due_rows(layout.regions)
            or (len(deltas) >= limits.deltas and enough)
        )

    def _is_forced(self, own: Sequence[DataFile], deltas: Sequence[DataFile]) -> bool:
        """Return whether `everything_to` requires to merge a region with these deltas."""
        to = self._everything_to
        if to is None:
            return False
        layers = [f for f in own if f.kind is FileKind.LAYER]
        return self._has_garbage(own) or any(f.min_commit_ts <= to for f in [*layers, *deltas])

    def _depth(
        self, own: Sequence[DataFile], delta_rows: int = 0, deltas: Sequence[DataFile] = ()
    ) -> Depth:
        """Choose what to merge in a region that gets `delta_rows` rows of the deltas."""
        layers = [f for f in own if f.kind is FileKind.LAYER]
        recent = sum(f.rows for f in layers) + delta_rows
        if self._is_forced(own, deltas if delta_rows else ()):
            return Depth.ALL
        rows = sum(f.rows for f in own) + delta_rows
        mixed = mixed_rows(own) + delta_rows
        if mixed and mixed >= self._limits.share * rows:
            return Depth.ALL
        if rows > self._limits.region_rows and any(f.min_handle is None for f in own):
            return Depth.ALL  # Format 1 did not split regions.
        is_merged = not delta_rows and _are_disjoint(layers)
        has_many = len(layers) + bool(delta_rows) >= max(self._limits.layers, 2) and not is_merged
        if has_many and recent >= self._limits.share * rows:
            return Depth.ALL
        return Depth.LAYERS if has_many else Depth.DELTAS

    def _has_garbage(self, own: Sequence[DataFile]) -> bool:
        return self._safe_point is not None and any(f.garbage_ts <= self._safe_point for f in own)

    # -- planning tasks

    def _tasks(
        self, layout: Layout, most: Depth = Depth.ALL, whole: Region | None = None
    ) -> list[Task]:
        """Plan every region's part in merging the deltas; `whole` is merged with all its files."""
        deltas = layout.deltas
        rows = sum(f.rows for f in layout.files)
        needs_sample = len(layout.regions) > 1 or self._files_for(rows, layout.files) > 1
        sample = sample_of(self._folder, deltas) if needs_sample else Sample(())
        rows = sum(f.rows for f in deltas)
        tasks, rewritten = [], 0
        for region, own in layout.by_region():
            delta_rows = sample.rows_in(region) if needs_sample else rows
            depth = (
                Depth.ALL if region == whole else min(self._depth(own, delta_rows, deltas), most)
            )
            own_rows = sum(f.rows for f in own)
            if rewritten and rewritten + own_rows > self._limits.commit_rows:
                depth = Depth.DELTAS
            rewritten += own_rows if depth is Depth.ALL else 0
            tasks.append(self._task(region, depth, own, sample, delta_rows, deltas))
        return tasks

    def _task(
        self,
        region: Region,
        depth: Depth,
        own: Sequence[DataFile],
        sample: Sample,
        delta_rows: int = 0,
        deltas: Sequence[DataFile] = (),
    ) -> Task:
        kinds = {Depth.DELTAS: (), Depth.LAYERS: (FileKind.LAYER,), Depth.ALL: tuple(FileKind)}
        files = [f for f in own if f.kind in kinds[depth]]
        rows = sum(f.rows for f in files) + delta_rows
        count = self._files_for(rows, [*files, *deltas])
        if count == 1:
            return Task(region, depth, files, [], rows)
        if files:
            sample = sample.plus(sample_of(self._folder, files))
        cuts = sample.cuts(region, count * PIECES_A_FILE)
        return Task(region, depth, files, cuts, rows // count)

    def _files_for(self, rows: int, files: Sequence[DataFile]) -> int:
        """Return into how many files to cut rows that are as large as those of `files`."""
        sample_rows = max(sum(f.rows for f in files), 1)
        size = rows * sum(f.data_bytes for f in files) // sample_rows
        limits = self._limits
        return max(-(-rows // limits.region_rows), -(-size // limits.region_bytes), 1)

    def merge_regions(
        self, layout: Layout, regions: Sequence[Region], *, by_hand: bool = False
    ) -> Merged:
        """Merge adjacent regions into one. Files are not rewritten if only one region has any."""
        own = [(r, files) for r, files in layout.by_region() if r in regions]
        first, last = regions[0], regions[-1]
        new_id, made_of = next_id(layout), tuple(r.region_id for r in regions) if by_hand else ()
        both = replace(first, region_id=new_id, end=last.end, made_of=made_of)
        files = [f for _, region_files in own for f in region_files]
        if sum(bool(region_files) for _, region_files in own) < 2:
            moved = [replace(f, region_id=both.region_id) for f in files]
            return LayoutChange(moved, (), [both], regions), CompactionReport()
        rows = sum(f.rows for f in files)
        return self._run(layout, (), [Task(both, Depth.ALL, files, [], rows, regions)])

    # -- merging

    def _run(self, layout: Layout, deltas: Sequence[DataFile], tasks: Sequence[Task]) -> Merged:
        recent = [Cursor(self._folder, f, self._columns) for f in deltas]
        first_id = next_id(layout)
        change = LayoutChange(replaced=deltas)
        for task in tasks:
            own = [Cursor(self._folder, f, self._columns) for f in task.files]
            output = _Output(task, self._limits, self._write)
            for end in [*task.cuts, task.region.end]:
                self._merge_piece(task, [*own, *recent], end, output)
            change = change.plus(output.finish(RegionID(first_id + len(change.regions))))
        return change, change.report()

    def _merge_piece(
        self, task: Task, cursors: Sequence[Cursor], end: Handle | None, output: "_Output"
    ) -> None:
        """Merge the rows below `end`."""
        tables = [table for cursor in cursors for table in cursor.take_below(end)]
        if sum(map(len, tables)):
            # Dropping needs all versions of a row, so all files of the region.
            safe_point = self._safe_point if task.depth is Depth.ALL else None
            output.add(merged(tables, {c.info.number for c in cursors}, safe_point), end)


def mixed_rows(own: Sequence[DataFile]) -> int:
    """Count the rows of a region's layers, except layers above all older rows."""
    top, rows = None, 0
    for info in own:
        if info.kind is FileKind.LAYER and not is_below(top, info.min_handle):
            rows += info.rows
        if top is None or is_below(top, info.max_handle):
            top = info.max_handle
    return rows


def _are_disjoint(files: Sequence[DataFile]) -> bool:
    """Return whether the handle ranges of files are known to be disjoint, as after a merge."""
    in_order = sorted(files, key=lambda f: (f.min_handle is not None, f.min_handle))
    return all(is_below(f.max_handle, after.min_handle) for f, after in pairwise(in_order))


def merge_into_one(
    region: Region,
    cursors: Sequence[Cursor],
    cuts: Sequence[Handle],
    write: Write,
    is_dropped: Callable[[Handle | None, Handle | None], bool] = lambda low, high: False,
) -> list[DataFile]:
    """Merge a region's versions into one stable file; no file if there are none.

    Args:
        cursors: the files of the region, and maybe of regions below, read up to the region's start.
        cuts: the bounds between pieces inside the region.
        is_dropped: returns whether to drop a piece, by its first handle and the end after it.
    """
    encoder, numbers = FileEncoder(FileKind.STABLE), {c.info.number for c in cursors}
    for low, high in pairwise([region.start, *cuts, region.end]):
        tables = [table for cursor in cursors for table in cursor.take_below(high)]
        if sum(map(len, tables)) and not is_dropped(low, high):
            encoder.add(merged(tables, numbers, None))
    if not encoder.rows:
        return []
    return [replace(write(encoder, region.partitions), region_id=region.region_id)]


def next_id(layout: Layout) -> RegionID:
    """Return a region id that the table has never used."""
    return RegionID(max(region.region_id for region in layout.regions) + 1)


def small_neighbours(layout: Layout, limits: CompactionLimits) -> list[Sequence[Region]]:
    """Return groups of adjacent regions to merge.

    A group has at most half the size of a full region in total, or only one that is not empty. All
    of its regions are in the same partitions.
    """
    if layout.deltas:
        return []
    groups: list[list[Region]] = []
    rows = size = 0
    for region, own in layout.by_region():
        more_rows, more_size = sum(f.rows for f in own), sum(f.data_bytes for f in own)
        is_small = (
            2 * (rows + more_rows) <= limits.region_rows
            and 2 * (size + more_size) <= limits.region_bytes
        )
        is_mergeable = groups and groups[-1][0].partitions == region.partitions
        if is_mergeable and not region.is_fixed and (is_small or not rows or not more_rows):
            groups[-1].append(region)
            rows, size = rows + more_rows, size + more_size
        else:
            groups.append([region])
            rows, size = more_rows, more_size
    return [group for group in groups if len(group) > 1]


class _Output:
    """Writer of one task's pieces, in handle order, to files of about `file_rows` rows."""

    def __init__(self, task: Task, limits: CompactionLimits, write: Write) -> None:
        self._task, self._limits, self._write = task, limits, write
        self._kind = FileKind.STABLE if task.depth is Depth.ALL else FileKind.LAYER
        self._file = FileEncoder(self._kind)
        self._files: list[DataFile] = []
        self._end: Handle | None = None
        self._ends: list[Handle | None] = []

    def add(self, piece: pa.Table, end: Handle | None) -> None:
        """Append a piece, whose handles are below `end`."""
        if not len(piece):
            return
        rows = self._file.rows + len(piece)
        size = self._file.data_bytes + piece.nbytes
        # The size of pieces is only approximate.
        most_rows = self._task.file_rows + self._task.file_rows // (2 * PIECES_A_FILE)
        if self._file.rows and (rows > most_rows or size > self._limits.region_bytes):
            self._flush()
        self._file.add(piece)
        self._end = end

    def finish(self, next_id: RegionID) -> LayoutChange:
        """Write the last file. Return the change of the region; new ids start at `next_id`."""
        region, replaced, merged_regions = (
            self._task.region,
            self._task.files,
            self._task.merged_regions,
        )
        if self._file.rows:
            self._flush()
        if not merged_regions and (self._task.depth is not Depth.ALL or len(self._files) < 2):
            files = [replace(f, region_id=region.region_id) for f in self._files]
            return LayoutChange(files, replaced)
        regions = region.split_at([end for end in self._ends[:-1] if end is not None], next_id)
        if len(regions) == 1:
            regions = [replace(regions[0], made_of=region.made_of)]
        # There is no file if garbage collection has dropped all rows of the merged regions.
        files = [
            replace(f, region_id=r.region_id) for f, r in zip(self._files, regions, strict=False)
        ]
        return LayoutChange(files, replaced, regions, merged_regions or [region])

    def _flush(self) -> None:
        self._files.append(self._write(self._file, self._task.region.partitions))
        self._ends.append(self._end)
        self._file = FileEncoder(self._kind)
