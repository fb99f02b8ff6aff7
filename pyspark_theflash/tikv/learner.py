"""A raft learner: applies commands and snapshots of regions, and publishes rows to the engine.

    learner = Learner(OwnThread(open_engine), schema, clock)
    applied = learner.apply(batch)         commands, in the order of their arrival
    learner.install(builder.finish())      a region's snapshot
    learner.tick()                         periodically: publishes when due

`apply` returns what is durable, not what is applied: the sender keeps the commands above it, and
sends them again after a restart. After these errors a call may be retried: full disk, full cache,
a schema history that is too old or unavailable, unsupported command. After any other error the
learner rejects all calls; a new one on the same engine continues from the durable state.
"""

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias, TypeVar

from pyspark_theflash.base.clock import Clock
from pyspark_theflash.base.errors import (
    CacheFullError,
    CorruptionError,
    InternalError,
    NotCaughtUpError,
    RaftCommandError,
    RegionGapError,
    SchemaOutdatedError,
    ServiceUnavailableError,
    StoreFullError,
    TheFlashError,
    UnsupportedError,
)
from pyspark_theflash.base.failpoint import fail_point
from pyspark_theflash.base.types import PhysicalTableID, RegionID, TimeStamp
from pyspark_theflash.cluster.key_range import EncodedKeyRange, handle_bounds
from pyspark_theflash.replication.apply.rows import by_table
from pyspark_theflash.replication.apply.tables import PhysicalTables, SchemaAt
from pyspark_theflash.replication.apply.versions import Versions
from pyspark_theflash.storage.engine.api import Engine, Handle
from pyspark_theflash.storage.mvcc.project import ScanColumn
from pyspark_theflash.storage.store.manifest import ManifestChange
from pyspark_theflash.storage.store.stopped import STOPPED_KIND
from pyspark_theflash.tikv.command import Applied, IngestFile, RaftCommand, SnapshotHead
from pyspark_theflash.tikv.flush import EngineThread, ExtraRecords, Flusher, FlushLimits
from pyspark_theflash.tikv.pending_records import PENDING_RECORD
from pyspark_theflash.tikv.region import RegionState
from pyspark_theflash.tikv.region_snapshot import RegionSnapshot, missing_versions
from pyspark_theflash.tikv.region_store import REGION_RECORD, Part, RegionStore
from pyspark_theflash.tikv.request import FAMILIES, Family, sort_requests
from pyspark_theflash.tikv.wire import put_request

if TYPE_CHECKING:
    from concurrent.futures import Future

_log = logging.getLogger(__name__)
T = TypeVar("T")
ColumnsOf: TypeAlias = Callable[[PhysicalTableID], Sequence[ScanColumn]]
"""Returns all columns that rows of a physical table have ever had."""
_Bounds: TypeAlias = tuple[Handle | None, Handle | None]
TRANSIENT_ERRORS: Final = (
    StoreFullError,
    CacheFullError,
    SchemaOutdatedError,
    NotCaughtUpError,
    RegionGapError,
    ServiceUnavailableError,
)
"""Errors after which the step may be retried; it has not changed the state."""


class IngestSource(Protocol):
    """Access to the SST files of bulk loads."""

    def read(self, file: IngestFile) -> Iterable[tuple[bytes, bytes]]:
        """Return a file's keys and values; keys as in raft commands, without TiKV's prefix `z`."""


class NoFiles:
    """An `IngestSource` without files: bulk loads are not supported."""

    def read(self, file: IngestFile) -> Iterable[tuple[bytes, bytes]]:
        """Raise `UnsupportedError`."""
        raise UnsupportedError("a bulk load's file", f"file {file.uuid.hex()}")


