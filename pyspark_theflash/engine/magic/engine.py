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
"""

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Final

import pyarrow as pa

from pyspark_theflash.clock import Clock
from pyspark_theflash.engine.api import (
    CompactionReport,
    FileStats,
    Handle,
    HandleSet,
    PartitionStats,
    Publication,
    RegionScan,
    RegionStats,
    RowCondition,
    TableStats,
    VersionBatch,
)
from pyspark_theflash.engine.magic.check import check_table
from pyspark_theflash.engine.magic.compaction import Compaction, Limits
from pyspark_theflash.engine.magic.delta import delta_table
from pyspark_theflash.engine.magic.divide import divide, to_divide, to_unite
from pyspark_theflash.engine.magic.encode import FileEncoder
from pyspark_theflash.engine.magic.file import (
    FILE_KIND,
    DataFile,
    one_array,
    read_columns,
    read_whole,
    repeating_columns,
)
from pyspark_theflash.engine.magic.handles import first_from
from pyspark_theflash.engine.magic.kept import KeptFiles, opened
from pyspark_theflash.engine.magic.layout import RETIRED_KIND, LayoutChange, Layouts, scanned
from pyspark_theflash.engine.magic.lookup import LOOKUP_BYTES, HandleLookup
from pyspark_theflash.engine.magic.move import keep_in
from pyspark_theflash.engine.magic.partitions import check_unused, partition_stats
from pyspark_theflash.engine.magic.placement import place
from pyspark_theflash.engine.magic.purge import has_rows, without_range
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
    partition_key,
)
from pyspark_theflash.store.writer_lock import WriterLock
from pyspark_theflash.types import ColumnID, Generation, PhysicalTableID, RegionID, TimeStamp

ORDINAL_BITS: Final = 24
"""A file's number is (generation << 24 | ordinal), so numbers grow and none is used twice."""


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
        if self._planned is None or self._planned.view is not view:
            self._planned = Layouts(view)
        return self._planned


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
        with contextlib.ExitStack() as undo, file_errors(path):
            undo.callback(self._manifest.close)
            self._lock = WriterLock(path)
            undo.callback(self._lock.release)
            self._token = self._manifest.take_token()
            self._load()
            self._partitions.claim(fs)
            self._remove_unnamed()
            self._remove_retired()
            undo.pop_all()

    def close(self) -> None:
        super().close()
        self._lock.release()

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
        compaction = Compaction(
            self._data,
            columns,
            self._limits,
            safe_point=safe_point,
            everything=everything,
            write=partial(self._write, physical_id),
        )
        done = CompactionReport()
        with self._writing():
            for change, report in compaction.steps(self._layouts[physical_id]):
                fail_point("magic.before_compaction_commit")
                self._commit({physical_id: change})
                fail_point("magic.after_compaction_commit")
                self._remove_retired()
                done = done.plus(report)
        return done

    def collect(
        self, physical_id: PhysicalTableID, columns: Sequence[ScanColumn], safe_point: TimeStamp
    ) -> CompactionReport | None:
        layout = self._layouts[physical_id]
        with self._writing():
            compaction = self._compaction(physical_id, columns, safe_point)
            done = compaction.collect(layout, safe_point)
            if done is None:
                return None
            change, report = done
            self._replace(physical_id, change, "compaction")
        return report

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

    def flush(
        self, physical_id: PhysicalTableID, columns: Sequence[ScanColumn]
    ) -> CompactionReport:
        layout = self._layouts[physical_id]
        if not layout.deltas:
            return CompactionReport()
        with self._writing():
            change, report = self._compaction(physical_id, columns).flush(layout)
            self._replace(physical_id, change, "flush")
        return report

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
        return done.plus(report)

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
            compaction = self._compaction(physical_id, columns)
            change, report = compaction.unite(layout, regions, by_hand=True)
            self._replace(physical_id, change, "merge")
        return done.plus(report)

    def move(
        self, physical_id: PhysicalTableID, region_id: RegionID, partition: int
    ) -> CompactionReport:
        return self._keep(self._layouts[physical_id].known_region(region_id), (partition,))

    def copy(
        self, physical_id: PhysicalTableID, region_id: RegionID, partition: int
    ) -> CompactionReport:
        region = self._layouts[physical_id].known_region(region_id)
        return self._keep(region, tuple(dict.fromkeys([*region.partitions, partition])))

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
        return report

    def _compaction(
        self,
        physical_id: PhysicalTableID,
        columns: Sequence[ScanColumn],
        safe_point: TimeStamp | None = None,
    ) -> Compaction:
        writer = partial(self._write, physical_id)
        return Compaction(self._data, columns, self._limits, safe_point=safe_point, write=writer)

    def _replace(self, physical_id: PhysicalTableID, change: LayoutChange, step: str) -> None:
        fail_point(f"magic.before_{step}_commit")
        self._commit({physical_id: change})
        fail_point(f"magic.after_{step}_commit")
        self._remove_retired()

    def _place(self, versions: VersionBatch, changes: dict[PhysicalTableID, LayoutChange]) -> None:
        """Write versions, beside `changes` of the same commit, and add them to these."""
        physical_id = versions.physical_id
        before = changes.get(physical_id, LayoutChange())
        layout = before.apply(self._layouts[physical_id])
        table = delta_table(versions, layout.files, self._lookup)
        # One commit cuts a table's regions once.
        limits = None if before.files or not self._partitions.is_whole else self._limits
        change = place(layout, table, limits, partial(self._write, physical_id))
        changes[physical_id] = before.plus(change)

    def _write(
        self, physical_id: PhysicalTableID, file: FileEncoder, partitions: Partitions
    ) -> DataFile:
        encoded = file.finish(number=next(self._numbers), physical_id=physical_id)
        info = encoded.info.within(partitions)
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
        if self._broken is not None:
            raise EngineError(str(self._path), f"takes no more writes since: {self._broken}")
        try:
            with file_errors(self._path):
                yield
        except BaseException as error:
            self._broken = str(error) or repr(error)
            is_final = isinstance(error, EngineError | InternalError | StaleTokenError)
            if isinstance(error, TheFlashError) and not is_final:
                with file_errors(self._path):
                    self._load()
                    self._remove_unnamed()
                self._broken = None
            raise

    def _load(self) -> None:
        """Take over what the manifest has."""
        self._layouts = Layouts(self.read([]))
        self._partitions = PartitionTable(self._data, self._layouts.view)
        self._lookup.clear()
        self._folders.clear()
        self._advance(self._layouts.view.generation)

    def _advance(self, generation: Generation) -> None:
        self._generation = generation
        self._numbers = count((generation + 1) << ORDINAL_BITS)

    # -- files that nobody needs

    def _remove_unnamed(self) -> None:
        """Remove files that no manifest has named: their write never came to its commit."""
        named = {*self._layouts.paths(), *self._retired()}
        for path in self._partitions.files(self._fs):
            if path not in named:
                self._fs.unlink(self._data / path)

    def _retired(self) -> Mapping[str, bytes]:
        """The paths that some older generation names, and the last one of these."""
        return self._manifest.read([RETIRED_KIND]).of_kind(RETIRED_KIND)

    def _remove_retired(self) -> None:
        """Remove files that have been replaced and that no reader can still want."""
        pinned = LeaseTable(self._manifest, self._clock).oldest_generation()
        retired = self._retired()
        free = [path for path, last in retired.items() if pinned is None or pinned > int(last)]
        if not free:
            return
        change = Change(deletes=[(RETIRED_KIND, path) for path in free])
        self._advance(self._manifest.commit(change, self._token))
        fail_point("magic.before_unlink")
        for path in free:
            self._fs.unlink(self._data / path)


def _stats(files: Sequence[DataFile]) -> TableStats:
    return TableStats(len(files), sum(f.rows for f in files), sum(f.size_bytes for f in files))
