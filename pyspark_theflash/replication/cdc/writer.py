"""Writer of TiKV's change feed: publishes committed changes to a store.

    ChangeFeed ─ changes up to the frontier ─► batches ─► decode ─► publications ─► engine

All changes at or below the store's resolved_ts are published, and none above it. So a restart
subscribes every span at resolved_ts, without a record of applied transactions. In this order:

    the schema history         follows the meta keys, in a feed of its own (`meta_schema`)
    new physical tables        are subscribed at resolved_ts: the frontier is back there until TiKV
                               has sent what they have, and nothing is published meanwhile
    tables that enter          with rows are loaded at the timestamp of their entry (`entering`)
    the frontier               no commit at or below it is missing, of rows and of the schema
    the changes                are decoded under the definitions at their commits and published with
                               the progress, in batches between two commit timestamps

A key contains the physical table of its row, and TiKV's feed has the rows that DDL writes. So
partitions are not computed, and the rows copied by REORGANIZE PARTITION and PARTITION BY, and the
double writes meanwhile, are published as they come. TiKV from v7.1 on leaves out the rows that
MODIFY COLUMN rewrites; with or without them a scan returns the converted values, because a row that
has the new column is not converted (`storage.mvcc.project`).
"""

from collections.abc import Iterable, Iterator, Sequence, Set
from itertools import chain
from pathlib import Path
from typing import Final, Protocol

import numpy as np

from pyspark_theflash.base.clock import Clock, SystemClock
from pyspark_theflash.base.errors import UnsupportedError, invariant
from pyspark_theflash.base.timestamp import shown
from pyspark_theflash.base.types import (
    MAX_TS,
    PhysicalTableID,
    TableID,
    TimeStamp,
    from_physical_ms,
)
from pyspark_theflash.replication.apply.applier import (
    BATCH_BYTES,
    ApplyReport,
    Compact,
    synchronously,
)
from pyspark_theflash.replication.apply.asides import AsideTables
from pyspark_theflash.replication.apply.base import check_base
from pyspark_theflash.replication.apply.base_rows import RowBase, load_any
from pyspark_theflash.replication.apply.rows import by_table, decode_versions, version_batches
from pyspark_theflash.replication.apply.stream_state import SchemaSource, StreamState
from pyspark_theflash.replication.apply.tables import PhysicalTables
from pyspark_theflash.replication.apply.versions import Versions
from pyspark_theflash.replication.cdc.batches import (
    ChangeBatch,
    row_bytes,
    with_large,
    without_rows,
)
from pyspark_theflash.replication.cdc.change_feed import ChangeFeed, FeedState, Taken
from pyspark_theflash.replication.cdc.entering import Entering
from pyspark_theflash.replication.cdc.position import (
    CONTINUED_KINDS,
    check_has_change_feed,
    feed_position,
)
from pyspark_theflash.replication.load.entry import Loader
from pyspark_theflash.replication.load.scan import record_keys
from pyspark_theflash.storage.engine.api import Publication, VersionBatch, WriterEngine
from pyspark_theflash.storage.store.coverage import ASSUMED_KIND, assumed_records, recovered_record
from pyspark_theflash.storage.store.feed import FEED_KIND, Feed, claim
from pyspark_theflash.storage.store.manifest import ManifestChange, Record
from pyspark_theflash.storage.store.scope import TableScope
from pyspark_theflash.tidb.schema.history import SYSTEM_DATABASES, TableEvent

WAIT_MS: Final = 20
"""Time that `receive` waits for the first message."""
STEP: Final = from_physical_ms(60_000)
"""Time whose changes are taken at once, at first."""
STEP_MIN: Final = from_physical_ms(100)
_MODE: Final = '"mode":'
"""Part of the JSON of every table that is being imported."""
STEP_BYTES: Final = 2 * BATCH_BYTES
"""Size of the changes to take at once; the time that they are of is adapted to it."""


class ChangeSchema(SchemaSource, Protocol):
    """Source of a schema history that ends at its own frontier."""

    def receive(self, timeout_ms: int) -> None:
        """Receive pending messages; see `ChangeFeed.poll`."""

    def take_restored(self) -> Sequence[TimeStamp]:
        """Remove and return when tables were restored, by the changes read since the last call."""

    def close(self) -> None:
        """End its feed."""