class Learner:
    """A learner. Commands and snapshots must come from one thread at a time; reads from any."""

    def __init__(
        self,
        worker: EngineThread,
        schema: SchemaAt,
        clock: Clock,
        *,
        limits: FlushLimits | None = None,
        files: IngestSource | None = None,
        extra: ExtraRecords = ManifestChange,
        on_published: Callable[[], None] = lambda: None,
    ) -> None:
        """Recover the durable state from the worker's engine.

        `schema` returns table definitions up to a timestamp. `extra` returns further records to
        publish with the rows decoded under them; `on_published` is called when they are durable.
        """
        self._worker, self._schema, self._clock = worker, schema, clock
        self._limits, self._files = limits or FlushLimits(), files or NoFiles()
        self._mutex = threading.RLock()
        kinds = [REGION_RECORD, PENDING_RECORD, STOPPED_KIND]
        view = worker.run(lambda engine: engine.read(kinds)).result()
        self.store: Final = RegionStore.recover(view)
        self.flusher: Final = Flusher(self.store, schema, extra, on_published)
        self._flushed_ms = clock.boottime_ms()
        self._running: Future[bool] | None = None
        self._failure: str | None = None
        self._purged: int | None = None
        """The number of removals whose rows are purged from disk; None before the first check."""

    @property
    def failure(self) -> str | None:
        """The error after which the learner rejects all calls; None if there is none."""
        return self._failure

    def apply(self, commands: Sequence[RaftCommand]) -> list[Applied]:
        """Apply commands, and return the durable apply states of their regions.

        If the cache is full, it is published first.

        Raises:
            CacheFullError: The cache is full of data that cannot be published, like open locks.
            SchemaOutdatedError, StoreFullError: The cache cannot be published now.
            CodecError, CorruptionError, RaftCommandError: See `RegionStore.apply`.
        """
        with self._mutex:
            self._check()
            self._make_room()
            self._apply(commands)
            if any(c.must_sync for c in commands):
                self.flush()
            elif self.store.version_bytes >= self._limits.rows_bytes:
                self._start_flush()
            return self.store.durable_states(c.region_id for c in commands)

    def install(self, snapshot: RegionSnapshot) -> None:
        """Replace a region's content by a snapshot, durably.

        A snapshot that is not newer than the region's apply state changes nothing.

        Raises:
            RaftCommandError: The range overlaps another region that is not older.
            SchemaOutdatedError, StoreFullError: As in `apply`.
        """
        with self._mutex:
            self._check()
            head = snapshot.head
            current = self.store.region(head.region.id)
            if current and current.applied.applied_index >= head.applied.applied_index:
                # It may have been installed by a call whose publication failed.
                self.flush()
                return
            covered = self._covered(head)
            self.flush()
            versions = self._replace(head.region.keys, snapshot.versions)
            self._change(lambda: self._install(snapshot, versions, covered))
            self.flush()

    def flush(self) -> None:
        """Publish everything applied, durably. Raises as `apply` does."""
        with self._mutex:
            self._check()
            self._finish_flush()
            self._result(self._worker.run(self.flusher.flush))
            self._flushed_ms = self._clock.boottime_ms()

    def tick(self) -> None:
        """Start a publication if one is due. Raises the error of the previous publication."""
        with self._mutex:
            self._check()
            if self._running is not None and self._running.done():
                self._finish_flush()
            waited_ms = self._clock.boottime_ms() - self._flushed_ms
            if waited_ms >= self._limits.delay_ms and self.store.is_changed:
                self._start_flush()

    def purge_left(self, columns_of: Callable[[PhysicalTables], ColumnsOf]) -> None:
        """Purge the rows of removed regions from disk. Cheap if no region was removed.

        If there are stored rows that no region covers, the removal of their regions is published
        before the rows are purged. So after a crash in between, they are found again by the same
        check. A region that returns is sent with all of its rows.
        """
        with self._mutex:
            self._check()
            removals = self.store.removals
            if removals == self._purged:
                return
            self._finish_flush()
            tables, left = self._schema(TimeStamp(0)), self.store.uncovered()
            # State frozen by a failed flush may contain such rows, and will be published.
            if self.store.is_frozen or self._result(
                self._worker.run(lambda engine: _has_rows(engine, tables, left))
            ):
                self.flush()
                fail_point("tikv.before_purge")
                purge = partial(_purge, tables=tables, left=left, columns_of=columns_of(tables))
                self._result(self._worker.run(purge))
            self._purged = removals

    def close(self) -> None:
        """Publish everything applied, if possible, and release the engine."""
        with self._mutex:
            try:
                if self._failure is None:
                    self.flush()
            finally:
                self._worker.close()

    # -- memory

    def _make_room(self) -> None:
        limit = self._limits.memory_bytes
        if self.store.size_bytes < limit:
            return
        self.flush()
        if self.store.size_bytes >= limit:
            raise CacheFullError(self.store.size_bytes, limit)

    def _start_flush(self) -> None:
        if self._running is not None:
            if not self._running.done():
                return
            self._finish_flush()
        self._flushed_ms = self._clock.boottime_ms()
        self._running = self._worker.run(self.flusher.flush)

    def _finish_flush(self) -> None:
        """Wait for the running flush, if any."""
        running, self._running = self._running, None
        if running is not None:
            self._result(running)

    # -- snapshots and ranges

    def _covered(self, head: SnapshotHead) -> list[RegionID]:
        """Return the regions that a snapshot replaces: those that overlap it and are older."""
        covered = []
        region = head.region
        for other in self.store.within(region.keys):
            inside = region.start <= other.region.start and (
                not region.end or (other.region.end and other.region.end <= region.end)
            )
            is_older = other.region.epoch.version < region.epoch.version
            if other.id != region.id and not (inside and is_older):
                reason = f"its snapshot has keys of region {other.id}"
                raise RaftCommandError(region.id, head.applied.applied_index, reason)
            covered.append(other.id)
        return covered

    def _replace(self, keys: EncodedKeyRange, versions: Sequence[Versions]) -> list[Versions]:
        """Return versions whose publication makes the engine's range equal to `versions`.

        Everything applied to the range before must have been published.
        """
        newest = max((int(v.commit_ts.max()) for v in versions if len(v)), default=0)
        tables = self._schema(TimeStamp(newest))
        by_id = dict(by_table(versions, tables))
        return self._result(self._worker.run(lambda engine: _missing(engine, tables, keys, by_id)))

    def _install(
        self, snapshot: RegionSnapshot, versions: Iterable[Versions], covered: Iterable[RegionID]
    ) -> None:
        head = snapshot.head
        with self.store.mutex:
            cache = self.store.cache
            cache.cut(head.region.start, head.region.end)
            for region_id in covered:
                state = self.store.region(region_id)
                if state is not None:
                    cache.cut(state.region.start, state.region.end)
            cache.adopt(snapshot.locks, snapshot.defaults, snapshot.orphans)
            cache.add(versions)
            self.store.install(RegionState(head.region, head.applied, head.peer), covered)

    def _apply(self, commands: Sequence[RaftCommand]) -> None:
        """Apply commands, except those of regions that cannot be followed any further."""
        while commands := self._of_followed(commands):
            done = self._change(partial(self.store.apply, commands))
            if done < len(commands):
                self._apply_other(commands[done])
            commands = commands[done + 1 :]

    def _of_followed(self, commands: Sequence[RaftCommand]) -> Sequence[RaftCommand]:
        stopped = self.store.stopped
        return [c for c in commands if c.region_id not in stopped] if stopped else commands

    def _apply_other(self, command: RaftCommand) -> None:
        """Apply a command that deletes a range, ingests a file or merges a stopped region."""
        if not self.store.is_new(command):
            return
        if (source := self.store.stopped_source(command)) is not None:
            merge = f"its log has the merge of region {source.region_id} at index {command.index}"
            self._stop(command, f"{merge}, which stays at index {source.applied_index}")
            return
        parts: list[Part] = []
        for part in sort_requests(command.requests):
            if isinstance(part, IngestFile):
                try:
                    pairs = self._files.read(part)
                except UnsupportedError as error:
                    load = f"its log has a bulk load (IngestSST) at index {command.index}"
                    self._stop(command, f"{load}, {error}")
                    return
                parts.append([put_request(part.cf, key, value) for key, value in pairs])
            elif isinstance(part, list):
                parts.append(part)
            elif part.cf in FAMILIES:
                parts.append(part)
                if FAMILIES[part.cf] is Family.WRITE:
                    if any(isinstance(each, list) for each in parts):
                        where = f"region {command.region_id} index {command.index}"
                        raise UnsupportedError("a command that puts and deletes a range", where)
                    # Everything applied before must be in the engine, where the range is deleted.
                    self.flush()
                    parts += self._replace(EncodedKeyRange(part.start, part.end), [])
        self._change(lambda: self.store.apply_parts(command, parts))

    def _stop(self, command: RaftCommand, reason: str) -> None:
        """Stop following a region before a command that cannot be applied."""
        self.store.stop_region(command.region_id, reason)
        _log.warning("region %d is not followed any further: %s", command.region_id, reason)

    # -- errors

    def _check(self) -> None:
        if self._failure is not None:
            raise InternalError(f"the learner has failed; open the store again: {self._failure}")

    def _change(self, change: Callable[[], T]) -> T:
        """Change the state in memory; after any error, that state is not used any more."""
        try:
            return change()
        except BaseException as error:
            self._failure = str(error) if isinstance(error, TheFlashError) else repr(error)
            raise

    def _result(self, future: "Future[T]") -> T:
        error = future.exception()
        if isinstance(error, (*TRANSIENT_ERRORS, UnsupportedError)):
            raise error
        return self._change(future.result)


