"""The default engine: Parquet files of versions under one transactional manifest.

    publish      look up superseded versions, write and sync files, commit the manifest
    place        choose the files of a publication: `placement.py`
    plan         the regions of a physical table, each with the files that overlap it
    scan         `scan.py`
    compact      `compaction.py`
    flush        distribute deltas among the regions: `compaction.py`
    split, merge split a region, merge two regions: `split.py`
    move, copy   store a region's files in another partition: `move.py`
    purge        remove physical tables, or the rows of a range: `purge.py`

Files that are not in the manifest are remains of a crash, and removed when the next writer opens
the store. A replaced or purged file remains until no reader's lease pins a generation that has it.

Two threads may use an engine open for writing: one publishes and reads, the other runs pieces of
compactions (`begin`). A mutex serializes everything but the merging itself:

    publisher   ──begin──┬─publish─publish──────────publish─┐ waits ┌──publish
    compaction           └ merges the planned files ────────┴ swap ─┘

The swap checks that the table has not changed since planning, except for new deltas, rewrites those
so that they point into the merged files (`rebase.py`), and commits. If the table has changed in
another way, the merge is discarded.
"""

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

from pyspark_theflash.base.clock import Clock
from pyspark_theflash.base.errors import InternalError, OptionError, TheFlashError
from pyspark_theflash.base.failpoint import fail_point
from pyspark_theflash.base.fs import FileSystem
from pyspark_theflash.base.types import MAX_TS, Generation, PhysicalTableID, RegionID, TimeStamp
from pyspark_theflash.storage.engine.api import (
    CompactionReport,
    Handle,
    Piece,
    Publication,
    VersionBatch,
)
from pyspark_theflash.storage.engine.magic.compaction import (
    Compaction,
    CompactionLimits,
    Step,
    next_id,
)
from pyspark_theflash.storage.engine.magic.delta import delta_table
from pyspark_theflash.storage.engine.magic.file import DataFile, FileKind, read_whole
from pyspark_theflash.storage.engine.magic.layout import Layout, LayoutChange
from pyspark_theflash.storage.engine.magic.lookup import LOOKUP_BYTES
from pyspark_theflash.storage.engine.magic.move import move_files
from pyspark_theflash.storage.engine.magic.partitions import check_unused
from pyspark_theflash.storage.engine.magic.placement import place
from pyspark_theflash.storage.engine.magic.purge import has_rows, without_range
from pyspark_theflash.storage.engine.magic.rebase import Rebase
from pyspark_theflash.storage.engine.magic.region import NO_REGION, Region
from pyspark_theflash.storage.engine.magic.split import (
    region_to_split,
    regions_to_merge,
    split_region,
)
from pyspark_theflash.storage.engine.magic.writing import MagicStore, Merge, exclusive
from pyspark_theflash.storage.mvcc.project import ScanColumn
from pyspark_theflash.storage.store.manifest import Guard, ManifestChange, file_errors
from pyspark_theflash.storage.store.partition import Partitions, partition_key

SWAP_FILES: Final = 2
"""Maximum number of new deltas that a swap rewrites while publications wait."""
SWAP_ROUNDS: Final = 8
"""Maximum rounds of rewriting new deltas; the last one rewrites all of them under the mutex."""
_log = logging.getLogger(__name__)


