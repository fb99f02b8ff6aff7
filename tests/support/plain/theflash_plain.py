"""The engine *plain*, as another package could add it: a Parquet file for each published batch.

    data/<physical table>/<number>.parquet   versions of rows, as they were published
    record "plain" <path>                    the table, CRC and sizes of a file
    record "plain.retired" <path>            the last generation that names a replaced file

It is short and slow: a scan reads all files of a table, and only a collection rewrites files. It
has no regions. The module is the engine's driver, see `EngineDriver`.
"""

import json
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import google_crc32c
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pyspark_theflash.base.clock import Clock
from pyspark_theflash.base.errors import (
    CorruptionError,
    EngineError,
    InternalError,
    StaleTokenError,
    TheFlashError,
)
from pyspark_theflash.base.fs import FileSystem
from pyspark_theflash.base.types import ColumnID, Generation, PhysicalTableID, RegionID, TimeStamp
from pyspark_theflash.storage.engine.api import (
    CompactionReport,
    Engine,
    EngineReader,
    FileStats,
    Handle,
    PartitionStats,
    Piece,
    Publication,
    RegionContent,
    RegionScan,
    RegionStats,
    ScanSpec,
    TableStats,
)
from pyspark_theflash.storage.engine.whole_tables import WholeTables
from pyspark_theflash.storage.mvcc.filter import filter_rows
from pyspark_theflash.storage.mvcc.project import ScanColumn, batch_of, copied_columns, project
from pyspark_theflash.storage.mvcc.version import COMMIT_TS, HANDLE, OP, START_TS, Op, column_name
from pyspark_theflash.storage.store.folder import DATA_FOLDER, open_manifest
from pyspark_theflash.storage.store.latch.lease import LeaseTable
from pyspark_theflash.storage.store.manifest import (
    Guard,
    ManifestChange,
    Record,
    View,
    file_errors,
)
from pyspark_theflash.storage.store.writer_lock import WriterLock
from pyspark_theflash.tidb.codec.document import int64, load, shaped, text, uint64

FILE = "plain"
RETIRED = "plain.retired"
BATCH_ROWS = 1 << 16


@dataclass(frozen=True)
class PlainFile:
    """A file of versions of a physical table."""

    path: str
    physical_id: int
    crc: int
    rows: int
    size_bytes: int
    min_ts: int
    max_ts: int

    @classmethod
    def from_json(cls, body: str | bytes) -> "PlainFile":
        """Raises `CodecError`."""
        with shaped("plain file"):
            fields = load(body)
            path, numbers = text(fields.pop("path")), {k: uint64(v) for k, v in fields.items()}
            return cls(path, int64(numbers.pop("physical_id")), **numbers)

    def to_json(self) -> str:
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class PlainContent:
    """The files of a table; implements `RegionContent`."""

    files: tuple[PlainFile, ...]

    def texts(self) -> tuple[str, ...]:
        return tuple(file.to_json() for file in self.files)


def open_reader(path: Path, fs: FileSystem, clock: Clock) -> EngineReader:
    return PlainReader(path, fs, clock)


def open_engine(path: Path, fs: FileSystem, clock: Clock, guard: Guard | None) -> Engine:
    return PlainEngine(path, fs, clock, guard)


def region_content(texts: Sequence[str]) -> RegionContent:
    return PlainContent(tuple(map(PlainFile.from_json, texts)))


