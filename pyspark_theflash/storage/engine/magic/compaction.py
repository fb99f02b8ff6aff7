"""Compaction: deltas become layers, layers join the stable file of their region.

    deltas   ──┬──────────┬──────────┬──   when there are some: all of them, cut by region, in one
               ▼          ▼          ▼     commit
    layers   region 1 │ region 2 │ region 3     while they are few
               ▼          ▼          ▼     when they are a quarter of the region, or the region has
    stable   region 1 │ 2a │ 2b  │ region 3     garbage to lose: cut where it has grown too large

Only the newest files of a range of handles are ever merged: layers when no delta is left, the
stable file together with all its layers. So no other file that was there when a step was planned
points into those merged. What is published while they are merged may; `rebase.py` corrects that.

Neighbours that a safe point has left little of are merged, but not where an operator has split.

Everything goes piece by piece (`merge.py`): memory holds one file's worth of rows and one row group
of each file that is read.
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
"""A safe point may leave little of a piece, so several make up a file."""


@dataclass(frozen=True, slots=True)
class CompactionLimits:
    """When a compaction does what.

    A region is split above `region_rows` or `region_bytes` (in memory). Deltas are merged when
    there are `deltas` of them and a region gets `layer_rows` on average, at the latest when there
    are `most_deltas`. A region's layers are merged when there are `layers` of them, and with its
    stable file when they have a `share` of its rows: at 50% each row is rewritten about twice over
    a table's growth, at 1% a hundred times. Layers that lie above all that is older do not count,
    since merging them saves nobody anything. A commit rewrites about `commit_rows` rows of stable
    files. A publication that has `direct_rows` for each region it reaches makes no delta; deltas of
    four times as many are merged, so that it can.
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
        """How many rows of deltas are merged, however few files they are in."""
        return 4 * self.direct_rows * len(regions)


class Depth(IntEnum):
    """How much of a region takes part, besides the deltas."""

    DELTAS = 0
    LAYERS = 1
    ALL = 2


@dataclass(frozen=True, slots=True)
class Task:
    """A region's part in a commit: its own files that take part, and how its rows are cut."""

    region: Region
    depth: Depth
    files: Sequence[DataFile]
    cuts: Sequence[Handle]
    file_rows: int
    merged_regions: Sequence[Region] = ()
    """Regions that are in the map until now, where `region` takes the place of several."""


