"""The server's side of a stream's writer on another machine: it opens the engine for it.

    theflash writer theflash://HOST:PORT                 theflash serve STORE

    source ─► Pairing ─► Applier ─► RemoteEngine ══════► Writers ─► engine, Maintenance
     (service/client/remote_engine.py)                       holds the store's writer lock

The holder of a write latch on the store opens the engine; there is one at a time. All calls have
the latch's id and fencing token, and each commit's transaction checks them, so a writer whose latch
has ended cannot change the store. A publication is one commit that includes the writer's progress
and ledger. After an unknown outcome, a writer therefore opens the engine again, reads its progress
and continues from there. Publications are numbered; a repeated one returns the first result.

Compaction and maintenance need the store's files, so they run here at the writer's request,
compaction in a thread concurrent with publications.

The engine is closed when the writer's connection ends or its latch has ended. A thread checks the
latch, because the other machine may fail without closing the connection.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pyarrow as pa

from pyspark_theflash.base.clock import Clock
from pyspark_theflash.base.errors import (
    CodecError,
    LatchLostError,
    OptionError,
    ServiceUnavailableError,
    TheFlashError,
)
from pyspark_theflash.base.failpoint import fail_point
from pyspark_theflash.base.fs import FileSystem
from pyspark_theflash.base.types import Generation, PhysicalTableID, TimeStamp
from pyspark_theflash.replication.incoming import checked_versions
from pyspark_theflash.replication.opening import open_when_free
from pyspark_theflash.replication.upkeep.maintenance import Maintenance
from pyspark_theflash.replication.writer import WRITER_KINDS
from pyspark_theflash.service.api.call import CallContext
from pyspark_theflash.service.api.records import batch_rows, change_of, view_rows
from pyspark_theflash.service.api.rows import RowStream
from pyspark_theflash.service.wire import message
from pyspark_theflash.storage.engine.api import Engine, Publication, ScanSpec, VersionBatch
from pyspark_theflash.storage.mvcc.project import Absence, ScanColumn, StillAbsent
from pyspark_theflash.storage.mvcc.version import absence, column_id
from pyspark_theflash.storage.store.folder import open_manifest
from pyspark_theflash.storage.store.latch.holder import Holder
from pyspark_theflash.storage.store.latch.latch import STORE, LatchClaim, LatchKind
from pyspark_theflash.storage.store.latch.queue import LatchQueue
from pyspark_theflash.storage.store.manifest import Manifest, ManifestChange, Record, View
from pyspark_theflash.storage.store.orphan import Orphan
from pyspark_theflash.storage.store.progress import PROGRESS_KIND, Progress
from pyspark_theflash.storage.store.raft_fed import RAFT_FED_KIND, check_not_learned

_POLL_S: Final = 0.5
_STOP_S: Final = 5.0
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _RemoteMemory:
    """The remote writer's memory as it last reported it, and the changes to report to it."""

    open: frozenset[int] = frozenset()
    pd_safe_point: TimeStamp | None = None
    has_pd: bool = False
    changed: list[Record] = field(default_factory=list)
    ledger_records: int = 0

    def is_open(self, start_ts: TimeStamp) -> bool:
        return start_ts in self.open

    def decided(self, orphan: Orphan) -> None:
        self.changed.append(orphan.to_record())

    def collected(self, progress: Progress, ledger_records: int) -> None:
        self.changed.append(progress.to_record())
        self.ledger_records = ledger_records

    def safe_point(self) -> TimeStamp:
        """Return PD's safe point from the writer. Raises `ServiceUnavailableError`: none yet."""
        if self.pd_safe_point is None:
            raise ServiceUnavailableError("PD", "the writer has not reported its safe point yet")
        return self.pd_safe_point


@dataclass(slots=True)
class _Opened:
    """An engine opened for the holder of `latch`."""

    latch: LatchClaim
    engine: Engine
    maintenance: Maintenance
    memory: _RemoteMemory
    manifest: Manifest
    close: Callable[[], None]
    number: int = 0
    generation: int = 0


