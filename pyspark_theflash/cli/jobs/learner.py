"""Process of `theflash learn`: a store that TiKV feeds.

    TiKV -- enginepb --> EngineServer -> Learner --- flushes --> engine, in its own thread
                                            |                      ^ commands, compaction
    readers -- API --> Service -> Replica --+-- files -------------+
                                     |
    PD, TiKV <-- timestamps, regions, read indexes, locks -- safe point, heartbeats

Data that is acknowledged to TiKV is durable; TiKV sends the rest again. The process can therefore
be killed at any time, and continues after a restart. `close` writes applied rows to files.
"""

import logging
import threading
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pyspark_theflash.base.clock import Clock, Deadline
from pyspark_theflash.base.errors import (
    ClusterMismatchError,
    InternalError,
    OptionError,
    TheFlashError,
)
from pyspark_theflash.base.fs import FileSystem
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.cli.jobs.figures import store_figures
from pyspark_theflash.cli.jobs.sources import Network, Opener
from pyspark_theflash.cluster.pd import PDClient
from pyspark_theflash.cluster.resolve import LockPolicy
from pyspark_theflash.cluster.tikv.client import TiKVClient
from pyspark_theflash.cluster.tikv.upkeep import Heartbeat, SharedHold, store_of_ours
from pyspark_theflash.replication.apply.columns import StoredColumns
from pyspark_theflash.replication.apply.tables import PhysicalTables
from pyspark_theflash.replication.opening import open_when_free
from pyspark_theflash.replication.writer_latch import WriterLatch
from pyspark_theflash.service.api.limits import Limits
from pyspark_theflash.service.api.service import Service
from pyspark_theflash.storage.engine.api import Engine, Publication
from pyspark_theflash.storage.store.catalog import SCHEMA_KIND, feed_history
from pyspark_theflash.storage.store.feed import FEED_KIND, Feed, claim
from pyspark_theflash.storage.store.folder import open_manifest, read_identity
from pyspark_theflash.storage.store.latch.lease import LeaseTable
from pyspark_theflash.storage.store.manifest import ManifestChange, View
from pyspark_theflash.storage.store.progress import PROGRESS_KIND, Progress
from pyspark_theflash.storage.store.raft_fed import RAFT_FED_KIND, RaftFedMarker
from pyspark_theflash.tikv.flush import FlushLimits, OwnThread
from pyspark_theflash.tikv.learner import TRANSIENT_ERRORS, ColumnsOf, Learner
from pyspark_theflash.tikv.origin import READ_WAIT_MS, Replica
from pyspark_theflash.tikv.overlay import Overlays
from pyspark_theflash.tikv.schema import SchemaKeeper
from pyspark_theflash.tikv.server import EngineServer
from pyspark_theflash.tikv.upkeep import RaftFedMaintenance

if TYPE_CHECKING:
    from concurrent.futures import Future

    from pyspark_theflash.cli.jobs.metrics import Figures

_log = logging.getLogger(__name__)

_LOOK_S: Final = 1.0
_ASK_MS: Final = 10_000


@dataclass(frozen=True, slots=True)
class LearnerSettings:
    """Settings of a learner process.

    Attributes:
        listen: address for TiKV's learners.
        network: access to PD, TiKV and its learners.
        schema: as in `--schema`; None: read from TiKV.
        advertise: HOST:PORT under which to register with PD; None: do not register.
        caller_limits: limits for callers of the service.
    """

    listen: str
    network: Network
    schema: str | None = None
    start_ts: TimeStamp | None = None
    advertise: str | None = None
    policy: LockPolicy = LockPolicy.WAIT
    limits: FlushLimits = field(default_factory=FlushLimits)
    read_wait_ms: int = READ_WAIT_MS
    caller_limits: Limits = field(default_factory=Limits)


