"""First load of a store: all rows of its tables at one timestamp, read from TiKV.

    TiKV ──► processes: scan, decode ──► pieces ──► this process: Engine.publish

The keys of all tables are divided into stripes (`plan.py`). A process reads the next piece of a
stripe (`scan.py`), and its rows are published with the key to continue at, in one commit. So a load
that is killed continues after its last publications. The last one adds the first progress of the
store, which makes the rows readable; they are versions committed at the timestamp of the load.

The timestamp is the start of the schema history. The caller holds a GC barrier there.
"""

import logging
import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Final, Protocol

from pyspark_theflash.base.clock import Clock, Deadline
from pyspark_theflash.base.errors import (
    InternalError,
    SchemaOutdatedError,
    TheFlashError,
)
from pyspark_theflash.base.types import PhysicalTableID, TimeStamp
from pyspark_theflash.cluster.tikv.client import TiKVClient
from pyspark_theflash.replication.apply.columns import StoredColumns
from pyspark_theflash.replication.cdc.position import feed_position
from pyspark_theflash.replication.load.plan import (
    inner_bounds,
    physical_tables,
    plan_stripes,
    tables_to_load,
)
from pyspark_theflash.replication.load.process import ReaderProcesses
from pyspark_theflash.replication.load.scan import ClusterAddress, LoadPiece, LoadRequest
from pyspark_theflash.storage.engine.api import Engine, Publication
from pyspark_theflash.storage.store.catalog import SCHEMA_KIND, feed_history, schema_records
from pyspark_theflash.storage.store.coverage import loaded_record
from pyspark_theflash.storage.store.feed import FEED_KIND, Feed, claim
from pyspark_theflash.storage.store.load import (
    LOAD_KIND,
    LoadPlan,
    Stripe,
    ended_keys,
    stripes_of,
)
from pyspark_theflash.storage.store.manifest import ManifestChange, View
from pyspark_theflash.storage.store.progress import Progress
from pyspark_theflash.storage.store.scope import SCOPE_KIND, TableScope
from pyspark_theflash.tidb.codec.key import RawKey
from pyspark_theflash.tidb.schema.history import SchemaHistory
from pyspark_theflash.tidb.schema.model import TableInfo

PIECES_BYTES: Final = 96 << 20
"""The size of the keys and values of all pieces that are in memory at the same time."""
_PIECE_BYTES_MAX: Final = 12 << 20
_STRIPES: Final = 8
"""Stripes per process, so that all processes have work until the end."""
_PLAN_MS: Final = 60_000
_RETRY_MS: Final = 1_000
_STALLED_MS: Final = 600_000
"""The longest time without progress after errors of TiKV; the load is retried until then."""
_LOOK_S: Final = 0.5
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class LoadReport:
    """Work of a load in this run.

    `share` is the part of all keys that is loaded, at the start of this run and now, from 0 to 1.
    It is an estimate: regions of TiKV have about the same size, and so have equal parts of them.
    """

    tables: int = 0
    rows: int = 0
    share_before: float = 0.0
    share: float = 0.0


class PiecePool(Protocol):
    """Readers of pieces, which may work at the same time."""

    def read(self, start: RawKey, end: RawKey) -> "Future[LoadPiece]": ...

    def close(self) -> None: ...