class PlainReader:
    """Implements `EngineReader`."""

    def __init__(self, path: Path, fs: FileSystem, clock: Clock) -> None:
        self._path, self._fs, self._clock = path, fs, clock
        self._data = path / DATA_FOLDER
        self._manifest = open_manifest(path, fs)

    def read(self, kinds: Sequence[str]) -> View:
        return self._manifest.read([*kinds, FILE])

    def plan(self, view: View, physical_id: PhysicalTableID) -> Sequence[RegionScan]:
        files = _files(view, physical_id)
        content = PlainContent(tuple(files))
        return [RegionScan(physical_id, RegionID(1), content)] if files else []

    def scan(self, region: RegionScan, spec: ScanSpec) -> Iterator[pa.RecordBatch]:
        assert isinstance(region.content, PlainContent)
        tables = [self._load(file) for file in region.content.files]
        for table, places in zip(tables, _newest(tables, spec.snapshot_ts), strict=True):
            rows = table.take(places)
            rows = rows.filter(pc.equal(rows.column(OP), int(Op.PUT)))
            if spec.without is not None:
                matches = pc.is_in(rows.column(HANDLE), value_set=spec.without.handles)
                rows = rows.filter(pc.invert(matches))
            if spec.condition is not None:
                names = [column_name(column.id) for column in spec.condition.columns]
                compared = batch_of(names, _project(rows, spec.condition.columns), rows.num_rows)
                rows = filter_rows(rows, spec.condition.rows(compared))
            values = [
                value.dictionary_encode() if column.id in spec.dictionaries else value
                for column, value in zip(spec.columns, _project(rows, spec.columns), strict=True)
            ]
            handles = [rows.column(HANDLE).combine_chunks()] * spec.with_handle
            yield batch_of(spec.names, [*handles, *values], rows.num_rows)

    def keys(
        self, view: View, physical_id: PhysicalTableID, start: Handle | None, end: Handle | None
    ) -> Iterator[pa.RecordBatch]:
        for file in _files(view, physical_id):
            table = self._load(file).select([HANDLE, COMMIT_TS, OP])
            yield from table.filter(_within(table, start, end)).to_batches()

    def versions(
        self,
        view: View,
        physical_id: PhysicalTableID,
        columns: Sequence[ScanColumn],
        start: Handle | None,
    ) -> Iterator[pa.RecordBatch]:
        tables = []
        for file in _files(view, physical_id):
            table = self._load(file)
            rows = table.filter(_within(table, start, None)).combine_chunks()
            system = {name: rows.column(name) for name in (HANDLE, COMMIT_TS, START_TS, OP)}
            copied = copied_columns(_arrays(rows), columns, rows.num_rows)
            tables.append(pa.table(system | copied))
        if tables:
            order = [(HANDLE, "ascending"), (COMMIT_TS, "ascending")]
            whole = pa.concat_tables(tables, promote_options="permissive").sort_by(order)
            yield from whole.to_batches(max_chunksize=BATCH_ROWS)

    def repeating(self, region: RegionScan, columns: Sequence[ScanColumn]) -> Collection[ColumnID]:
        return ()

    def never_null(self, region: RegionScan, columns: Sequence[ScanColumn]) -> Collection[ColumnID]:
        return ()

    def tables(self, view: View) -> Sequence[PhysicalTableID]:
        return sorted({PhysicalTableID(file.physical_id) for file in _files(view)})

    def regions(self, view: View, physical_id: PhysicalTableID) -> Sequence[RegionStats]:
        size = self.stats(view, physical_id)
        whole = RegionStats(RegionID(1), None, None, size.files, size.rows, size.bytes, 0)
        return [whole] if size.files else []

    def stats(self, view: View, physical_id: PhysicalTableID) -> TableStats:
        files = _files(view, physical_id)
        rows, size = sum(file.rows for file in files), sum(file.size_bytes for file in files)
        return TableStats(len(files), rows, size)

    def collectable(
        self, view: View, physical_id: PhysicalTableID, safe_point: TimeStamp
    ) -> TableStats:
        return self.stats(view, physical_id)

    def files(self, view: View, physical_id: PhysicalTableID) -> Sequence[FileStats]:
        return [
            FileStats(
                RegionID(1),
                file.path,
                "plain",
                file.rows,
                file.size_bytes,
                TimeStamp(file.min_ts),
                TimeStamp(file.max_ts),
            )
            for file in _files(view, physical_id)
        ]

    def partitions(self, view: View) -> Sequence[PartitionStats]:
        return ()

    def check(self, view: View) -> Iterator[CorruptionError]:
        for file in _files(view):
            if (error := self._damage(file)) is not None:
                yield error

    def close(self) -> None:
        self._manifest.close()

    def _damage(self, file: PlainFile) -> CorruptionError | None:
        try:
            self._load(file)
        except CorruptionError as error:
            return error
        return None

    def _load(self, file: PlainFile) -> pa.Table:
        """Read a file and verify its CRC."""
        path = self._data / file.path
        with file_errors(path):
            data = path.read_bytes()
        if len(data) != file.size_bytes or google_crc32c.value(data) != file.crc:
            raise CorruptionError(str(path), 0, "fails its checksum")
        return pq.read_table(pa.BufferReader(data), partitioning=None)