class Writers:
    """The calls of one store's writer on another machine. Thread-safe."""

    def __init__(self, path: Path, fs: FileSystem, clock: Clock) -> None:
        self._path, self._fs, self._clock = path, fs, clock
        self._mutex = threading.Lock()
        self._opened: _Opened | None = None
        self._ended = threading.Event()
        self._checker: threading.Thread | None = None

    def close(self) -> None:
        """Close the engine, unless a call that uses it lasts longer than 5 s."""
        self._ended.set()
        if self._mutex.acquire(timeout=_STOP_S):
            try:
                self._close_engine()
            finally:
                self._mutex.release()

    def gone(self, latch_id: str) -> None:
        """Release the latch and close the engine: the connection of its writer has ended."""
        with self._mutex:
            opened = self._opened
            if opened is None or opened.latch.id != latch_id:
                return
            with suppress(TheFlashError):
                LatchQueue(opened.manifest, self._clock).release(opened.latch)
            self._close_engine()

    def open_writer(self, request: message.WriterRequest, call: CallContext) -> message.Done:
        """Open the engine.

        Raises:
            LatchLostError: The latch has ended.
            OptionError: It is not a write latch on the store.
            StoreInUseError: Another process has written the store for `wait_ms`.
            RaftFedError: TiKV feeds the store.
        """
        latch = _claim(request.latch, call)
        with self._alone(call), ExitStack() as undo:
            manifest = undo.enter_context(closing(open_manifest(self._path, self._fs)))
            queue = LatchQueue(manifest, self._clock)
            latched = queue.look(latch).wanted
            if latched.kind is not LatchKind.WRITE or latched.scope != STORE:
                raise OptionError("latch", "a stream's writer requires a write latch on the store")
            # The latch of a previous writer has ended, or this one would not have been granted.
            self._close_engine()
            engine = open_when_free(
                *(self._path, self._fs, self._clock, queue.guard([latch])),
                wait_ms=request.wait_ms,
                check=call.check,
            )
            undo.enter_context(closing(engine))
            check_not_learned(engine.read([RAFT_FED_KIND]))
            # The latch ends with this process, so others need not wait until it expires.
            queue.hold_by(latch, Holder.here(self._clock))
            memory = _RemoteMemory()
            thread = undo.enter_context(ThreadPoolExecutor(1, thread_name_prefix="compaction"))
            maintenance = Maintenance(engine, manifest, self._clock, memory=memory, thread=thread)
            close = undo.pop_all().close
            self._opened = _Opened(latch, engine, maintenance, memory, manifest, close)
        if self._checker is None:
            self._checker = threading.Thread(target=self._check_latch, name="writers", daemon=True)
            self._checker.start()
        return message.Done("opened")

    def read_records(self, request: message.RecordsRequest, call: CallContext) -> RowStream:
        with self._held(request.latch, call) as opened:
            return view_rows(opened.engine.read(request.kinds), request.kinds)

    def read_versions(self, request: message.VersionsRequest, call: CallContext) -> RowStream:
        physical_id = PhysicalTableID(request.physical_id)
        with self._held(request.latch, call) as opened:
            engine, view = opened.engine, opened.engine.read([])
            if request.snapshot_ts is None:
                return batch_rows(engine.keys(view, physical_id, None, None))
            columns, ts = _stored_columns(request.arrow_schema), TimeStamp(request.snapshot_ts)
            regions = engine.plan(view, physical_id)
        scans = (engine.scan(r, ScanSpec(columns, ts, with_handle=True)) for r in regions)
        return batch_rows(batch for scan in scans for batch in scan)

    def publish(
        self, request: message.PublishRequest, call: CallContext, tables: Sequence[pa.Table]
    ) -> message.Published:
        rows = iter(tables)
        change = change_of(next(rows))
        kinds = {record.kind for record in change.puts} | {kind for kind, _ in change.deletes}
        if foreign := sorted(kinds - WRITER_KINDS):
            raise OptionError("records", f"{foreign[0][:80]!r} is not for a stream's writer")
        ids = [PhysicalTableID(i) for i in request.physical_ids]
        # One at a time: a large transaction does not fit in memory.
        versions = (
            VersionBatch(i, checked_versions(i, table)) for i, table in zip(ids, rows, strict=True)
        )
        with self._held(request.latch, call) as opened:
            if request.number == opened.number + 1:
                call.check()
                _check_progress(opened.manifest, change)
                fail_point("writers.before_publish")
                opened.generation = opened.engine.publish(Publication(versions, change))
                opened.number = request.number
                fail_point("writers.after_publish")
            elif request.number != max(opened.number, 1):
                reason = f"{request.number} after {opened.number}"
                raise CodecError("number of a publication", reason)
            return message.Published(opened.generation)

    def compact_tables(
        self, request: message.CompactTablesRequest, call: CallContext
    ) -> message.Done:
        with self._held(request.latch, call) as opened:
            opened.maintenance.touched(PhysicalTableID(i) for i in request.physical_ids)
            if request.drain:
                opened.maintenance.drain()
        return message.Done("drained" if request.drain else "noted")

    def maintain(self, request: message.MaintainRequest, call: CallContext) -> message.Maintained:
        with self._held(request.latch, call) as opened:
            memory, maintenance = opened.memory, opened.maintenance
            memory.open = frozenset(request.open_orphans)
            if request.pd_safe_point is not None:
                memory.pd_safe_point = TimeStamp(request.pd_safe_point)
            if request.has_pd:
                maintenance.pd_safe_point = memory.safe_point
            if request.interval_ms is not None:
                maintenance.set_interval(request.interval_ms)
            maintenance.poll()
            changed = tuple(message.ManifestRecord(r.kind, r.key, r.body) for r in memory.changed)
            memory.changed.clear()
            return message.Maintained(
                interval_ms=maintenance.interval_ms,
                is_stopping=maintenance.is_stopping,
                changed=changed,
                ledger_records=memory.ledger_records,
                discarded=maintenance.discarded,
            )

    @contextmanager
    def _held(self, latch: message.LatchRequest, call: CallContext) -> Iterator[_Opened]:
        """Lock and return the engine that is open for a latch. Raises `LatchLostError`."""
        with self._alone(call):
            if self._opened is None or self._opened.latch != _claim(latch, call):
                raise LatchLostError(latch.id, latch.token)
            yield self._opened

    @contextmanager
    def _alone(self, call: CallContext) -> Iterator[None]:
        while not self._mutex.acquire(timeout=_POLL_S):
            call.check()
        try:
            yield
        finally:
            self._mutex.release()

    def _close_engine(self) -> None:
        opened, self._opened = self._opened, None
        if opened is not None:
            opened.close()

    def _check_latch(self) -> None:
        """Close the engine when the latch of its writer has ended."""
        while not self._ended.wait(_POLL_S):
            with self._mutex:
                opened = self._opened
                if opened is None:
                    continue
                try:
                    LatchQueue(opened.manifest, self._clock).look(opened.latch)
                except LatchLostError:
                    _log.warning("the latch of a writer on another machine has ended")
                    self._close_engine()
                except TheFlashError as error:
                    # For example a full disk. It is checked again.
                    _log.warning("the latch of a writer cannot be checked: %s", error)