def _has_rows(engine: Engine, tables: PhysicalTables, left: Sequence[EncodedKeyRange]) -> bool:
    """Return whether the engine has rows in ranges without a region, or cannot read them."""
    view = engine.read([])
    try:
        return any(
            batch.num_rows
            for physical_id, bounds in _stored_in(engine, tables, left)
            for batch in engine.keys(view, physical_id, *bounds)
        )
    except CorruptionError:
        return True


def _purge(
    engine: Engine, tables: PhysicalTables, left: Sequence[EncodedKeyRange], columns_of: ColumnsOf
) -> None:
    """Purge the engine's rows in ranges without a region."""
    for physical_id, bounds in _stored_in(engine, tables, left):
        try:
            engine.purge_range(physical_id, *bounds, columns_of(physical_id))
        except CorruptionError as error:
            # The rows are not readable through a region, so they do no harm.
            _log.warning("not purged: physical_table=%d: %s", physical_id, error)
        fail_point("tikv.after_purge")


def _stored_in(
    engine: Engine, tables: PhysicalTables, ranges: Iterable[EncodedKeyRange]
) -> Iterator[tuple[PhysicalTableID, _Bounds]]:
    """Yield stored tables that intersect the ranges, with the bounds of their handles."""
    stored = set(engine.tables(engine.read([])))
    for keys in ranges:
        for physical_id in sorted(stored.intersection(tables.within(keys))):
            bounds = handle_bounds(physical_id, keys, is_common=tables.is_common(physical_id))
            if bounds is not None:
                yield physical_id, bounds


def _missing(
    engine: Engine,
    tables: PhysicalTables,
    keys: EncodedKeyRange,
    by_id: Mapping[PhysicalTableID, Versions],
) -> list[Versions]:
    """Return versions whose publication makes the engine's range equal to those by table."""
    view = engine.read([])
    missing: list[Versions] = []
    for physical_id in sorted({*tables.within(keys), *by_id}):
        bounds = handle_bounds(physical_id, keys, is_common=tables.is_common(physical_id))
        if bounds is not None:
            stored = list(engine.keys(view, physical_id, *bounds))
            missing += missing_versions(physical_id, by_id.get(physical_id), stored)
    return missing