class PlainEngine(WholeTables, PlainReader):
    """Implements `Engine`; holds the writer's lock."""

    engine_name = "the engine plain"

    def __init__(self, path: Path, fs: FileSystem, clock: Clock, guard: Guard | None) -> None:
        super().__init__(path, fs, clock)
        self._guard, self._mutex = guard, threading.RLock()
        self._broken: str | None = None
        with ExitStack() as undo, file_errors(path):
            undo.callback(self._manifest.close)
            self._lock = WriterLock(path)
            undo.callback(self._lock.release)
            self._token = self._manifest.take_token()
            self._remove_uncommitted()
            self._remove_retired()
            undo.pop_all()

    def close(self) -> None:
        super().close()
        self._lock.release()

    def publish(self, publication: Publication) -> Generation:
        with self._writing():
            batches = [v for v in publication.versions if v.batch.num_rows]
            written = [self._write(v.physical_id, pa.table(v.batch)) for v in batches]
            return self._commit(written, [], publication.change)

    def compact(
        self,
        physical_id: PhysicalTableID,
        columns: Sequence[ScanColumn],
        *,
        safe_point: TimeStamp | None = None,
        everything: bool = False,
    ) -> CompactionReport:
        if safe_point is None:
            return CompactionReport()
        return self._rewrite(physical_id, partial(_needed, safe_point))

    def begin(
        self,
        physical_id: PhysicalTableID,
        columns: Sequence[ScanColumn],
        *,
        everything_to: TimeStamp | None = None,
        garbage_to: TimeStamp | None = None,
    ) -> Piece | None:
        with self._mutex:
            tables = [self._load(file) for file in _files(self.read([]), physical_id)]
        if garbage_to is None or all(
            pc.all(mask).as_py() is not False for mask in _needed(garbage_to, tables)
        ):
            return None
        return partial(self.compact, physical_id, columns, safe_point=garbage_to)

    def purge_range(
        self,
        physical_id: PhysicalTableID,
        start: Handle | None,
        end: Handle | None,
        columns: Sequence[ScanColumn],
        others: ManifestChange | None = None,
    ) -> CompactionReport:
        def rest(tables: Sequence[pa.Table]) -> Sequence[pa.Array]:
            return [pc.invert(_within(table, start, end)) for table in tables]

        return self._rewrite(physical_id, rest, others)

    def purge(self, physical_ids: Sequence[PhysicalTableID]) -> Generation:
        with self._writing():
            view = self.read([])
            return self._commit([], [f for each in physical_ids for f in _files(view, each)])

    def _rewrite(
        self,
        physical_id: PhysicalTableID,
        selected: Callable[[Sequence[pa.Table]], Sequence[pa.Array]],
        others: ManifestChange | None = None,
    ) -> CompactionReport:
        """Replace the files that have rows which are not selected by files of the others."""
        with self._writing():
            written, replaced, report = [], [], CompactionReport()
            files = _files(self.read([]), physical_id)
            tables = [self._load(file) for file in files]
            for file, table, mask in zip(files, tables, selected(tables), strict=True):
                rest = table.filter(mask)
                report = report.plus(
                    CompactionReport(file.rows, rest.num_rows, file.rows - rest.num_rows)
                )
                if rest.num_rows < file.rows:
                    replaced.append(file)
                    written += [self._write(physical_id, rest)] if rest.num_rows else []
            if replaced or others is not None:
                self._commit(written, replaced, others or ManifestChange())
            self._remove_retired()
            return report

    def _write(self, physical_id: PhysicalTableID, table: pa.Table) -> PlainFile:
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink)
        data = sink.getvalue().to_pybytes()
        folder = self._data / str(physical_id)
        self._fs.make_folder(folder)
        numbers = [int(path.stem) for path in folder.iterdir()]
        path = f"{physical_id}/{max(numbers, default=0) + 1:06d}.parquet"
        self._fs.write_new(self._data / path, memoryview(data))
        times = pc.min_max(table.column(COMMIT_TS)).as_py()
        sizes = table.num_rows, len(data), times["min"], times["max"]
        return PlainFile(path, physical_id, google_crc32c.value(data), *sizes)

    def _commit(
        self,
        written: Sequence[PlainFile],
        replaced: Sequence[PlainFile],
        others: ManifestChange | None = None,
    ) -> Generation:
        for folder in sorted({(self._data / file.path).parent for file in written}):
            self._fs.sync_folder(folder)
        others = others or ManifestChange()
        generation = str(self._manifest.read([]).generation).encode()
        puts = [Record(FILE, file.path, file.to_json().encode()) for file in written]
        puts += [Record(RETIRED, file.path, generation) for file in replaced]
        deletes = [(FILE, file.path) for file in replaced]
        change = ManifestChange([*others.puts, *puts], [*others.deletes, *deletes])
        return self._manifest.commit(change, self._token, self._guard)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Reject writes after a failure that leaves the state of the disk unknown."""
        with self._mutex:
            if self._broken is not None:
                raise EngineError(str(self._path), f"rejects writes after: {self._broken}")
            try:
                with file_errors(self._path):
                    yield
            except BaseException as error:
                is_final = isinstance(error, EngineError | InternalError | StaleTokenError)
                if is_final or not isinstance(error, TheFlashError):
                    self._broken = str(error) or repr(error)
                else:
                    with suppress(OSError):
                        self._remove_uncommitted()
                raise

    def _remove_uncommitted(self) -> None:
        view = self._manifest.read([FILE, RETIRED])
        committed = {*view.of_kind(FILE), *view.of_kind(RETIRED)}
        for path in self._fs.walk(self._data):
            if path.relative_to(self._data).as_posix() not in committed:
                self._fs.unlink(path)

    def _remove_retired(self) -> None:
        """Remove the replaced files that no reader's lease needs."""
        pinned = LeaseTable(self._manifest, self._clock).oldest_generation()
        retired = self._manifest.read([RETIRED]).of_kind(RETIRED)
        free = [path for path, last in retired.items() if pinned is None or pinned > int(last)]
        if free:
            deletes = [(RETIRED, path) for path in free]
            self._manifest.commit(ManifestChange(deletes=deletes), self._token)
            for path in free:
                self._fs.unlink(self._data / path)