class LearnerProcess:
    """Learner, engine and service of a store; see the module docstring.

    Call `start` to accept commands, and then `poll` often.
    """

    service: Service
    server: EngineServer

    def __init__(
        self,
        path: Path,
        settings: LearnerSettings,
        *,
        fs: FileSystem,
        clock: Clock,
        wait_ms: int = 0,
    ) -> None:
        """Open the store for exclusive writing, once it is free.

        Raises:
            StoreInUseError, LatchHeldError: It is not free within `wait_ms`.
            OptionError: Another kind of feed has written it, or an address cannot be used.
            ClusterMismatchError: Another cluster has written it.
            PDUnavailableError, PDRefusedError: PD cannot be reached, or rejects a request.
        """
        self._path, self._settings, self._fs, self._clock = path, settings, fs, clock
        self._running: Future[None] | None = None
        with ExitStack() as undo:
            view = self._open_engine(undo, wait_ms)
            self._open_cluster(undo)
            self._open_learner(undo, view, self._learned(view))
            self._undo = undo.pop_all()

    def start(self) -> None:
        """Accept commands, and start heartbeats and the safe point at PD."""
        self._upkeep.start()
        self.server.start()

    @property
    def is_stopping(self) -> bool:
        """Whether the process has been requested to stop."""
        return self._maintenance.is_stopping

    def figures(self) -> "Figures":
        """Return the figures for `Telemetry`."""
        store = self._learner.store
        stopped = len(store.stopped)
        return {
            "regions": {"followed": len(store.regions()) - stopped, "stopped": stopped},
            "cache_bytes": store.size_bytes,
            "unpublished_bytes": store.version_bytes,
            **store_figures(self._path, self._clock),
        }

    def poll(self) -> None:
        """Execute requested commands, and compact published rows.

        Raises an error if it cannot accept more data; opening the store again may help.
        """
        if self._learner.failure is not None:
            raise InternalError(f"commands cannot be applied any more: {self._learner.failure}")
        self._pass(lambda: self._learner.purge_left(columns_of))
        running = self._running
        if running is not None and not running.done():
            return
        self._running = self._worker.run(self._work)
        if running is not None:
            self._pass(running.result)

    def _pass(self, step: Callable[[], None]) -> None:
        try:
            step()
        except TRANSIENT_ERRORS as error:
            _log.warning("will retry: %s", error)

    def close(self) -> None:
        """Stop accepting data, write applied rows to files, and close the store."""
        self._undo.close()

    def _work(self, engine: Engine) -> None:
        self._maintenance.poll()
        self._maintenance.compact_published()

    # -- opening

    def _open_engine(self, undo: ExitStack, wait_ms: int) -> View:
        """Become the store's writer; return the current view."""
        path, fs, clock = self._path, self._fs, self._clock
        latch = undo.enter_context(closing(WriterLatch(path, fs, clock)))
        self._worker = OwnThread(
            lambda: open_when_free(path, fs, clock, latch.guard, wait_ms=wait_ms)
        )
        self._close_worker = undo.enter_context(ExitStack())
        self._close_worker.callback(self._worker.close)
        latch.take(wait_ms)
        kinds = [FEED_KIND, RAFT_FED_KIND, PROGRESS_KIND, SCHEMA_KIND]
        view = self._worker.run(lambda engine: engine.read(kinds)).result()
        claim(view, Feed.STREAM)
        if Progress.of(view) is not None and RaftFedMarker.of(view) is None:
            reason = "is fed by a binlog; TiKV needs another store, created with theflash init"
            raise OptionError("store", reason)
        return view

    def _open_cluster(self, undo: ExitStack) -> None:
        network, clock = self._settings.network, self._clock
        self._pd = undo.enter_context(PDClient(network.pd_addresses, network.tls, clock=clock))
        self._tikv = undo.enter_context(
            TiKVClient(self._pd, network.tls, clock=clock, policy=self._settings.policy)
        )

    def _learned(self, view: View) -> RaftFedMarker:
        """Return the store's marker for the connected cluster."""
        cluster_id = self._pd.cluster_id()
        before = RaftFedMarker.of(view)
        if before is not None and before.cluster_id != cluster_id:
            raise ClusterMismatchError("PD", cluster_id, before.cluster_id)
        learned = before or RaftFedMarker(cluster_id)
        if self._settings.advertise is not None and not learned.pd_store_id:
            store_id = self._tikv.directory.new_id(Deadline(self._clock, _ASK_MS))
            learned = replace(learned, pd_store_id=store_id)
        return learned

    def _open_learner(self, undo: ExitStack, view: View, learned: RaftFedMarker) -> None:
        settings, clock = self._settings, self._clock
        opener = Opener(settings.network, self._fs, clock, undo)
        text = settings.schema or f"tikv:{','.join(settings.network.pd_addresses)}"
        source = opener.schema(text, settings.start_ts)
        self._schema = SchemaKeeper(source, feed_history(view))
        if RaftFedMarker.of(view) != learned:
            self._worker.run(lambda engine: self._mark(engine, view, learned)).result()
        self._learner = Learner(
            self._worker,
            self._schema.tables,
            clock,
            limits=settings.limits,
            extra=self._schema.change,
            on_published=self._schema.published,
        )
        self._close_worker.pop_all()
        undo.callback(self._close_learner)
        manifest = undo.enter_context(closing(open_manifest(self._path, self._fs)))
        self._maintenance = self._worker.run(
            lambda engine: RaftFedMaintenance(
                engine,
                manifest,
                clock,
                flusher=self._learner.flusher,
                safe_point=self._pd.gc_safe_point,
            )
        ).result()
        self._open_service(undo, learned)
        self.server = EngineServer(
            self._learner,
            settings.listen,
            clock=clock,
            access=settings.network.access(settings.listen),
        )
        undo.callback(self.server.stop)

    def _mark(self, engine: Engine, view: View, learned: RaftFedMarker) -> None:
        """Mark the store as fed by TiKV; it is readable from the start of its schema."""
        puts = [*claim(view, Feed.STREAM), learned.to_record()]
        if Progress.of(view) is None:
            history = self._schema.history
            puts.append(Progress(history.start_ts, history.start_ts).to_record())
            puts += self._schema.change().puts
        engine.publish(Publication((), ManifestChange(puts)))
        self._schema.published()

    def _open_service(self, undo: ExitStack, learned: RaftFedMarker) -> None:
        settings, path, clock = self._settings, self._path, self._clock
        directory, store = self._tikv.directory, self._learner.store
        service_id = f"theflash-{read_identity(path, self._fs).store_id}"
        hold = SharedHold(directory, service_id, clock=clock)
        undo.callback(hold.close)
        replica = Replica(
            store,
            Overlays(clock),
            self._tikv,
            self._tikv.resolver,
            self._schema.tables,
            self._tikv.now,
            hold.ensure,
            self._learner.flush,
            settings.limits.memory_bytes,
            settings.read_wait_ms,
        )
        heartbeat = None
        if settings.advertise is not None:
            ours = store_of_ours(learned.pd_store_id, settings.advertise, clock)
            heartbeat = Heartbeat(directory, ours, path, lambda: len(store.regions()), clock)
            heartbeat.register()
        manifest = undo.enter_context(closing(open_manifest(path, self._fs)))
        leases = LeaseTable(manifest, clock)
        self._upkeep = _Upkeep(leases, replica.overlays, hold, heartbeat)
        undo.callback(self._upkeep.stop)
        limits = settings.caller_limits
        self.service = Service(path, fs=self._fs, clock=clock, replica=replica, limits=limits)
        undo.callback(self.service.close)

    def _close_learner(self) -> None:
        try:
            self._learner.close()
        except TRANSIENT_ERRORS as error:
            _log.warning("applied rows were not written; TiKV will send them again: %s", error)


def columns_of(tables: PhysicalTables) -> ColumnsOf:
    """Return all columns that rows of a physical table have ever had."""
    return StoredColumns(tables.history).of


class _Upkeep:
    """Tasks that follow the read latches: memory of scans and the safe point at PD."""

    def __init__(
        self,
        leases: LeaseTable,
        overlays: Overlays,
        hold: SharedHold,
        heartbeat: Heartbeat | None,
    ) -> None:
        self._leases, self._overlays = leases, overlays
        self._hold, self._heartbeat = hold, heartbeat
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="upkeep", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _keep(self) -> None:
        while not self._over.wait(_LOOK_S):
            self._try(lambda: self._overlays.forget(self._living))
            self._try(lambda: self._hold.follow(self._lowest))
            if self._heartbeat is not None:
                self._try(self._heartbeat.beat)

    def _try(self, step: Callable[[], None]) -> None:
        try:
            step()
        except TheFlashError as error:
            _log.warning("will retry: %s", error)

    def _living(self) -> set[str]:
        return {latch.id for latch in self._leases.living()}

    def _lowest(self) -> TimeStamp | None:
        pinned = [x.snapshot_ts for x in self._leases.living() if x.kind.pins_snapshot]
        return min(pinned, default=None)