class ChangeWriter:
    """Writer of one store. `engine` is the store's, open for writing. Not usable after an error."""

    pending: Final = 0
    """Number of transactions received but not applied: a restart receives them again."""

    def __init__(
        self,
        engine: WriterEngine,
        feed: ChangeFeed,
        schema: ChangeSchema,
        cluster_id: int,
        scope: TableScope | None = None,
        *,
        assume_empty: Sequence[str] = (),
        compact: Compact | None = None,
        loader: Loader | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Continue from the state of the store.

        Args:
            feed: A new feed, without spans.
            cluster_id: The id of the feed's cluster.
            assume_empty: Patterns of tables without rows before their first change, in addition
                to those of earlier runs (`storage/store/coverage.py`).
            compact: Called with the tables published; None compacts them synchronously.
            loader: Reads the rows of tables that enter the scope. Without it, reading them raises
                `TableNotLoadedError`.
            clock: Limits the time that a load waits after errors.

        Raises:
            FeedConflictError: The store is written through the API, or from a binlog.
            ClusterMismatchError: Another cluster feeds the store.
            SchemaConflictError: The store was written with another schema history.
            OptionError: The store was written with another scope.
        """
        self._engine, self._feed, self._schema = engine, feed, schema
        self._position = feed_position(cluster_id)
        view = engine.read([FEED_KIND, ASSUMED_KIND, *CONTINUED_KINDS])
        claims = claim(view, Feed.STREAM)
        check_has_change_feed(view, cluster_id)
        claims += assumed_records(view, assume_empty)
        self._state = StreamState(engine, schema, scope)
        if claims:
            engine.publish(Publication((), ManifestChange(claims)))
        self._compact = compact or synchronously(engine, self._state)
        self._asides = AsideTables(engine)
        self._entering: Entering | None = None
        if loader is not None:
            clock = clock or SystemClock()
            self._entering = Entering(engine, self._state, self._asides, loader, clock)
        if self.checkpoint_ts == self.start_ts:
            self._set_importing_aside(self._state.history.events)
        self._tables = PhysicalTables(self._state.history)
        self._followed: set[PhysicalTableID] = set()
        self._followed_ts = TimeStamp(0)
        self._entry_ts: TimeStamp | None = None
        self._restored = dict[TableID, Record]()
        self._touched: set[PhysicalTableID] = set()
        self._step = int(STEP)
        self.report: Final = ApplyReport()

    @property
    def resolved_ts(self) -> TimeStamp:
        """Newest readable timestamp of the store."""
        return self._state.resolved_ts

    @property
    def checkpoint_ts(self) -> TimeStamp:
        """The timestamp up to which all changes are in the store."""
        return max(self._state.resolved_ts, self._state.history.start_ts)

    @property
    def needed_ts(self) -> TimeStamp:
        """The timestamp after which TiKV must have all versions.

        While tables are loaded, that is where the feed is, far above the checkpoint after a while.
        The load confirms its own timestamp.
        """
        if self._entering is None or not self._entering.is_ahead(self.checkpoint_ts):
            return self.checkpoint_ts
        schema_ts = self._state.history.end_ts
        return min(self._feed.resolved_ts, schema_ts) if self._followed else schema_ts

    @property
    def is_due(self) -> bool:
        """Return whether the frontier of the rows is above what is published."""
        return bool(self._followed) and self._feed.resolved_ts > self.checkpoint_ts

    @property
    def start_ts(self) -> TimeStamp:
        """Oldest timestamp of the schema history."""
        return self._state.history.start_ts

    @property
    def state(self) -> StreamState:
        """The writer's records of the manifest."""
        return self._state

    @property
    def feed_state(self) -> FeedState:
        """The size of its feed. May be read by other threads."""
        return self._feed.state

    def load_base(self, base: Path | RowBase) -> int:
        """Load a base, the rows at the start of the history; return the number of rows loaded."""
        rows = load_any(self._engine, base, self._state)
        self._begin()
        return rows

    def record(self, records: Sequence[Record]) -> None:
        """Publish records besides the writer's."""
        self._engine.publish(Publication((), ManifestChange(records)))

    def set_aside(self, table: str, ids: Set[PhysicalTableID], ts: TimeStamp, reason: str) -> None:
        """Set physical tables aside from `ts` on, at once."""
        self._asides.add(table, ids, ts, reason)
        self._engine.publish(Publication((), self._asides.added_to(ManifestChange([]))))
        self._asides.published()

    def receive(self) -> None:
        """Receive pending messages. Raises the errors of `ChangeFeed.poll`."""
        self._schema.receive(0)
        self._feed.poll(WAIT_MS)

    def poll(self, *, until_ts: TimeStamp | None = None) -> int:
        """Publish the changes that are complete, up to `until_ts`; return the number of rows.

        Raises:
            The errors of the feed and of the schema source.
            CodecError, SchemaOutdatedError: The changes and the schema do not match.
        """
        check_base(self._engine)
        self._begin()
        limit = TimeStamp(MAX_TS - 1) if until_ts is None else until_ts
        before = self.report.rows
        self._follow_tables()
        self.receive()
        self._reach()
        rows_ts = self._feed.resolved_ts if self._followed else limit
        frontier = min(rows_ts, self._state.history.end_ts, limit)
        up_to = self._before_entry(min(frontier, TimeStamp(self.checkpoint_ts + self._step)))
        if up_to > self.checkpoint_ts:
            taken = self._feed.take(up_to) if self._followed else Taken(())
            self._apply(taken, up_to)
        return self.report.rows - before

    def close(self) -> None:
        """End the feed."""
        if self._entering is not None:
            self._entering.close()
        self._schema.close()
        self._feed.close()

    def add(self, patterns: Sequence[str], ts: TimeStamp) -> None:
        """Load tables with matching names at `ts`, which PD has allocated just now.

        They are followed from there; see `Entering.add`. The writer must have a loader.
        """
        invariant(self._entering is not None, "a writer without a loader cannot add tables")
        if self._entering is not None:
            self._entering.add(patterns, ts)

    # --

    def _begin(self) -> None:
        """Make a new store readable at the start of the history."""
        if self._state.resolved_ts < self._state.history.start_ts:
            self._publish(ChangeBatch((), self._state.history.start_ts))

    def _reach(self) -> None:
        """Extend the schema history, and subscribe the physical tables that it adds."""
        before = self._state.history
        self._state.reach(TimeStamp(MAX_TS - 1))
        history = self._state.history
        if history is before:
            return
        self._set_importing_aside(e for e in history.events if e.ts > before.end_ts)
        for ts in self._schema.take_restored():
            ids = history.appearing_at(ts)
            self._restored |= {table_id: recovered_record(table_id) for table_id in ids}
            if self._entering is not None:
                self._entering.restored(ids)
        self._tables = self._tables.continued(history)
        self._follow_tables()

    def _before_entry(self, up_to: TimeStamp) -> TimeStamp:
        """Return up to where to publish now; load a part of the tables that enter."""
        ts = self._entry_ts
        if self._entering is None or ts is None or up_to < ts:
            return up_to
        if self.checkpoint_ts < ts - 1:
            return TimeStamp(ts - 1)
        self._entering.begin(ts, self._tables)
        self._unfollow(self._followed & self._entering.physical_ids)
        is_loaded = self._entering.step()
        self.report.loading = self._entering.share
        return ts if is_loaded else self.checkpoint_ts

    def _entry_change(self, reached: TimeStamp) -> ManifestChange:
        """Return the records with which the tables that enter at a timestamp become readable."""
        if self._entering is None or reached != self._entry_ts:
            return ManifestChange()
        return self._entering.change()

    def _end_entry(self, reached: TimeStamp) -> None:
        """Follow the tables that have entered at a timestamp."""
        if self._entering is not None and reached == self._entry_ts:
            self._touched |= self._entering.physical_ids
            self._entering.end()
            self._entry_ts, self._followed_ts = None, TimeStamp(0)
            self.report.loading = None

    def _set_importing_aside(self, events: Iterable[TableEvent]) -> None:
        """Set the tables aside that TiDB declares to be filled by an import."""
        for event in events:
            if _MODE in (event.json_text or "") and self._follows(event):
                table = event.table
                if table is not None and table.is_importing:
                    reason = (
                        f"IMPORT INTO or a restore by BR began to fill it at {shown(event.ts)}, of "
                        "which TiKV's change feed does not have the rows"
                    )
                    self._asides.add(table.full_name, table.stored_id_set, event.ts, reason)

    def _follow_tables(self) -> None:
        """Subscribe the physical tables that changes may be in, and unsubscribe the others.

        A dropped table has no changes any more; after RECOVER, it is subscribed again. Tables that
        enter are subscribed when they are loaded.
        """
        events, checkpoint_ts = self._state.history.events, self.checkpoint_ts
        if self._entering is not None:
            self._entry_ts = self._entering.next_ts(self._tables, checkpoint_ts)
        if self._followed_ts and (not events or events[-1].ts <= self._followed_ts):
            return
        until = MAX_TS if self._entry_ts is None else TimeStamp(self._entry_ts - 1)
        history = self._state.history
        physical_ids = history.physical_ids_from(checkpoint_ts, self._follows, until)
        if self._entering is not None:
            physical_ids -= self._entering.physical_ids
        for physical_id in sorted(physical_ids - self._followed):
            start_ts = checkpoint_ts
            if self._entering is not None:
                start_ts = self._entering.followed_from(physical_id, checkpoint_ts)
            self._feed.subscribe(record_keys(physical_id), start_ts)
        self._unfollow(self._followed - physical_ids)
        self._followed, self._followed_ts = physical_ids, checkpoint_ts

    def _unfollow(self, physical_ids: Iterable[PhysicalTableID]) -> None:
        for physical_id in sorted(physical_ids):
            self._feed.unsubscribe(record_keys(physical_id))
            self._followed.discard(physical_id)

    def _follows(self, event: TableEvent) -> bool:
        """Return whether rows of a table are replicated."""
        if event.db in SYSTEM_DATABASES or not self._state.replicates(event.table_id):
            return False
        shape = event.shape
        is_listed = shape is not None and shape.is_listed
        return is_listed or (event.table is not None and event.table.holds_rows)

    def _apply(self, taken: Taken, up_to: TimeStamp) -> None:
        """Publish changes, after which the store is readable up to `up_to`."""
        chunks = [each for chunk in taken.versions if len(each := self._without_late(chunk))]
        self._adapt(sum(chunk.size_bytes for chunk in chunks))
        large = (each for chunk in taken.large if len(each := self._without_late(chunk)))
        for batch in with_large(chunks, large, up_to, BATCH_BYTES):
            self._publish(batch)
        with self.report.timed("compact"):
            touched, self._touched = sorted(self._touched), set()
            self._compact(touched)

    def _adapt(self, size_bytes: int) -> None:
        """Take changes of a longer or shorter time in the next step, by the size of this one."""
        if size_bytes > STEP_BYTES:
            self._step = max(self._step // 2, STEP_MIN)
        elif size_bytes < STEP_BYTES // 4:
            self._step = min(self._step * 2, MAX_TS // 4)

    def _publish(self, batch: ChangeBatch) -> None:
        """Publish a batch."""
        with self.report.timed("decode"):
            versions: Iterable[VersionBatch] = list(self._decoded(batch.chunks))
        if batch.large:
            large = (without_rows(chunk, batch.chunks) for chunk in batch.large)
            more = (each for chunk in large if len(chunk) for each in self._decoded_large(chunk))
            versions = chain(versions, more)
        with self.report.timed("publish"):
            entered = self._entry_change(batch.reached)
            records = self._state.progress_records(batch.reached, self._position)
            puts = [*records, *self._restored.values(), *entered.puts]
            change = self._asides.added_to(ManifestChange(puts, entered.deletes))
            self._engine.publish(Publication(self._counted(versions), change))
            self._restored.clear()
            self._state.published()
            self._asides.published()
            self._end_entry(batch.reached)
        if batch.chunks:
            starts = np.concatenate([chunk.start_ts for chunk in batch.chunks])
            self.report.transactions += len(np.unique(starts))
            self.report.row_bytes += sum(int(row_bytes(chunk).sum()) for chunk in batch.chunks)
        self.report.publications += 1

    def _counted(self, versions: Iterable[VersionBatch]) -> Iterator[VersionBatch]:
        """Yield versions, and count what the engine accepts."""
        for each in versions:
            yield each
            self._touched.add(each.physical_id)
            self.report.rows += each.batch.num_rows

    def _decoded_large(self, chunk: Versions) -> Iterator[VersionBatch]:
        """Decode a chunk of a large transaction while it is published.

        Raises:
            UnsupportedError: A table cannot be decoded. It is too late to set it aside.
        """
        self.report.row_bytes += int(row_bytes(chunk).sum())
        for physical_id, versions in by_table([chunk], self._tables):
            yield from version_batches(physical_id, versions, self._tables)

    def _decoded(self, chunks: Sequence[Versions]) -> Iterator[VersionBatch]:
        """Decode versions by table and definition; set tables aside that cannot be decoded."""
        for physical_id, versions in by_table(chunks, self._tables):
            for table, places in self._tables.definitions(physical_id, versions.commit_ts):
                chosen = versions if len(places) == len(versions) else versions.select(places)
                try:
                    yield VersionBatch(physical_id, decode_versions(physical_id, chosen, table))
                except UnsupportedError as error:
                    first_ts = TimeStamp(int(chosen.commit_ts.min()))
                    self._asides.add(table.full_name, {physical_id}, first_ts, str(error))

    def _without_late(self, chunk: Versions) -> Versions:
        """Return the versions above the checkpoint; set the tables of the others aside.

        TiKV's feed has no import (IMPORT INTO, Lightning, BR), but its scan of a region may return
        some of the imported rows, with a commit_ts from before.
        """
        is_late = chunk.commit_ts <= self.checkpoint_ts
        if not is_late.any():
            return chunk
        for physical_id in np.unique(chunk.table_id[is_late]).tolist():
            if not self._tables.has(physical_id):
                continue
            is_here = is_late & (chunk.table_id == physical_id)
            ts = TimeStamp(int(chunk.commit_ts[is_here].min()))
            table, _ = next(self._tables.definitions(physical_id, chunk.commit_ts[is_here]))
            reason = (
                f"TiKV sent rows committed at {ts} after the store was complete up to "
                f"{self.checkpoint_ts}, as after an import (IMPORT INTO, Lightning, BR); "
                "load the table again"
            )
            self._asides.add(table.full_name, {physical_id}, ts, reason)
        return chunk.select(np.flatnonzero(~is_late))
