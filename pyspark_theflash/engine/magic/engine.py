"""The default engine: Parquet files of versions under one transactional manifest.

    publish      find what each version supersedes, write and sync the files, commit the manifest
    plan         the files of a physical table
    scan         `scan.py`
    fold         many small files of a physical table become one, sorted by handle

A file that the manifest does not name does not exist: what a crash leaves behind is swept when the
next writer opens. A file that a fold has replaced stays until no reader's lease pins a generation
that still names it.
"""

import contextlib
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa

from pyspark_theflash.clock import Clock
from pyspark_theflash.engine.api import Publication, RegionScan, VersionBatch
from pyspark_theflash.engine.magic.check import check_files
from pyspark_theflash.engine.magic.file import (
    FILE_KIND,
    PREVIOUS_FILE,
    PREVIOUS_ROW,
    DataFile,
    EncodedFile,
    encode_file,
    numpy_column,
    read_columns,
)
from pyspark_theflash.engine.magic.fold import fold_files, is_worth_folding
from pyspark_theflash.engine.magic.key_index import KeyIndex, handle_keys
from pyspark_theflash.engine.magic.scan import hidden_by_later_files, scan_files
from pyspark_theflash.errors import CorruptionError, EngineError, StoreFullError
from pyspark_theflash.failpoint import fail_point
from pyspark_theflash.fs import FileSystem
from pyspark_theflash.mvcc.project import ScanColumn
from pyspark_theflash.mvcc.version import COMMIT_TS, HANDLE, OP, SUPERSEDED_TS, Op
from pyspark_theflash.mvcc.visibility import same_as_next, superseded_within
from pyspark_theflash.store.folder import DATA_FOLDER, open_manifest
from pyspark_theflash.store.lease import LeaseTable
from pyspark_theflash.store.manifest import Change, Record, View, file_errors
from pyspark_theflash.store.writer_lock import WriterLock
from pyspark_theflash.types import MAX_TS, Generation, PhysicalTableID, RegionID, TimeStamp

RETIRED_KIND: Final = "retired"
ORDINAL_BITS: Final = 24
"""A file's number is (generation << 24 | ordinal), so numbers grow and none is used twice."""


class MagicReader:
    """The reading half; opens no file for writing."""

    def __init__(self, path: Path, fs: FileSystem, clock: Clock) -> None:
        self._path, self._fs, self._clock = path, fs, clock
        self._data = path / DATA_FOLDER
        self._manifest = open_manifest(path, fs)

    def read(self, kinds: Sequence[str]) -> View:
        return self._manifest.read([*kinds, FILE_KIND])

    def plan(self, view: View, physical_id: PhysicalTableID) -> Sequence[RegionScan]:
        parts = tuple(body.decode() for body in _files_of(view, physical_id))
        return [RegionScan(physical_id, RegionID(1), parts)] if parts else []

    def scan(
        self,
        region: RegionScan,
        columns: Sequence[ScanColumn],
        snapshot_ts: TimeStamp,
        *,
        with_handle: bool = False,
    ) -> Iterator[pa.RecordBatch]:
        files = [DataFile.from_json(part) for part in region.parts]
        return scan_files(self._data, files, columns, snapshot_ts, with_handle=with_handle)

    def check(self, view: View) -> Iterator[CorruptionError]:
        files = [DataFile.from_json(body) for body in view.of_kind(FILE_KIND).values()]
        for _, group in groupby(files, key=lambda info: info.physical_id):
            yield from check_files(self._data, list(group))

    def close(self) -> None:
        self._manifest.close()