def _files(view: View, physical_id: int | None = None) -> list[PlainFile]:
    files = map(PlainFile.from_json, view.of_kind(FILE).values())
    return [file for file in files if physical_id in (None, file.physical_id)]


def _newest(tables: Sequence[pa.Table], ts: TimeStamp) -> Sequence[pa.Array]:
    """Return for each table the places of the newest versions of rows at or below a timestamp."""
    keys = pa.concat_tables(
        pa.table(
            {
                "handle": table.column(HANDLE),
                "ts": table.column(COMMIT_TS),
                "table": pa.repeat(number, table.num_rows),
                "place": pa.array(range(table.num_rows), pa.int64()),
            }
        )
        for number, table in enumerate(tables)
    )
    keys = keys.filter(pc.less_equal(keys.column("ts"), pa.scalar(ts, pa.uint64())))
    keys = keys.sort_by([("handle", "ascending"), ("ts", "ascending")])
    handles = keys.column("handle").combine_chunks()
    if len(handles):
        last = pc.not_equal(handles[1:], handles[:-1]).to_pylist()
        keys = keys.filter(pa.array([*last, True]))
    return [
        keys.filter(pc.equal(keys.column("table"), number)).column("place").combine_chunks()
        for number in range(len(tables))
    ]


def _needed(safe_point: TimeStamp, tables: Sequence[pa.Table]) -> Sequence[pa.Array]:
    """Return for each table a mask of the versions that snapshots from the safe point on see."""
    masks = []
    for table, places in zip(tables, _newest(tables, safe_point), strict=True):
        places_of_all = pa.array(range(table.num_rows), pa.int64())
        is_put = pc.equal(table.column(OP), int(Op.PUT))
        seen = pc.and_(pc.is_in(places_of_all, value_set=places), is_put)
        newer = pc.greater(table.column(COMMIT_TS), pa.scalar(safe_point, pa.uint64()))
        masks.append(pc.or_(seen, newer))
    return masks


def _within(table: pa.Table, start: Handle | None, end: Handle | None) -> pa.Array:
    """Return a mask of the rows from `start` to before `end`."""
    handles = table.column(HANDLE)
    mask = pa.repeat(True, table.num_rows)
    if start is not None:
        mask = pc.and_(mask, pc.greater_equal(handles, pa.scalar(start, handles.type)))
    if end is not None:
        mask = pc.and_(mask, pc.less(handles, pa.scalar(end, handles.type)))
    return mask


def _project(rows: pa.Table, columns: Sequence[ScanColumn]) -> list[pa.Array]:
    return project(_arrays(rows), columns, rows.num_rows)


def _arrays(rows: pa.Table) -> dict[str, pa.Array]:
    arrays = (column.combine_chunks() for column in rows.columns)
    return dict(zip(rows.column_names, arrays, strict=True))