class FirstLoad:
    """A first load of a store, begun or continued."""

    def __init__(
        self,
        engine: Engine,
        client: TiKVClient,
        cluster: ClusterAddress,
        cluster_id: int,
        *,
        clock: Clock,
        processes: int | None = None,
        check: Callable[[], None] = lambda: None,
        pool: Callable[[int, LoadRequest], PiecePool] = ReaderProcesses,
    ) -> None:
        """`check` is called often, and ends the load by raising, as when the GC barrier is lost."""
        self._pool = pool
        self._engine, self._client, self._cluster = engine, client, cluster
        self._cluster_id, self._clock, self._check = cluster_id, clock, check
        self._processes = processes or len(os.sched_getaffinity(0))
        self.report: Final = LoadReport()
        self._stripes = 1

    def begin(self, history: SchemaHistory, scope: TableScope) -> None:
        """Record a new load, at the start of a schema history.

        Raises:
            FeedConflictError: The store is written through the API.
        """
        tables = tables_to_load(history, scope)
        deadline = Deadline(self._clock, _PLAN_MS)
        count = _STRIPES * self._processes
        stripes = plan_stripes(self._client, list(physical_tables(tables)), count, deadline)
        records = [
            *claim(self._engine.read([FEED_KIND]), Feed.STREAM),
            scope.to_record(),
            *schema_records(history),
            LoadPlan(history.start_ts, self._cluster_id).to_record(),
            *(stripe.to_record() for stripe in stripes),
        ]
        self._engine.publish(Publication((), ManifestChange(records)))

    def run(self, on_progress: Callable[[LoadReport], None]) -> None:
        """Load what is missing. Call `end` then, which makes the rows readable.

        Raises:
            The error of `check`, and those of `TiKVClient` after ten minutes without progress.
        """
        view = self._engine.read([LOAD_KIND, SCHEMA_KIND, SCOPE_KIND])
        ts, tables, history = self._plan(view)
        physical, stripes = physical_tables(tables), stripes_of(view)
        for physical_id, bounds in inner_bounds(stripes, physical).items():
            self._engine.divide(physical_id, bounds)
        self.report.tables, self._stripes = len(tables), max(len(stripes), 1)
        self.report.share = sum(stripe.share for stripe in stripes) / self._stripes
        self.report.share_before = self.report.share
        open_stripes = [stripe for stripe in stripes if not stripe.is_done]
        if open_stripes:
            self._read(ts, physical, open_stripes, on_progress)
        self._compact(history, physical)

    def _read(
        self,
        ts: TimeStamp,
        physical: dict[PhysicalTableID, TableInfo],
        stripes: Sequence[Stripe],
        on_progress: Callable[[LoadReport], None],
    ) -> None:
        """Read the stripes in processes, and publish their pieces."""
        processes = min(self._processes, len(stripes))
        most = processes + 1
        piece_bytes = min(_PIECE_BYTES_MAX, PIECES_BYTES // most)
        request = LoadRequest(self._cluster, tuple(physical.items()), ts, piece_bytes)
        with closing(self._pool(processes, request)) as pool:
            _Reading(self, pool, most, stripes, on_progress).run()

    def publish(self, stripe: Stripe, piece: LoadPiece) -> Stripe:
        """Publish a piece of a stripe, and return what is left of the stripe."""
        left = replace(stripe, next=piece.next, rows=stripe.rows + piece.rows)
        change = ManifestChange([left.to_record()])
        self._engine.publish(Publication(list(piece.versions()), change))
        self.report.rows += piece.rows
        self.report.share += (left.share - stripe.share) / self._stripes
        return left

    def check(self) -> None:
        """Raise an error if the load cannot go on."""
        self._check()

    @property
    def clock(self) -> Clock:
        """The clock of waits."""
        return self._clock

    def _compact(self, history: SchemaHistory, physical: dict[PhysicalTableID, TableInfo]) -> None:
        columns = StoredColumns(history)
        for physical_id in sorted(physical):
            self._check()
            self._engine.compact(physical_id, columns.of(physical_id))

    def end(self) -> None:
        """Make the rows readable, at the timestamp of the load."""
        view = self._engine.read([LOAD_KIND, SCHEMA_KIND, SCOPE_KIND])
        ts, tables, _ = self._plan(view)
        progress = Progress(ts, ts, feed_position(self._cluster_id))
        loaded = [loaded_record(table.full_name, ts) for table in tables]
        change = ManifestChange([*loaded, progress.to_record()], ended_keys(view))
        self._engine.publish(Publication((), change))

    def _plan(self, view: View) -> tuple[TimeStamp, list[TableInfo], SchemaHistory]:
        """Return the timestamp, tables and schema history of the load in progress."""
        plan, history = LoadPlan.of(view), feed_history(view)
        if plan is None or history is None:
            raise InternalError("no load has begun")
        return plan.ts, tables_to_load(history, TableScope.of(view) or TableScope()), history


class _Reading:
    """Pieces that processes read, at most `most` at the same time."""

    def __init__(
        self,
        load: FirstLoad,
        pool: PiecePool,
        most: int,
        stripes: Sequence[Stripe],
        on_progress: Callable[[LoadReport], None],
    ) -> None:
        self._load, self._pool, self._most = load, pool, most
        self._waiting, self._on_progress = deque(stripes), on_progress
        self._running: dict[Future[LoadPiece], Stripe] = {}
        self._stalled: Deadline | None = None

    def run(self) -> None:
        """Read and publish all pieces."""
        while self._waiting or self._running:
            self._load.check()
            while self._waiting and len(self._running) < self._most:
                stripe = self._waiting.popleft()
                future = self._pool.read(stripe.next, stripe.end)
                self._running[future] = stripe
            for future in wait(self._running, _LOOK_S, FIRST_COMPLETED).done:
                self._finish(self._running.pop(future), future)
            self._on_progress(self._load.report)

    def _finish(self, stripe: Stripe, future: "Future[LoadPiece]") -> None:
        try:
            piece = future.result()
        except TheFlashError as error:
            self._failed(error)
            self._waiting.append(stripe)
            return
        self._stalled = None
        left = self._load.publish(stripe, piece)
        if not left.is_done:
            self._waiting.appendleft(left)

    def _failed(self, error: TheFlashError) -> None:
        """Wait after an error that may pass. Raises other errors, and those that last."""
        if isinstance(error, SchemaOutdatedError) or not error.retryable:
            raise error
        clock = self._load.clock
        self._stalled = self._stalled or Deadline(clock, _STALLED_MS)
        if not self._stalled.sleep_ms(_RETRY_MS):
            raise error
        _log.warning("the load retries after an error: %s", error)