class MagicEngine(MagicReader):
    """Both halves; holds the store's writer lock."""

    def __init__(self, path: Path, fs: FileSystem, clock: Clock) -> None:
        super().__init__(path, fs, clock)
        self._indexes: dict[PhysicalTableID, KeyIndex] = {}
        self._folders: set[Path] = set()
        self._broken: str | None = None
        with contextlib.ExitStack() as undo, file_errors(path):
            undo.callback(self._manifest.close)
            self._lock = WriterLock(path)
            undo.callback(self._lock.release)
            self._token = self._manifest.take_token()
            self._remove_unnamed()
            self._remove_retired()
            undo.pop_all()

    def close(self) -> None:
        super().close()
        self._lock.release()

    def publish(self, publication: Publication) -> Generation:
        with self._writing():
            first = (self._manifest.read([]).generation + 1) << ORDINAL_BITS
            batches = [v for v in publication.versions if v.batch.num_rows]
            files = [self._write(self._encode(v, n)) for n, v in enumerate(batches, first)]
            records = [*publication.change.puts, *(info.to_record() for info in files)]
            return self._commit(files, Change(records, publication.change.deletes))

    def fold(self, physical_id: PhysicalTableID, columns: Sequence[ScanColumn]) -> None:
        view = self.read([])
        files = [DataFile.from_json(body) for body in _files_of(view, physical_id)]
        if not is_worth_folding(files):
            return
        number = (view.generation + 1) << ORDINAL_BITS
        with self._writing():
            table = fold_files(self._data, files, columns)
            stable = self._write(_encoded(table, physical_id, number, is_stable=True))
            retired = [Record(RETIRED_KIND, f.path, str(view.generation).encode()) for f in files]
            deletes = [(FILE_KIND, f.key) for f in files]
            self._commit([stable], Change([stable.to_record(), *retired], deletes))
            self._indexes.pop(physical_id, None)
            self._remove_retired()

    # -- writing

    def _encode(self, versions: VersionBatch, number: int) -> EncodedFile:
        """Add what the versions supersede, in their own batch and in other files."""
        batch = versions.batch
        handles, commit_ts = batch.column(HANDLE), batch.column(COMMIT_TS).to_numpy()
        again = same_as_next(handles) if batch.num_rows > 1 else np.zeros(0, np.bool_)
        is_first = np.concatenate([[True], ~again])
        is_last = np.concatenate([~again, [True]])
        keys = handle_keys(handles)
        index = self._index(versions.physical_id)
        places = index.take(keys[is_first])
        previous = np.flatnonzero(is_first)[places.found]
        absent = np.ones(batch.num_rows, np.bool_)
        absent[previous] = False
        files, rows = np.zeros(batch.num_rows, np.uint64), np.zeros(batch.num_rows, np.uint32)
        files[previous], rows[previous] = places.files[places.found], places.rows[places.found]
        lives = is_last & (batch.column(OP).to_numpy() == Op.PUT)
        index.add(keys[lives], number, np.flatnonzero(lives).astype(np.uint32))
        table = pa.Table.from_batches([batch])
        table = table.append_column(SUPERSEDED_TS, pa.array(superseded_within(handles, commit_ts)))
        table = table.append_column(PREVIOUS_FILE, pa.array(files, mask=absent))
        table = table.append_column(PREVIOUS_ROW, pa.array(rows, mask=absent))
        return _encoded(table, versions.physical_id, number, is_stable=False)

    def _write(self, encoded: EncodedFile) -> DataFile:
        path = self._data / encoded.info.path
        if path.parent not in self._folders:
            self._fs.make_folder(path.parent)
            self._folders.add(path.parent)
        fail_point("magic.before_file")
        self._fs.write_new(path, memoryview(encoded.data))
        fail_point("magic.after_file")
        return encoded.info

    def _commit(self, files: Sequence[DataFile], change: Change) -> Generation:
        for folder in sorted({(self._data / f.path).parent for f in files}):
            self._fs.sync_folder(folder)
        fail_point("magic.before_commit")
        return self._manifest.commit(change, self._token)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """What every write has in common: a failure leaves indexes that must be built anew.

        After a failed write or sync nobody knows what the disk holds, so the engine stops; only a
        full disk is known not to have harmed anything, and may be tried again.
        """
        if self._broken is not None:
            raise EngineError(str(self._path), f"takes no more writes since: {self._broken}")
        try:
            with file_errors(self._path):
                yield
        except BaseException as error:
            self._indexes.clear()
            self._broken = str(error) or repr(error)
            if isinstance(error, StoreFullError):
                with file_errors(self._path):
                    self._remove_unnamed()
                self._broken = None
            raise

    # -- the index of what is alive

    def _index(self, physical_id: PhysicalTableID) -> KeyIndex:
        if physical_id not in self._indexes:
            self._indexes[physical_id] = self._build_index(physical_id)
        return self._indexes[physical_id]

    def _build_index(self, physical_id: PhysicalTableID) -> KeyIndex:
        files = [DataFile.from_json(body) for body in _files_of(self.read([]), physical_id)]
        hidden = hidden_by_later_files(self._data, files, MAX_TS)
        index = KeyIndex()
        for info in files:
            table = read_columns(self._data, info, [HANDLE, OP, SUPERSEDED_TS])
            lives = (numpy_column(table, OP) == Op.PUT) & (
                numpy_column(table, SUPERSEDED_TS) == np.uint64(MAX_TS)
            )
            lives[hidden.get(info.number, np.zeros(0, np.uint32))] = False
            keys = handle_keys(table.column(HANDLE).combine_chunks())
            index.add(keys[lives], info.number, np.flatnonzero(lives).astype(np.uint32))
        return index

    # -- files that nobody needs

    def _remove_unnamed(self) -> None:
        """Remove files that no manifest has named: their write never came to its commit."""
        view = self._manifest.read([FILE_KIND, RETIRED_KIND])
        named = {DataFile.from_json(body).path for body in view.of_kind(FILE_KIND).values()}
        named |= set(view.of_kind(RETIRED_KIND))
        for path in self._fs.walk(self._data):
            if path.relative_to(self._data).as_posix() not in named:
                self._fs.unlink(path)

    def _remove_retired(self) -> None:
        """Remove files that a fold has replaced and that no reader can still want."""
        pinned = LeaseTable(self._manifest, self._clock).oldest_generation()
        retired = self._manifest.read([RETIRED_KIND]).of_kind(RETIRED_KIND)
        free = [path for path, last in retired.items() if pinned is None or pinned > int(last)]
        if not free:
            return
        self._manifest.commit(Change(deletes=[(RETIRED_KIND, path) for path in free]), self._token)
        for path in free:
            self._fs.unlink(self._data / path)


def _files_of(view: View, physical_id: PhysicalTableID) -> list[bytes]:
    prefix = f"{physical_id:020d}-"
    return [body for key, body in view.of_kind(FILE_KIND).items() if key.startswith(prefix)]


def _encoded(
    table: pa.Table, physical_id: PhysicalTableID, number: int, *, is_stable: bool
) -> EncodedFile:
    path = f"{physical_id}/{number:016x}.parquet"
    return encode_file(
        table, number=number, physical_id=physical_id, path=path, is_stable=is_stable
    )