class MagicEngine(MagicStore):
    """The magic engine, open for writing. Implements `Engine`."""

    def __init__(
        self,
        path: Path,
        fs: FileSystem,
        clock: Clock,
        *,
        limits: CompactionLimits | None = None,
        lookup_bytes: int = LOOKUP_BYTES,
        guard: Guard | None = None,
    ) -> None:
        """Open a store; `guard` is called in the transaction of each commit and may reject it."""
        super().__init__(path, fs, clock, lookup_bytes, guard)
        self._limits = limits or CompactionLimits()

    @exclusive
    def publish(self, publication: Publication) -> Generation:
        changes: dict[PhysicalTableID, LayoutChange] = {}
        with self._writing():
            for versions in publication.versions:
                if versions.batch.num_rows:
                    self._place(versions, changes)
            return self._commit(changes, publication.change)

    def compact(
        self,
        physical_id: PhysicalTableID,
        columns: Sequence[ScanColumn],
        *,
        safe_point: TimeStamp | None = None,
        everything: bool = False,
    ) -> CompactionReport:
        report, to = CompactionReport(), MAX_TS if everything else None
        while (piece := self._next_step(physical_id, columns, safe_point, to)) is not None:
            report = report.plus(piece())
        return report

    @exclusive
    def begin(
        self,
        physical_id: PhysicalTableID,
        columns: Sequence[ScanColumn],
        *,
        everything_to: TimeStamp | None = None,
        garbage_to: TimeStamp | None = None,
    ) -> Piece | None:
        if garbage_to is None:
            return self._next_step(physical_id, columns, None, everything_to)
        merge = self._merge(physical_id)
        compaction = self._compaction(merge, columns, garbage_to)
        return self._start(merge, compaction.collection(merge.planned, garbage_to))

    @exclusive
    def is_behind(self, physical_id: PhysicalTableID) -> bool:
        deltas, limits = self._layouts[physical_id].deltas, self._limits
        rows = 2 * max(limits.region_rows, limits.due_rows(self._layouts[physical_id].regions))
        return len(deltas) >= 2 * limits.most_deltas or sum(f.rows for f in deltas) >= rows

    @exclusive
    def purge(self, physical_ids: Sequence[PhysicalTableID]) -> Generation:
        with self._writing():
            layouts = [self._layouts[physical_id] for physical_id in physical_ids]
            changes = {
                layout.physical_id: LayoutChange(replaced=layout.files, dropped=layout.regions)
                for layout in layouts
            }
            fail_point("magic.before_purge_commit")
            generation = self._commit(changes)
            fail_point("magic.after_purge_commit")
            self._remove_retired()
            return generation

    @exclusive
    def purge_range(
        self,
        physical_id: PhysicalTableID,
        start: Handle | None,
        end: Handle | None,
        columns: Sequence[ScanColumn],
        others: ManifestChange | None = None,
    ) -> CompactionReport:
        purged, done = Region(physical_id, NO_REGION, start, end), CompactionReport()
        if any(has_rows(self._data, f, purged) for f in self._layouts[physical_id].files):
            # Deltas may point into files that are removed.
            done = self.flush(physical_id, columns)
        elif others is None:
            return done
        with self._writing():
            layout, writer = self._layouts[physical_id], partial(self._write, physical_id)
            change, report = without_range(self._data, layout, purged, columns, writer)
            done = done.plus(report)
            fail_point("magic.before_purge_commit")
            self._commit({physical_id: change}, others)
            fail_point("magic.after_purge_commit")
            self._remove_retired()
        return done

    @exclusive
    def flush(
        self, physical_id: PhysicalTableID, columns: Sequence[ScanColumn]
    ) -> CompactionReport:
        layout = self._layouts[physical_id]
        if not layout.deltas:
            return CompactionReport()
        with self._writing():
            change, report = self._compaction(self._merge(physical_id), columns).flush(layout)
            self._replace(physical_id, change, "flush")
            self._remove_retired()
        return report

    @exclusive
    def divide(self, physical_id: PhysicalTableID, bounds: Sequence[Handle]) -> None:
        layout = self._layouts[physical_id]
        if layout.files or len(layout.regions) > 1 or not bounds:
            return
        (whole,) = layout.regions
        parts = whole.split_at(bounds, next_id(layout))
        with self._writing():
            self._replace(physical_id, LayoutChange(regions=parts, dropped=[whole]), "divide")

    @exclusive
    def split(
        self,
        physical_id: PhysicalTableID,
        region_id: RegionID,
        at: Handle,
        columns: Sequence[ScanColumn],
    ) -> CompactionReport:
        if region_to_split(self._layouts[physical_id], region_id, at) is None:
            return CompactionReport()
        done = self.flush(physical_id, columns)
        layout = self._layouts[physical_id]
        region = region_to_split(layout, region_id, at)
        if region is None:
            return done
        with self._writing():
            writer = partial(self._write, physical_id)
            change, report = split_region(self._data, layout, region, at, columns, writer)
            self._replace(physical_id, change, "split")
            self._remove_retired()
        return done.plus(report)

    @exclusive
    def merge(
        self,
        physical_id: PhysicalTableID,
        left_id: RegionID,
        right_id: RegionID,
        columns: Sequence[ScanColumn],
    ) -> CompactionReport:
        if regions_to_merge(self._layouts[physical_id], left_id, right_id, self._limits) is None:
            return CompactionReport()
        done = self.flush(physical_id, columns)
        layout = self._layouts[physical_id]
        # Check again: the regions have got rows of deltas.
        regions = regions_to_merge(layout, left_id, right_id, self._limits)
        if regions is None:
            return done
        with self._writing():
            compaction = self._compaction(self._merge(physical_id), columns)
            change, report = compaction.merge_regions(layout, regions, by_hand=True)
            self._replace(physical_id, change, "merge")
            self._remove_retired()
        return done.plus(report)

    @exclusive
    def move(
        self, physical_id: PhysicalTableID, region_id: RegionID, partition: int
    ) -> CompactionReport:
        return self._move(self._layouts[physical_id].known_region(region_id), (partition,))

    @exclusive
    def copy(
        self, physical_id: PhysicalTableID, region_id: RegionID, partition: int
    ) -> CompactionReport:
        region = self._layouts[physical_id].known_region(region_id)
        return self._move(region, tuple(dict.fromkeys([*region.partitions, partition])))

    @exclusive
    def add_partition(self, folder: Path) -> int:
        if (existing := self._partitions.at(folder)) is not None:
            return existing
        with file_errors(folder):
            record = self._partitions.prepare(folder, self._fs)
        with self._writing():
            fail_point("partition.before_commit")
            self._advance(self._manifest.commit(ManifestChange([record]), self._token, self._guard))
            fail_point("partition.after_commit")
            self._load()
        return int(record.key)

    @exclusive
    def remove_partition(self, partition: int) -> None:
        with self._writing():
            self._remove_retired()
            self._load()  # The layouts of tables that were created since are not in the old view.
        check_unused(partition, self._partitions, self._layouts, self._retired())
        with self._writing():
            change, before = ManifestChange(deletes=[partition_key(partition)]), self._partitions
            self._advance(self._manifest.commit(change, self._token, self._guard))
            fail_point("partition.after_removal")
            self._load()
            before.forget(partition, self._fs)

    def _move(self, region: Region, partitions: Partitions) -> CompactionReport:
        """Store a region's files in exactly these partitions; see `Engine.move`."""
        if region.partitions == partitions:
            return CompactionReport()
        # Partitions that already have the region may be missing if another has an intact copy.
        for partition in (p for p in partitions if p not in region.partitions):
            if (fault := self._partitions.fault(partition)) is not None:
                raise OptionError("partition", fault)
        own = [
            f for f in self._layouts[region.physical_id].files if f.region_id == region.region_id
        ]
        for info in own:
            read_whole(self._data, info)  # Raises if damaged, before anything is written.
        with self._writing():
            retired, write = self._retired(), self._write_bytes
            change, report = move_files(self._data, region, own, partitions, retired, write)
            self._replace(region.physical_id, change, "move")
            self._remove_retired()
        return report

    def _place(self, versions: VersionBatch, changes: dict[PhysicalTableID, LayoutChange]) -> None:
        """Write versions to files, and add these to the `changes` of the same commit."""
        physical_id = versions.physical_id
        before = changes.get(physical_id, LayoutChange())
        layout = before.apply(self._layouts[physical_id])
        table = delta_table(versions, layout.files, self._lookup)
        # Only write by region if no other change of this commit or running merge changes regions.
        is_merging = any(m.planned.physical_id == physical_id for m in self._merges)
        may_place = self._partitions.is_whole and not (before.files or is_merging)
        limits = self._limits if may_place else None
        change = place(layout, table, limits, partial(self._write, physical_id))
        changes[physical_id] = before.plus(change)

    # -- compactions, in pieces

    def _merge(self, physical_id: PhysicalTableID) -> Merge:
        """Return a merge that numbers its files as it writes; `_start` reserves a block instead."""
        return Merge(self._layouts[physical_id], iter(self._numbers.take, None))

    def _compaction(
        self,
        merge: Merge,
        columns: Sequence[ScanColumn],
        safe_point: TimeStamp | None = None,
        *,
        everything_to: TimeStamp | None = None,
    ) -> Compaction:
        return Compaction(
            self._data,
            columns,
            self._limits,
            safe_point=safe_point,
            everything_to=everything_to,
            write=partial(self._write_merged, merge),
        )

    @exclusive
    def _next_step(
        self,
        physical_id: PhysicalTableID,
        columns: Sequence[ScanColumn],
        safe_point: TimeStamp | None,
        everything_to: TimeStamp | None,
    ) -> Piece | None:
        """Plan the next piece and reserve its file numbers, while nothing is published."""
        merge = self._merge(physical_id)
        compaction = self._compaction(merge, columns, safe_point, everything_to=everything_to)
        return self._start(merge, compaction.step(merge.planned))

    def _start(self, merge: Merge, step: Step | None) -> Piece | None:
        """Return the piece that runs a step. Removes retired files that no lease pins."""
        self._check_sound()
        if self._has_retired:
            with self._writing():
                self._remove_retired()
        if step is None:
            return None
        merge.numbers = self._numbers.block()
        self._merges.append(merge)
        return partial(self._run, merge, step)

    def _run(self, merge: Merge, step: Step) -> CompactionReport:
        try:
            with self._breaking():
                change, report = step()
                return self._swap(merge, change, report)
        except TheFlashError:
            self._discard(merge)
            raise
        finally:
            with self._mutex:
                self._has_retired = True
                self._merges.remove(merge)

    def _swap(
        self, merge: Merge, change: LayoutChange, report: CompactionReport
    ) -> CompactionReport:
        """Commit a merge; see the module docstring."""
        rebase = Rebase(self._data, change, partial(self._write_rebased, merge))
        for rounds_left in reversed(range(SWAP_ROUNDS)):
            with self._mutex:
                if (newer := self._published_since(merge.planned)) is None:
                    self._discard(merge)
                    _log.warning("compaction discarded: the table has changed during the merge")
                    return CompactionReport(rows_read=report.rows_read, discarded=1)
                pending = rebase.pending(newer)
                if not rounds_left or len(pending) <= SWAP_FILES:
                    with self._writing():
                        rebase.add(pending)
                        both = change.plus(rebase.change)
                        self._replace(merge.planned.physical_id, both, "compaction")
                    return report
            rebase.add(pending)
        raise InternalError("the last round of a swap did not commit")

    def _published_since(self, planned: Layout) -> Sequence[DataFile] | None:
        """Return the deltas added to a table; None if anything else of it has changed."""
        now = self._layouts[planned.physical_id]
        newer = now.files[len(planned.files) :]
        if now.regions != planned.regions or now.files[: len(planned.files)] != planned.files:
            return None
        return newer if all(f.kind is FileKind.DELTA for f in newer) else None
