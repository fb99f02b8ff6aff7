"""The default engine: Parquet files of versions under one transactional manifest.

    publish      find what each version supersedes, write and sync the files, commit the manifest
    place        which files those are: `placement.py`
    plan         the regions of a physical table, each with the files that reach into it
    scan         `scan.py`
    compact      `compaction.py`
    flush        leave no files across regions: `compaction.py`
    split, merge divide a region, unite two: `divide.py`
    move, copy   have a region's files in another partition: `move.py`
    purge        forget all files and regions of physical tables, or the rows of a range: `purge.py`

A file that the manifest does not name does not exist: what a crash leaves behind is swept when the
next writer opens. A file that has been replaced or purged stays until no reader's lease pins a
generation that still names it.

Two threads may use an engine that writes: one that publishes and reads, and one in which pieces of
compactions run (`begin`). A mutex keeps everything apart but the merging itself:

    publisher   ──begin──┬─publish─publish──────────publish─┐ waits ┌──publish
    compaction           └ merges files of the plan ────────┴ swap ─┘

The swap looks whether the table is what was planned on, with new deltas at most, has these point
into the merged files (`rebase.py`), and commits. If it is not, the merge was in vain.
"""

import contextlib
import functools
import logging
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Concatenate, Final, ParamSpec, TypeVar

import pyarrow as pa

from pyspark_theflash.clock import Clock
from pyspark_theflash.engine.api import (
    CompactionReport,
    FileStats,
    Handle,
    HandleSet,
    PartitionStats,
    Piece,
    Publication,
    RegionScan,
    RegionStats,
    RowCondition,
    TableStats,
    VersionBatch,
)
from pyspark_theflash.engine.magic.check import check_table
from pyspark_theflash.engine.magic.compaction import Compaction, Limits, Step
from pyspark_theflash.engine.magic.delta import delta_table
from pyspark_theflash.engine.magic.divide import divide, to_divide, to_unite
from pyspark_theflash.engine.magic.encode import FileEncoder
from pyspark_theflash.engine.magic.file import (
    FILE_KIND,
    DataFile,
    FileKind,
    number_of,
    one_array,
    read_columns,
    read_whole,
    repeating_columns,
)
from pyspark_theflash.engine.magic.handles import first_from
from pyspark_theflash.engine.magic.kept import KeptFiles, opened
from pyspark_theflash.engine.magic.layout import (
    RETIRED_KIND,
    Layout,
    LayoutChange,
    Layouts,
    scanned,
)
from pyspark_theflash.engine.magic.lookup import LOOKUP_BYTES, HandleLookup
from pyspark_theflash.engine.magic.move import keep_in
from pyspark_theflash.engine.magic.numbers import FileNumbers
from pyspark_theflash.engine.magic.partitions import check_unused, partition_stats
from pyspark_theflash.engine.magic.placement import place
from pyspark_theflash.engine.magic.purge import has_rows, without_range
from pyspark_theflash.engine.magic.rebase import Rebase
from pyspark_theflash.engine.magic.region import NO_REGION, REGION_KIND, Region
from pyspark_theflash.engine.magic.scan import RegionReader
from pyspark_theflash.engine.magic.visible import VisibleCache
from pyspark_theflash.errors import (
    CorruptionError,
    EngineError,
    InternalError,
    OptionError,
    StaleTokenError,
    TheFlashError,
)
from pyspark_theflash.failpoint import fail_point
from pyspark_theflash.fs import FileSystem
from pyspark_theflash.mvcc.project import Default, ScanColumn
from pyspark_theflash.mvcc.version import COMMIT_TS, HANDLE, OP, column_name
from pyspark_theflash.store.folder import DATA_FOLDER, open_manifest
from pyspark_theflash.store.lease import LeaseTable
from pyspark_theflash.store.manifest import Change, Guard, View, file_errors
from pyspark_theflash.store.partition import (
    PARTITION_KIND,
    Partitions,
    PartitionTable,
    name_of,
    partition_key,
)
from pyspark_theflash.store.writer_lock import WriterLock
from pyspark_theflash.types import (
    MAX_TS,
    ColumnID,
    Generation,
    PhysicalTableID,
    RegionID,
    TimeStamp,
)

