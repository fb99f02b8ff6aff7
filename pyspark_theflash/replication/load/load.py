"""First load of a store: all rows of its tables at one timestamp, read from TiKV.

    TiKV ──► processes: scan, decode ──► pieces ──► this process: Engine.publish

The keys of all tables are divided into stripes (`plan.py`). A process reads the next piece of a
stripe (`scan.py`), and its rows are published with the key to continue at, in one commit. So a load
that is killed continues after its last publications. The last one adds the first progress of the
store, which makes the rows readable; they are versions committed at the timestamp of the load.

The timestamp is the start of the schema history. The caller holds a GC barrier there.
"""

import os
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Final

from pyspark_theflash.base.clock import Clock, Deadline
from pyspark_theflash.base.errors import InternalError
from pyspark_theflash.base.types import PhysicalTableID, TimeStamp
from pyspark_theflash.cluster.tikv.client import TiKVClient
from pyspark_theflash.replication.apply.columns import StoredColumns
from pyspark_theflash.replication.cdc.position import feed_position
from pyspark_theflash.replication.load.plan import (
    STRIPES,
    inner_bounds,
    physical_tables,
    plan_stripes,
)
from pyspark_theflash.replication.load.process import ReaderProcesses
from pyspark_theflash.replication.load.reading import (
    PiecePool,
    Reading,
    piece_bytes,
    publish_piece,
)
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
from pyspark_theflash.storage.store.scope import SCOPE_KIND, TableScope, tables_to_load
from pyspark_theflash.tidb.schema.history import SchemaHistory
from pyspark_theflash.tidb.schema.model import TableInfo

_PLAN_MS: Final = 60_000


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
        count = STRIPES * self._processes
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
        """Load the missing rows. Call `end` afterwards, which makes the rows readable.

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
        request = LoadRequest(self._cluster, tuple(physical.items()), ts, piece_bytes(processes))
        with closing(self._pool(processes, request)) as pool:
            reading = Reading(pool, processes + 1, stripes, self._publish, self._clock)
            while not reading.is_done:
                self._check()
                reading.step()
                on_progress(self.report)

    def _publish(self, stripe: Stripe, piece: LoadPiece) -> Stripe:
        """Publish a piece of a stripe, and return the remaining stripe."""
        left = publish_piece(self._engine, stripe, piece, list(piece.versions()))
        self.report.rows += piece.rows
        self.report.share += (left.share - stripe.share) / self._stripes
        return left

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
        change = ManifestChange([*loaded, progress.to_record()], ended_keys(view, ts))
        self._engine.publish(Publication((), change))

    def _plan(self, view: View) -> tuple[TimeStamp, list[TableInfo], SchemaHistory]:
        """Return the timestamp, tables and schema history of the load in progress."""
        plan, history = LoadPlan.of(view), feed_history(view)
        if plan is None or history is None:
            raise InternalError("no load has begun")
        return plan.ts, tables_to_load(history, TableScope.of(view) or TableScope()), history