Write: TypeAlias = Callable[[FileEncoder, Partitions], DataFile]
"""Makes a file durable in each of these partitions."""
Merged: TypeAlias = tuple[LayoutChange, CompactionReport]
"""The change to commit, whose files are written, and the report of the work."""
Step: TypeAlias = Callable[[], Merged]
"""The work of one commit, planned on one layout; it reads and writes when it is called."""


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
        """`everything_to`: merge also what does not pay, of all that commits up to there."""
        self._folder, self._columns, self._limits = folder, columns, limits
        self._safe_point, self._everything_to, self._write = safe_point, everything_to, write

    def step(self, layout: Layout) -> Step | None:
        """The next step that pays. To find out that there is none takes no look into files."""
        if layout.deltas:
            if not self._deltas_are_due(layout):
                return None
            return lambda: self._run(layout, layout.deltas, self._tasks(layout))
        for region, own in layout.by_region():
            if (depth := self._depth(own)) is not Depth.DELTAS:
                return partial(self._run_region, layout, region, own, depth)
        return self._uniting(layout)

    def collection(self, layout: Layout, safe_point: TimeStamp) -> Step | None:
        """Drop what the safe point allows of one region; None where no region has garbage."""
        for region, own in layout.by_region():
            if layout.has_garbage(region, own, safe_point):
                if layout.deltas:
                    return partial(self._run_deltas_and, layout, region)
                return partial(self._run_region, layout, region, own, Depth.ALL)
        return self._uniting(layout)

    def flush(self, layout: Layout) -> Merged:
        """Divide the deltas, of which there are some, among the regions, which stay as they are."""
        return self._run(layout, layout.deltas, self._tasks(layout, most=Depth.DELTAS))

    def _uniting(self, layout: Layout) -> Step | None:
        groups = small_neighbours(layout, self._limits)
        return partial(self.merge_regions, layout, groups[0]) if groups else None

    def _run_region(
        self, layout: Layout, region: Region, own: Sequence[DataFile], depth: Depth
    ) -> Merged:
        return self._run(layout, (), [self._task(region, depth, own, Sample(()))])

    def _run_deltas_and(self, layout: Layout, whole: Region) -> Merged:
        """Nothing older is merged without what is newer, so all regions take part."""
        tasks = self._tasks(layout, most=Depth.DELTAS, whole=whole)
        return self._run(layout, layout.deltas, tasks)

    # -- what pays

    def _deltas_are_due(self, layout: Layout) -> bool:
        deltas, limits = layout.deltas, self._limits
        rows = sum(f.rows for f in deltas)
        enough = rows >= limits.layer_rows * (len(layout.regions) - 1)
        return (
            any(self._is_asked(own, deltas) for _, own in layout.by_region())
            or len(deltas) >= limits.most_deltas
            or rows >= limits.due_rows(layout.regions)
            or (len(deltas) >= limits.deltas and enough)
        )

    def _is_asked(self, own: Sequence[DataFile], deltas: Sequence[DataFile]) -> bool:
        """Whether everything of a region is to be merged, with the deltas that reach into it."""
        to = self._everything_to
        if to is None:
            return False
        layers = [f for f in own if f.kind is FileKind.LAYER]
        return self._has_garbage(own) or any(f.min_commit_ts <= to for f in [*layers, *deltas])

    def _depth(
        self, own: Sequence[DataFile], delta_rows: int = 0, deltas: Sequence[DataFile] = ()
    ) -> Depth:
        """What pays in a region that gets some rows of the deltas."""
        layers = [f for f in own if f.kind is FileKind.LAYER]
        recent = sum(f.rows for f in layers) + delta_rows
        if self._is_asked(own, deltas if delta_rows else ()):
            return Depth.ALL
        rows = sum(f.rows for f in own) + delta_rows
        mixed = mixed_rows(own) + delta_rows
        if mixed and mixed >= self._limits.share * rows:
            return Depth.ALL
        if rows > self._limits.region_rows and any(f.min_handle is None for f in own):
            return Depth.ALL  # of format 1, which did not split
        is_merged = not delta_rows and _are_apart(layers)
        is_long = len(layers) + bool(delta_rows) >= max(self._limits.layers, 2) and not is_merged
        if is_long and recent >= self._limits.share * rows:
            return Depth.ALL
        return Depth.LAYERS if is_long else Depth.DELTAS

    def _has_garbage(self, own: Sequence[DataFile]) -> bool:
        return self._safe_point is not None and any(f.garbage_ts <= self._safe_point for f in own)

    # -- what to do

    def _tasks(
        self, layout: Layout, most: Depth = Depth.ALL, whole: Region | None = None
    ) -> list[Task]:
        """Every region's part in merging the deltas; `whole` is merged with all its files."""
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
        wanted = {Depth.DELTAS: (), Depth.LAYERS: (FileKind.LAYER,), Depth.ALL: tuple(FileKind)}
        files = [f for f in own if f.kind in wanted[depth]]
        rows = sum(f.rows for f in files) + delta_rows
        count = self._files_for(rows, [*files, *deltas])
        if count == 1:
            return Task(region, depth, files, [], rows)
        if files:
            sample = sample.plus(sample_of(self._folder, files))
        cuts = sample.cuts(region, count * PIECES_A_FILE)
        return Task(region, depth, files, cuts, rows // count)

    def _files_for(self, rows: int, files: Sequence[DataFile]) -> int:
        """How many files of the wanted size so many rows make, which are like those in `files`."""
        known = max(sum(f.rows for f in files), 1)
        size = rows * sum(f.data_bytes for f in files) // known
        limits = self._limits
        return max(-(-rows // limits.region_rows), -(-size // limits.region_bytes), 1)

    def merge_regions(
        self, layout: Layout, regions: Sequence[Region], *, by_hand: bool = False
    ) -> Merged:
        """Neighbours become one region. Where only one has files, they stay as they are."""
        own = [(r, files) for r, files in layout.by_region() if r in regions]
        first, last = regions[0], regions[-1]
        new_id, made_of = next_id(layout), tuple(r.region_id for r in regions) if by_hand else ()
        both = replace(first, region_id=new_id, end=last.end, made_of=made_of)
        files = [f for _, found in own for f in found]
        if sum(bool(found) for _, found in own) < 2:
            moved = [replace(f, region_id=both.region_id) for f in files]
            return LayoutChange(moved, (), [both], regions), CompactionReport()
        rows = sum(f.rows for f in files)
        return self._run(layout, (), [Task(both, Depth.ALL, files, [], rows, regions)])

    # -- doing it

    def _run(self, layout: Layout, deltas: Sequence[DataFile], tasks: Sequence[Task]) -> Merged:
        recent = [Cursor(self._folder, f, self._columns) for f in deltas]
        first_id = next_id(layout)
        change, rows_read = LayoutChange(replaced=deltas), 0
        for task in tasks:
            own = [Cursor(self._folder, f, self._columns) for f in task.files]
            output = _Output(task, self._limits, self._write)
            for end in [*task.cuts, task.region.end]:
                rows_read += self._merge_piece(task, [*own, *recent], end, output)
            change = change.plus(output.finish(RegionID(first_id + len(change.regions))))
        written = sum(f.rows for f in change.files)
        return change, CompactionReport(
            rows_read=rows_read,
            rows_written=written,
            rows_dropped=rows_read - written,
            files_replaced=len(change.replaced),
            files_written=len(change.files),
            bytes_written=sum(f.size_bytes for f in change.files),
        )

    def _merge_piece(
        self, task: Task, cursors: Sequence[Cursor], end: Handle | None, output: "_Output"
    ) -> int:
        """Merge what lies below `end`; returns how many versions were read."""
        tables = [table for cursor in cursors for table in cursor.take_below(end)]
        rows = sum(map(len, tables))
        if rows:
            # Only where all files of a region take part are these all the versions of their rows.
            safe_point = self._safe_point if task.depth is Depth.ALL else None
            output.add(merged(tables, {c.info.number for c in cursors}, safe_point), end)
        return rows


def mixed_rows(own: Sequence[DataFile]) -> int:
    """How many rows a region's layers have, without those that lie above all that is older."""
    top, rows = None, 0
    for info in own:
        if info.kind is FileKind.LAYER and not is_below(top, info.min_handle):
            rows += info.rows
        if top is None or is_below(top, info.max_handle):
            top = info.max_handle
    return rows


def _are_apart(files: Sequence[DataFile]) -> bool:
    """Whether each file ends before the next one by handle begins, as merged ones do."""
    in_order = sorted(files, key=lambda f: (f.min_handle is not None, f.min_handle))
    return all(is_below(f.max_handle, after.min_handle) for f, after in pairwise(in_order))


def next_id(layout: Layout) -> RegionID:
    """An id that none of the table's regions has, nor had."""
    return RegionID(max(region.region_id for region in layout.regions) + 1)


def small_neighbours(layout: Layout, limits: CompactionLimits) -> list[Sequence[Region]]:
    """Neighbours that together are half a region at most, or of which all but one are empty.

    All of them are in the same partitions.
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
        is_beside = groups and groups[-1][0].partitions == region.partitions
        if is_beside and not region.is_fixed and (is_small or not rows or not more_rows):
            groups[-1].append(region)
            rows, size = rows + more_rows, size + more_size
        else:
            groups.append([region])
            rows, size = more_rows, more_size
    return [group for group in groups if len(group) > 1]


class _Output:
    """Pieces of one task in handle order, as files of about the task's `file_rows`."""

    def __init__(self, task: Task, limits: CompactionLimits, write: Write) -> None:
        self._task, self._limits, self._write = task, limits, write
        self._kind = FileKind.STABLE if task.depth is Depth.ALL else FileKind.LAYER
        self._file = FileEncoder(self._kind)
        self._files: list[DataFile] = []
        self._end: Handle | None = None
        self._ends: list[Handle | None] = []

    def add(self, piece: pa.Table, end: Handle | None) -> None:
        """A piece that ends below `end`."""
        if not len(piece):
            return
        rows = self._file.rows + len(piece)
        size = self._file.data_bytes + piece.nbytes
        # A piece is rarely just as large as it was meant to be.
        most_rows = self._task.file_rows + self._task.file_rows // (2 * PIECES_A_FILE)
        if self._file.rows and (rows > most_rows or size > self._limits.region_bytes):
            self._flush()
        self._file.add(piece)
        self._end = end

    def finish(self, next_id: RegionID) -> LayoutChange:
        """What has become of the region; new ones are numbered from `next_id` on."""
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
        # A safe point may leave nothing of regions that are merged.
        files = [
            replace(f, region_id=r.region_id) for f, r in zip(self._files, regions, strict=False)
        ]
        return LayoutChange(files, replaced, regions, merged_regions or [region])

    def _flush(self) -> None:
        self._files.append(self._write(self._file, self._task.region.partitions))
        self._ends.append(self._end)
        self._file = FileEncoder(self._kind)