SWAP_FILES: Final = 2
"""With so many new deltas at most, a swap has them written anew while publications wait."""
SWAP_ROUNDS: Final = 8
"""How often deltas are written anew before a swap, while more are published."""
_log = logging.getLogger(__name__)
_P = ParamSpec("_P")
_R = TypeVar("_R")


@dataclass(eq=False, slots=True)
class _Merge:
    """A piece of a compaction that was begun: the table as it was planned on, and what it writes.

    Files that no commit names yet are in `paths`.
    """

    started: Layout
    numbers: Iterator[int]
    paths: set[str] = field(default_factory=set)


def _exclusive(
    method: Callable[Concatenate["MagicEngine", _P], _R],
) -> Callable[Concatenate["MagicEngine", _P], _R]:
    """A method in the midst of which no other one runs."""

    @functools.wraps(method)
    def alone(self: "MagicEngine", /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        with self._mutex:
            return method(self, *args, **kwargs)

    return alone


class MagicReader:
    """The reading half; opens no file for writing."""

    def __init__(self, path: Path, fs: FileSystem, clock: Clock) -> None:
        self._path, self._fs, self._clock = path, fs, clock
        self._data = path / DATA_FOLDER
        self._manifest = open_manifest(path, fs)
        self._planned: Layouts | None = None
        self._visible, self._kept = VisibleCache(), KeptFiles()

    def read(self, kinds: Sequence[str]) -> View:
        return self._manifest.read([*kinds, FILE_KIND, REGION_KIND, PARTITION_KIND])

    def plan(self, view: View, physical_id: PhysicalTableID) -> Sequence[RegionScan]:
        return self._layouts_of(view)[physical_id].scans()

    def scan(
        self,
        region: RegionScan,
        columns: Sequence[ScanColumn],
        snapshot_ts: TimeStamp,
        *,
        with_handle: bool = False,
        dictionaries: Collection[ColumnID] = (),
        as_stored: bool = False,
        condition: RowCondition | None = None,
        without: HandleSet | None = None,
    ) -> Iterator[pa.RecordBatch]:
        bounds, files = scanned(region.parts)
        parts = region.parts if without is None else (without.id, *region.parts)
        key = self._visible.key(parts, files, snapshot_ts)
        known = self._visible.get(key)
        reader = RegionReader(
            self._data,
            bounds,
            columns,
            snapshot_ts,
            with_handle=with_handle,
            dictionaries=dictionaries,
            as_stored=as_stored,
            condition=condition,
            without=without,
            known=known,
            kept=self._kept,
        )
        yield from reader.rows(files)
        if known is None:
            self._visible.put(key, reader.found)

    def keys(
        self, view: View, physical_id: PhysicalTableID, start: Handle | None, end: Handle | None
    ) -> Iterator[pa.RecordBatch]:
        asked = Region(physical_id, RegionID(0), start, end)
        for info in self._layouts_of(view)[physical_id].files:
            if asked.reaches(info.min_handle, info.max_handle):
                table = read_columns(self._data, info, [HANDLE, COMMIT_TS, OP])
                handles = one_array(table.column(HANDLE))
                first = first_from(handles, start)
                last = len(handles) if end is None else first_from(handles, end)
                yield from table.slice(first, last - first).to_batches()

    def repeating(self, region: RegionScan, columns: Sequence[ScanColumn]) -> Collection[ColumnID]:
        _, files = scanned(region.parts)
        if not files:
            return ()
        largest = max(files, key=lambda f: f.rows)
        names = {column_name(c.id): c.id for c in columns}
        return [names[name] for name in repeating_columns(self._data, largest, list(names))]

    def never_null(self, region: RegionScan, columns: Sequence[ScanColumn]) -> Collection[ColumnID]:
        _, files = scanned(region.parts)
        left = {column_name(c.id): c.id for c in columns if isinstance(c.fill, Default)}
        for info in files:
            with opened(self._kept, self._data, info) as file:
                left = {name: left[name] for name in left.keys() & file.footer.never_null}
        return left.values()

    def tables(self, view: View) -> Sequence[PhysicalTableID]:
        return self._layouts_of(view).tables()

    def regions(self, view: View, physical_id: PhysicalTableID) -> Sequence[RegionStats]:
        return self._layouts_of(view)[physical_id].stats()

    def stats(self, view: View, physical_id: PhysicalTableID) -> TableStats:
        return _stats(self._layouts_of(view)[physical_id].files)

    def collectable(
        self, view: View, physical_id: PhysicalTableID, safe_point: TimeStamp
    ) -> TableStats:
        return _stats(self._layouts_of(view)[physical_id].collectable(safe_point))

    def files(self, view: View, physical_id: PhysicalTableID) -> Sequence[FileStats]:
        return self._layouts_of(view)[physical_id].file_stats()

    def partitions(self, view: View) -> Sequence[PartitionStats]:
        return partition_stats(PartitionTable(self._data, view), self._layouts_of(view))

    def check(self, view: View) -> Iterator[CorruptionError]:
        table = PartitionTable(self._data, view)
        for partition in table.numbers():
            if (fault := table.fault(partition)) is not None:
                yield CorruptionError(str(table.folder(partition)), 0, fault)
        layouts = self._layouts_of(view)
        for physical_id in layouts.recorded():
            yield from check_table(self._data, layouts[physical_id])

    def close(self) -> None:
        self._manifest.close()

    def _layouts_of(self, view: View) -> Layouts:
        """The view's layouts; a view is mostly asked for several tables in turn."""
        planned = self._planned
        if planned is None or planned.view is not view:
            planned = self._planned = Layouts(view)
        return planned


class MagicEngine(MagicReader):
    """Both halves; holds the store's writer lock."""

    def __init__(
        self,
        path: Path,
        fs: FileSystem,
        clock: Clock,
        *,
        limits: Limits | None = None,
        lookup_bytes: int = LOOKUP_BYTES,
        guard: Guard | None = None,
    ) -> None:
        """`guard`: looks, in the transaction of each publication, whether it may be done."""
        super().__init__(path, fs, clock)
        self._guard = guard
        self._limits = limits or Limits()
        self._lookup = HandleLookup(self._data, lookup_bytes)
        self._folders: set[Path] = set()
        self._broken: str | None = None
        self._mutex, self._numbers = threading.RLock(), FileNumbers()
        self._merges: list[_Merge] = []
        self._has_retired = False
        with contextlib.ExitStack() as undo, file_errors(path):
            undo.callback(self._manifest.close)
            self._lock = WriterLock(path)
            undo.callback(self._lock.release)
            self._token = self._manifest.take_token()
            self._load()
            known = self._known_paths()
            self._numbers.above(max(map(number_of, known), default=0))
            self._partitions.claim(fs)
            self._remove_others(known)
            self._remove_retired()
            undo.pop_all()

    @_exclusive
    def close(self) -> None:
        super().close()
        self._lock.release()

    @_exclusive
    def read(self, kinds: Sequence[str]) -> View:
        return super().read(kinds)

    @_exclusive
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
        done, to = CompactionReport(), MAX_TS if everything else None
        while (piece := self._next_step(physical_id, columns, safe_point, to)) is not None:
            done = done.plus(piece())
        return done

    @_exclusive
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
        return self._begun(merge, compaction.collection(merge.started, garbage_to))

    @_exclusive
    def is_behind(self, physical_id: PhysicalTableID) -> bool:
        deltas, limits = self._layouts[physical_id].deltas, self._limits
        rows = 2 * max(limits.region_rows, limits.due_rows(self._layouts[physical_id].regions))
        return len(deltas) >= 2 * limits.most_deltas or sum(f.rows for f in deltas) >= rows

    @_exclusive
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

    @_exclusive
    def purge_range(
        self,
        physical_id: PhysicalTableID,
        start: Handle | None,
        end: Handle | None,
        columns: Sequence[ScanColumn],
        others: Change | None = None,
    ) -> CompactionReport:
        purged, done = Region(physical_id, NO_REGION, start, end), CompactionReport()
        if any(has_rows(self._data, f, purged) for f in self._layouts[physical_id].files):
            # Deltas may point into files that go.
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

    @_exclusive
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

    @_exclusive
    def split(
        self,
        physical_id: PhysicalTableID,
        region_id: RegionID,
        at: Handle,
        columns: Sequence[ScanColumn],
    ) -> CompactionReport:
        if to_divide(self._layouts[physical_id], region_id, at) is None:
            return CompactionReport()
        done = self.flush(physical_id, columns)
        layout = self._layouts[physical_id]
        region = to_divide(layout, region_id, at)
        if region is None:
            return done
        with self._writing():
            writer = partial(self._write, physical_id)
            change, report = divide(self._data, layout, region, at, columns, writer)
            self._replace(physical_id, change, "split")
            self._remove_retired()
        return done.plus(report)

    @_exclusive
    def merge(
        self,
        physical_id: PhysicalTableID,
        left_id: RegionID,
        right_id: RegionID,
        columns: Sequence[ScanColumn],
    ) -> CompactionReport:
        if to_unite(self._layouts[physical_id], left_id, right_id, self._limits) is None:
            return CompactionReport()
        done = self.flush(physical_id, columns)
        layout = self._layouts[physical_id]
        # What lay across regions counts, too, now.
        regions = to_unite(layout, left_id, right_id, self._limits)
        if regions is None:
            return done
        with self._writing():
            compaction = self._compaction(self._merge(physical_id), columns)
            change, report = compaction.unite(layout, regions, by_hand=True)
            self._replace(physical_id, change, "merge")
            self._remove_retired()
        return done.plus(report)

    @_exclusive
    def move(
        self, physical_id: PhysicalTableID, region_id: RegionID, partition: int
    ) -> CompactionReport:
        return self._keep(self._layouts[physical_id].known_region(region_id), (partition,))

    @_exclusive
    def copy(
        self, physical_id: PhysicalTableID, region_id: RegionID, partition: int
    ) -> CompactionReport:
        region = self._layouts[physical_id].known_region(region_id)
        return self._keep(region, tuple(dict.fromkeys([*region.partitions, partition])))

    @_exclusive
    def add_partition(self, folder: Path) -> int:
        if (known := self._partitions.at(folder)) is not None:
            return known
        with file_errors(folder):
            record = self._partitions.prepare(folder, self._fs)
        with self._writing():
            fail_point("partition.before_commit")
            self._advance(self._manifest.commit(Change([record]), self._token, self._guard))
            fail_point("partition.after_commit")
            self._load()
        return int(record.key)

    @_exclusive
    def remove_partition(self, partition: int) -> None:
        with self._writing():
            self._remove_retired()
        check_unused(partition, self._partitions, self._layouts, self._retired())
        with self._writing():
            change, before = Change(deletes=[partition_key(partition)]), self._partitions
            self._advance(self._manifest.commit(change, self._token, self._guard))
            fail_point("partition.after_removal")
            self._load()
            before.forget(partition, self._fs)

    # -- writing

    def _keep(self, region: Region, partitions: Partitions) -> CompactionReport:
        """Have a region's files in these partitions; see `Engine.move`."""
        if region.partitions == partitions:
            return CompactionReport()
        # One that has it already may be missing: the others are as good.
        for partition in (p for p in partitions if p not in region.partitions):
            if (fault := self._partitions.fault(partition)) is not None:
                raise OptionError("partition", fault)
        own = [
            f for f in self._layouts[region.physical_id].files if f.region_id == region.region_id
        ]
        for info in own:
            read_whole(self._data, info)  # What is damaged shows before anything is written.
        with self._writing():
            retired, write = self._retired(), self._write_bytes
            change, report = keep_in(self._data, region, own, partitions, retired, write)
            self._replace(region.physical_id, change, "move")
            self._remove_retired()
        return report

    # -- compactions, in pieces

    def _merge(self, physical_id: PhysicalTableID) -> _Merge:
        """A merge that takes its numbers as it writes, until it is begun beside others."""
        return _Merge(self._layouts[physical_id], iter(self._numbers.take, None))

    def _compaction(
        self,
        merge: _Merge,
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

    @_exclusive
    def _next_step(
        self,
        physical_id: PhysicalTableID,
        columns: Sequence[ScanColumn],
        safe_point: TimeStamp | None,
        everything_to: TimeStamp | None,
    ) -> Piece | None:
        """The next piece that pays; planned and numbered while nothing is published."""
        merge = self._merge(physical_id)
        compaction = self._compaction(merge, columns, safe_point, everything_to=everything_to)
        return self._begun(merge, compaction.step(merge.started))

    def _begun(self, merge: _Merge, step: Step | None) -> Piece | None:
        """The piece that does a step; nobody reads what is retired by now but under a lease."""
        self._check_sound()
        if self._has_retired:
            with self._writing():
                self._remove_retired()
        if step is None:
            return None
        merge.numbers = self._numbers.block()
        self._merges.append(merge)
        return partial(self._run, merge, step)

    def _run(self, merge: _Merge, step: Step) -> CompactionReport:
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
        self, merge: _Merge, change: LayoutChange, report: CompactionReport
    ) -> CompactionReport:
        """Commit a merge; see the module."""
        rebase = Rebase(self._data, change, partial(self._write_rebased, merge))
        for further in reversed(range(SWAP_ROUNDS)):
            with self._mutex:
                if (newer := self._published_since(merge.started)) is None:
                    self._discard(merge)
                    _log.warning("a compaction was in vain: its files have changed meanwhile")
                    return CompactionReport(rows_read=report.rows_read, discarded=1)
                left = rebase.left(newer)
                if not further or len(left) <= SWAP_FILES:
                    with self._writing():
                        rebase.take(left)
                        both = change.plus(rebase.change)
                        self._replace(merge.started.physical_id, both, "compaction")
                    return report
            rebase.take(left)
        raise InternalError("a swap has a last round")

    def _published_since(self, started: Layout) -> Sequence[DataFile] | None:
        """The deltas that a table has got; None where anything else of it has changed."""
        now = self._layouts[started.physical_id]
        newer = now.files[len(started.files) :]
        if now.regions != started.regions or now.files[: len(started.files)] != started.files:
            return None
        return newer if all(f.kind is FileKind.DELTA for f in newer) else None

    @_exclusive
    def _discard(self, merge: _Merge) -> None:
        """Remove the files of a merge that comes to nothing, unless the disk is not believed."""
        if self._broken is not None:
            return
        # Paths in a folder that another store has taken the place of are not ours.
        self._manifest.check_in_place()
        with file_errors(self._path):
            for path in merge.paths:
                self._fs.unlink(self._data / path)

    def _replace(self, physical_id: PhysicalTableID, change: LayoutChange, step: str) -> None:
        fail_point(f"magic.before_{step}_commit")
        self._commit({physical_id: change})
        fail_point(f"magic.after_{step}_commit")

    def _place(self, versions: VersionBatch, changes: dict[PhysicalTableID, LayoutChange]) -> None:
        """Write versions, beside `changes` of the same commit, and add them to these."""
        physical_id = versions.physical_id
        before = changes.get(physical_id, LayoutChange())
        layout = before.apply(self._layouts[physical_id])
        table = delta_table(versions, layout.files, self._lookup)
        # One commit cuts a table's regions once.
        is_merged = any(m.started.physical_id == physical_id for m in self._merges)
        is_open = self._partitions.is_whole and not (before.files or is_merged)
        limits = self._limits if is_open else None
        change = place(layout, table, limits, partial(self._write, physical_id))
        changes[physical_id] = before.plus(change)

    def _write(
        self, physical_id: PhysicalTableID, file: FileEncoder, partitions: Partitions
    ) -> DataFile:
        return self._write_numbered(self._numbers.take(), physical_id, file, partitions, set())

    def _write_merged(self, merge: _Merge, file: FileEncoder, partitions: Partitions) -> DataFile:
        number, physical_id = next(merge.numbers), merge.started.physical_id
        return self._write_numbered(number, physical_id, file, partitions, merge.paths)

    def _write_rebased(self, merge: _Merge, file: FileEncoder, partitions: Partitions) -> DataFile:
        number, physical_id = self._numbers.take(), merge.started.physical_id
        return self._write_numbered(number, physical_id, file, partitions, merge.paths)

    def _write_numbered(
        self,
        number: int,
        physical_id: PhysicalTableID,
        file: FileEncoder,
        partitions: Partitions,
        paths: set[str],
    ) -> DataFile:
        encoded = file.finish(number=number, physical_id=physical_id)
        info = encoded.info.within(partitions)
        paths.update(info.paths)
        for path in info.paths:
            self._write_bytes(path, encoded.data)
        return info

    def _write_bytes(self, path: str, data: bytes | pa.Buffer) -> None:
        """Make a file of these bytes, in a folder that `_commit` syncs."""
        folder = (self._data / path).parent
        if folder not in self._folders:
            self._fs.make_folder(folder)
            self._folders.add(folder)
        fail_point("magic.before_file")
        self._fs.write_new(self._data / path, memoryview(data))
        fail_point("magic.after_file")

    def _commit(
        self, changes: Mapping[PhysicalTableID, LayoutChange], others: Change | None = None
    ) -> Generation:
        """Commit what has become of some tables, and other records with it."""
        written = [p for change in changes.values() for f in change.files for p in f.paths]
        for folder in sorted({(self._data / path).parent for path in written}):
            self._fs.sync_folder(folder)
        fail_point("magic.before_commit")
        others = others or Change()
        puts, deletes = list(others.puts), list(others.deletes)
        for change in changes.values():
            records, gone = change.records(self._generation)
            puts += records
            deletes += gone
        self._advance(self._manifest.commit(Change(puts, deletes), self._token, self._guard))
        for physical_id, change in changes.items():
            self._layouts.replace(change.apply(self._layouts[physical_id]))
            self._lookup.forget(f.number for f in change.replaced)
        return self._generation

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """What every write has in common: after a failure nothing in memory is believed.

        After a failed write or sync nobody knows what the disk holds, after a bug nobody knows
        anything, and another writer may have taken over: then the engine stops. All other errors (a
        full disk, a latch that has ended, a file that cannot be read) leave the disk as the
        manifest says, and the engine goes on from there.
        """
        with self._mutex:
            try:
                with self._breaking():
                    yield
            except TheFlashError as error:
                if self._broken is None:
                    # Until it is known again what the disk holds.
                    self._broken = str(error) or repr(error)
                    with file_errors(self._path):
                        self._load()
                        self._remove_others(self._known_paths())
                    self._broken = None
                raise

    @contextlib.contextmanager
    def _breaking(self) -> Iterator[None]:
        """After a final error of the block, nothing is written any more."""
        self._check_sound()
        try:
            with file_errors(self._path):
                yield
        except BaseException as error:
            is_final = isinstance(error, EngineError | InternalError | StaleTokenError)
            if is_final or not isinstance(error, TheFlashError):
                with self._mutex:
                    self._broken = str(error) or repr(error)
            raise

    @_exclusive
    def _check_sound(self) -> None:
        if self._broken is not None:
            raise EngineError(str(self._path), f"takes no more writes since: {self._broken}")

    def _load(self) -> None:
        """Take over what the manifest has."""
        self._layouts = Layouts(self.read([]))
        self._partitions = PartitionTable(self._data, self._layouts.view)
        self._lookup.clear()
        self._folders.clear()
        self._advance(self._layouts.view.generation)

    def _advance(self, generation: Generation) -> None:
        self._generation = generation
        self._numbers.advance(generation)

    # -- files that nobody needs

    def _remove_others(self, known: set[str]) -> None:
        """Remove files that no manifest has named: their write never came to its commit.

        A merge that runs meanwhile notes each path before it makes the file, so what was found
        before the notes are read is noted if it is a merge's.
        """
        found = list(self._partitions.files(self._fs))
        named = known.union(*(merge.paths for merge in self._merges))
        for path in found:
            if path not in named:
                self._fs.unlink(self._data / path)

    def _known_paths(self) -> set[str]:
        """The paths of the files that the manifest names, and of those that it has retired."""
        return {*self._layouts.paths(), *self._retired()}

    def _retired(self) -> Mapping[str, bytes]:
        """The paths that some older generation names, and the last one of these."""
        return self._manifest.read([RETIRED_KIND]).of_kind(RETIRED_KIND)

    def _remove_retired(self) -> None:
        """Remove files that have been replaced and that no reader and no merge can still want."""
        pinned = LeaseTable(self._manifest, self._clock).oldest_generation()
        retired, self._has_retired = self._retired(), False
        merged = tuple(f"{merge.started.physical_id}/" for merge in self._merges)
        free = [
            path
            for path, last in retired.items()
            if (pinned is None or pinned > int(last)) and not name_of(path).startswith(merged)
        ]
        if not free:
            return
        change = Change(deletes=[(RETIRED_KIND, path) for path in free])
        self._advance(self._manifest.commit(change, self._token))
        fail_point("magic.before_unlink")
        for path in free:
            self._fs.unlink(self._data / path)


def _stats(files: Sequence[DataFile]) -> TableStats:
    return TableStats(len(files), sum(f.rows for f in files), sum(f.size_bytes for f in files))
