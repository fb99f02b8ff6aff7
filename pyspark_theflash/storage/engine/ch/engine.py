"""The engine *ch*'s `Engine`: publications, compaction and collection."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pyspark_theflash.base.clock import Clock
from pyspark_theflash.base.errors import (
    EngineError,
    InternalError,
    StaleTokenError,
    TheFlashError,
    invariant,
)
from pyspark_theflash.base.failpoint import fail_point
from pyspark_theflash.base.fs import FileSystem
from pyspark_theflash.base.types import MAX_TS, Generation, PhysicalTableID, TimeStamp
from pyspark_theflash.storage.engine.api import (
    CompactionReport,
    Handle,
    Piece,
    Publication,
)
from pyspark_theflash.storage.engine.ch.batch import (
    BATCH_KIND,
    StoredBatch,
    batches_of,
    write_parts,
)
from pyspark_theflash.storage.engine.ch.column import StoredColumn, to_exchange
from pyspark_theflash.storage.engine.ch.query import Read, all_versions, needed, within
from pyspark_theflash.storage.engine.ch.reader import ClickHouseReader, columns_of
from pyspark_theflash.storage.engine.ch.session import ChdbTable, session
from pyspark_theflash.storage.engine.whole_tables import WholeTables
from pyspark_theflash.storage.mvcc.project import ScanColumn
from pyspark_theflash.storage.mvcc.version import COMMIT_TS, HANDLE, OP, SUPERSEDED_TS
from pyspark_theflash.storage.store.latch.lease import LeaseTable
from pyspark_theflash.storage.store.manifest import (
    Guard,
    ManifestChange,
    Record,
    file_errors,
)
from pyspark_theflash.storage.store.writer_lock import WriterLock

RETIRED_KIND: Final = "ch.retired"
_KEYS: Final = (HANDLE, COMMIT_TS, OP)
_SUPERSEDED: Final = StoredColumn(SUPERSEDED_TS, pa.uint64(), has_null=False)


@dataclass(frozen=True, slots=True)
class MergeLimits:
    """Limits of merges: `batches` of the newest are merged, if none is much larger.

    A batch takes part if it has at most `growth` times the rows of all newer ones.
    """

    batches: int = 8
    growth: int = 2

    def worthwhile(self, batches: Sequence[StoredBatch]) -> Sequence[StoredBatch]:
        """Return the newest batches that should be merged; maybe none."""
        rows, first = 0, len(batches)
        while first and (not rows or batches[first - 1].rows <= self.growth * rows):
            first -= 1
            rows += batches[first].rows
        return batches[first:] if len(batches) - first >= self.batches else ()


DEFAULT_LIMITS: Final = MergeLimits()


class ClickHouseEngine(WholeTables, ClickHouseReader):
    """Writer of a store; holds the writer's lock."""

    engine_name = "the engine ch"

    def __init__(
        self,
        path: Path,
        fs: FileSystem,
        clock: Clock,
        *,
        guard: Guard | None = None,
        limits: MergeLimits = DEFAULT_LIMITS,
    ) -> None:
        super().__init__(path, fs, clock)
        self._guard, self._limits, self._mutex = guard, limits, threading.RLock()
        self._broken: str | None = None
        self._numbers: dict[int, int] = {}
        self._merging: str | None = None
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
            written = []
            for versions in publication.versions:
                if versions.batch.num_rows:
                    number = self._next_number(versions.physical_id)
                    place = _Target(versions.physical_id, number, order=number)
                    written.append(self._write_rows(place, versions.batch))
            return self._commit(written, [], publication.change)

    def compact(
        self,
        physical_id: PhysicalTableID,
        columns: Sequence[ScanColumn],
        *,
        safe_point: TimeStamp | None = None,
        everything: bool = False,
    ) -> CompactionReport:
        report = CompactionReport()
        to = MAX_TS if everything else None
        while (piece := self._plan(physical_id, to, safe_point)) is not None:
            report = report.plus(piece())
        return report

    def begin(
        self,
        physical_id: PhysicalTableID,
        columns: Sequence[ScanColumn],
        *,
        everything_to: TimeStamp | None = None,
        garbage_to: TimeStamp | None = None,
    ) -> Piece | None:
        return self._plan(physical_id, everything_to, garbage_to)

    def _plan(
        self, physical_id: int, everything_to: TimeStamp | None, garbage_to: TimeStamp | None
    ) -> Piece | None:
        with self._writing():
            self._remove_retired()
            batches = batches_of(self.read([]), physical_id)
            if garbage_to is not None and self._garbage(batches, garbage_to):
                return partial(self._merge, batches, garbage_to)
            chosen = self._limits.worthwhile(batches)
            if everything_to is not None:
                older = [batch for batch in batches if batch.max_ts <= everything_to]
                chosen = older if len(older) > 1 else ()
            if not chosen or columns_of(self._load(chosen)) is None:
                return None
            return partial(self._merge, chosen, None)

    def _garbage(self, batches: Sequence[StoredBatch], safe_point: TimeStamp) -> int:
        """Return the number of versions that no snapshot at or above the safe point sees."""
        if not any(batch.min_ts <= safe_point for batch in batches):
            return 0
        reads = self._load(batches)
        columns = [column for column in columns_of(reads) or () if column.name in _KEYS]
        if not columns:
            return 0
        versions = all_versions(reads, columns)
        sql = f"SELECT count() AS n FROM ({versions}) WHERE NOT {needed(safe_point)}"  # noqa: S608
        return int(session().rows(sql)[0]["n"])

    def _merge(
        self, batches: Sequence[StoredBatch], safe_point: TimeStamp | None
    ) -> CompactionReport:
        """Replace adjacent batches by one, without what no snapshot sees."""
        reads = self._load(batches)
        condition = "1" if safe_point is None else needed(safe_point)
        number = self._next_number(batches[0].physical_id)
        place = _Target(batches[0].physical_id, number, order=batches[-1].order)
        self._merging = place.path
        try:
            with self._errors():
                written = self._write_query(place, reads, condition)
            with self._writing():
                return self._replace(batches, written)
        finally:
            self._merging = None

    def _replace(
        self, batches: Sequence[StoredBatch], written: Sequence[StoredBatch]
    ) -> CompactionReport:
        """Commit a merge, unless a purge has removed rows meanwhile."""
        rows, kept = (sum(batch.rows for batch in each) for each in (batches, written))
        if not set(batches) <= set(batches_of(self.read([]), batches[0].physical_id)):
            self._merging = None
            self._remove_uncommitted()
            return CompactionReport(rows_read=rows, discarded=1)
        self._commit(written, batches, ManifestChange())
        size = sum(batch.size_bytes for batch in written)
        return CompactionReport(
            rows, kept, rows - kept, len(batches), len(written), bytes_written=size
        )

    def purge_range(
        self,
        physical_id: PhysicalTableID,
        start: Handle | None,
        end: Handle | None,
        columns: Sequence[ScanColumn],
        others: ManifestChange | None = None,
    ) -> CompactionReport:
        with self._writing():
            report, written, replaced = CompactionReport(), [], []
            for read in self._load(batches_of(self.read([]), physical_id)):
                batch = read[0]
                if not batch.overlaps(start, end):
                    continue
                number = self._next_number(physical_id)
                place = _Target(physical_id, number, order=batch.order)
                rest = self._write_query(place, [read], f"NOT ({within(start, end)})")
                kept = sum(each.rows for each in rest)
                report = report.plus(CompactionReport(batch.rows, kept, batch.rows - kept))
                written += rest
                replaced.append(batch)
            if replaced or others is not None:
                self._commit(written, replaced, others or ManifestChange())
            self._remove_retired()
            return report

    def purge(self, physical_ids: Sequence[PhysicalTableID]) -> Generation:
        with self._writing():
            view = self.read([])
            replaced = [batch for each in physical_ids for batch in batches_of(view, each)]
            return self._commit([], replaced, ManifestChange())

    def _write_rows(self, place: "_Target", rows: pa.RecordBatch) -> StoredBatch:
        """Write a batch as parts of a table."""
        names = [*rows.schema.names, SUPERSEDED_TS]
        arrays = [*rows.columns, _superseded(rows)]
        columns = [
            StoredColumn(name, values.type, has_null=values.null_count > 0)
            for name, values in zip(names, arrays, strict=True)
        ]
        exchanged = pa.RecordBatch.from_arrays(list(map(to_exchange, arrays)), names=names)
        table = session().create(columns)
        session().insert(table.name, exchanged.schema, [exchanged])
        handles, times = rows.column(HANDLE), pc.min_max(rows.column(COMMIT_TS))
        bounds = times["min"], times["max"], handles[0], handles[-1]
        return self._write(place, table, columns, rows.num_rows, [each.as_py() for each in bounds])

    def _write_query(
        self, place: "_Target", reads: Sequence[Read], condition: str
    ) -> list[StoredBatch]:
        """Write the versions of batches that fulfil a condition; nothing if there are none."""
        stored = columns_of(reads) or ()
        invariant(bool(stored), "batches whose types do not fit")
        table = session().create([*stored, _SUPERSEDED])
        session().execute(
            f"INSERT INTO {table.sql} SELECT * FROM ({all_versions(reads, stored)})"  # noqa: S608
            f" WHERE {condition} ORDER BY {HANDLE}, {COMMIT_TS}",
            reads[0][1].where,
        )
        bounds = (f"min({COMMIT_TS})", f"max({COMMIT_TS})", f"min({HANDLE})", f"max({HANDLE})")
        sql = f"SELECT {', '.join(bounds)}, count() FROM {table.sql}"  # noqa: S608
        *values, rows = session().rows(sql)[0].values()
        columns = [*stored, _SUPERSEDED]
        return [self._write(place, table, columns, rows, values)] if rows else []

    def _write(
        self,
        place: "_Target",
        table: ChdbTable,
        columns: Sequence[StoredColumn],
        rows: int,
        bounds: Sequence[Any],
    ) -> StoredBatch:
        """Copy the parts of a table to the store."""
        self._fs.make_folder(self._data / str(place.physical_id))
        crc, written, size = write_parts(self._fs, self._data / place.path, table, columns)
        if written != rows:
            raise EngineError(str(self._path), f"ClickHouse has {written} rows of {rows} written")
        return StoredBatch(place.path, place.physical_id, place.order, crc, rows, size, *bounds)

    def _next_number(self, physical_id: int) -> int:
        """Return a number above those of all batches that a table has had files of."""
        with self._mutex:
            if physical_id not in self._numbers:
                folder = self._data / str(physical_id)
                files = folder.iterdir() if folder.is_dir() else iter(())
                numbers = (int(file.name.partition(".")[0]) for file in files)
                self._numbers[physical_id] = max(numbers, default=0)
            self._numbers[physical_id] += 1
            return self._numbers[physical_id]

    def _commit(
        self,
        written: Sequence[StoredBatch],
        replaced: Sequence[StoredBatch],
        others: ManifestChange,
    ) -> Generation:
        for folder in sorted({(self._data / batch.path).parent for batch in written}):
            self._fs.sync_folder(folder)
        fail_point("ch.before_commit")
        generation = str(self._manifest.read([]).generation).encode()
        puts = [Record(BATCH_KIND, batch.path, batch.to_json().encode()) for batch in written]
        puts += [Record(RETIRED_KIND, batch.path, generation) for batch in replaced]
        deletes = [(BATCH_KIND, batch.path) for batch in replaced]
        change = ManifestChange([*others.puts, *puts], [*others.deletes, *deletes])
        return self._manifest.commit(change, self._token, self._guard)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with self._mutex, self._errors():
            yield

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Reject writes after a failure that leaves the state of the disk unknown."""
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
        view = self._manifest.read([BATCH_KIND, RETIRED_KIND])
        kept = {*view.of_kind(BATCH_KIND), *view.of_kind(RETIRED_KIND), self._merging}
        self._remove(kept.__contains__)

    def _remove_retired(self) -> None:
        """Remove the replaced batches that neither a reader's lease nor a merge needs."""
        if self._merging is not None:
            return
        pinned = LeaseTable(self._manifest, self._clock).oldest_generation()
        retired = self._manifest.read([RETIRED_KIND]).of_kind(RETIRED_KIND)
        free = {path for path, last in retired.items() if pinned is None or pinned > int(last)}
        if free:
            deletes = [(RETIRED_KIND, path) for path in sorted(free)]
            self._manifest.commit(ManifestChange(deletes=deletes), self._token)
            self._remove(lambda path: path not in free)

    def _remove(self, is_kept: Callable[[str], bool]) -> None:
        """Remove the files of the batches that are not to be kept."""
        for file in self._fs.walk(self._data):
            path = file.relative_to(self._data)
            if not is_kept(f"{path.parent.as_posix()}/{path.name.partition('.')[0]}"):
                self._fs.unlink(file)


@dataclass(frozen=True, slots=True)
class _Target:
    """Table, number and order of a batch to write."""

    physical_id: int
    number: int
    order: int

    @property
    def path(self) -> str:
        return f"{self.physical_id}/{self.number:06d}"


def _superseded(rows: pa.RecordBatch) -> pa.Array:
    """Return for each version the commit_ts of the row's next one in the batch, or MAX_TS."""
    handles, times = rows.column(HANDLE), rows.column(COMMIT_TS).to_numpy()
    result = np.full(len(times), MAX_TS, np.uint64)
    if len(times) > 1:
        is_same = pc.equal(handles[1:], handles[:-1]).to_numpy(zero_copy_only=False)
        result[:-1][is_same] = times[1:][is_same]
    return pa.array(result)
