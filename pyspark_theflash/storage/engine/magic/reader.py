"""The magic engine's `EngineReader`."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from pyspark_theflash.base.clock import Clock
from pyspark_theflash.base.errors import CorruptionError
from pyspark_theflash.base.fs import FileSystem
from pyspark_theflash.base.lru import LeastRecent
from pyspark_theflash.base.types import ColumnID, PhysicalTableID, RegionID, TimeStamp
from pyspark_theflash.storage.engine.api import (
    FileStats,
    Handle,
    PartitionStats,
    RegionScan,
    RegionStats,
    ScanSpec,
    TableStats,
)
from pyspark_theflash.storage.engine.magic.check import check_table
from pyspark_theflash.storage.engine.magic.file import (
    FILE_KIND,
    DataFile,
    combine_chunks,
    read_columns,
    repeating_columns,
)
from pyspark_theflash.storage.engine.magic.file_cache import FileCache, opened
from pyspark_theflash.storage.engine.magic.handles import within
from pyspark_theflash.storage.engine.magic.layout import Layouts, RegionFiles
from pyspark_theflash.storage.engine.magic.partitions import partition_stats
from pyspark_theflash.storage.engine.magic.region import REGION_KIND, Region
from pyspark_theflash.storage.engine.magic.scan import RegionReader
from pyspark_theflash.storage.engine.magic.versions import sorted_versions
from pyspark_theflash.storage.engine.magic.visible import (
    CACHE_BYTES,
    VisibleRows,
    cached_size,
    visible_key,
)
from pyspark_theflash.storage.mvcc.project import Default, ScanColumn
from pyspark_theflash.storage.mvcc.version import COMMIT_TS, HANDLE, OP, column_name
from pyspark_theflash.storage.store.folder import DATA_FOLDER, open_manifest
from pyspark_theflash.storage.store.manifest import View
from pyspark_theflash.storage.store.partition import PARTITION_KIND, PartitionTable


class MagicReader:
    """Reader of a store; opens no file for writing."""

    def __init__(self, path: Path, fs: FileSystem, clock: Clock) -> None:
        self._path, self._fs, self._clock = path, fs, clock
        self._data = path / DATA_FOLDER
        self._manifest = open_manifest(path, fs)
        self._planned: Layouts | None = None
        self._visible = LeastRecent[bytes, Mapping[int, VisibleRows]](CACHE_BYTES)
        self._file_cache = FileCache()

    def read(self, kinds: Sequence[str]) -> View:
        return self._manifest.read([*kinds, FILE_KIND, REGION_KIND, PARTITION_KIND])

    def plan(self, view: View, physical_id: PhysicalTableID) -> Sequence[RegionScan]:
        return self._layouts_of(view)[physical_id].scans()

    def scan(self, region: RegionScan, spec: ScanSpec) -> Iterator[pa.RecordBatch]:
        content = RegionFiles.of(region)
        key = visible_key(content, spec)
        cached = self._visible.get(key)
        reader = RegionReader(self._data, content.region, spec, cached, self._file_cache)
        yield from reader.rows(content.files)
        if cached is None and reader.is_complete:
            self._visible.put(key, reader.visible, cached_size(reader.visible))

    def keys(
        self, view: View, physical_id: PhysicalTableID, start: Handle | None, end: Handle | None
    ) -> Iterator[pa.RecordBatch]:
        requested = Region(physical_id, RegionID(0), start, end)
        for info in self._layouts_of(view)[physical_id].files:
            if requested.overlaps(info.min_handle, info.max_handle):
                table = read_columns(self._data, info, [HANDLE, COMMIT_TS, OP])
                rows = within(combine_chunks(table.column(HANDLE)), start, end)
                yield from table.slice(*rows).to_batches()

    def versions(
        self,
        view: View,
        physical_id: PhysicalTableID,
        columns: Sequence[ScanColumn],
        start: Handle | None,
    ) -> Iterator[pa.RecordBatch]:
        return sorted_versions(self._data, self._layouts_of(view)[physical_id], columns, start)

    def repeating(self, region: RegionScan, columns: Sequence[ScanColumn]) -> Collection[ColumnID]:
        files = RegionFiles.of(region).files
        if not files:
            return ()
        largest = max(files, key=lambda f: f.rows)
        names = {column_name(c.id): c.id for c in columns}
        return [names[name] for name in repeating_columns(self._data, largest, list(names))]

    def never_null(self, region: RegionScan, columns: Sequence[ScanColumn]) -> Collection[ColumnID]:
        ids = {column_name(c.id): c.id for c in columns if isinstance(c.fill, Default)}
        for info in RegionFiles.of(region).files:
            with opened(self._file_cache, self._data, info) as file:
                ids = {name: ids[name] for name in ids.keys() & file.footer.never_null}
        return ids.values()

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
        """Return the layouts of a view; caches those of the last one."""
        planned = self._planned
        if planned is None or planned.view is not view:
            planned = self._planned = Layouts(view)
        return planned


def _stats(files: Sequence[DataFile]) -> TableStats:
    return TableStats(len(files), sum(f.rows for f in files), sum(f.size_bytes for f in files))