def _claim(latch: message.LatchRequest, call: CallContext) -> LatchClaim:
    return LatchClaim(latch.id, latch.token, call.identity)


def _check_progress(manifest: Manifest, change: ManifestChange) -> None:
    """Raise `CodecError` if a change would move progress backwards, which readers rely on."""
    current = Progress.of(manifest.read([PROGRESS_KIND])) or Progress(TimeStamp(0), TimeStamp(0))
    for record in change.puts:
        if record.kind != PROGRESS_KIND:
            continue
        new = Progress.of(View(Generation(0), {record.kind: {record.key: record.body}}))
        if new is None:
            raise CodecError("progress", "not the progress of a stream")
        if new.oldest_ts < current.oldest_ts or new.resolved_ts < current.resolved_ts:
            raise CodecError("progress", f"goes back: {new} where the store has {current}")


def _stored_columns(schema: bytes) -> list[ScanColumn]:
    """Decode a schema to columns that are read as they are stored. Raises `CodecError`."""
    if not schema:
        return []
    try:
        fields = [(column_id(f.name), f.type) for f in pa.ipc.read_schema(pa.py_buffer(schema))]
    except (pa.ArrowException, OSError, ValueError, IndexError) as error:
        raise CodecError("columns to read", f"not a schema ({type(error).__name__})") from error
    types = dict(fields)
    return [
        ScanColumn(id, tp, StillAbsent(tp))
        if id >= 0
        else ScanColumn(
            id, tp, Absence(ScanColumn(absence(id), types.get(absence(id), tp), StillAbsent(tp)))
        )
        for id, tp in fields
    ]
