"""Writer: applies a source's transactions to a store.

    source ─ entities ─► Pairing ─ transactions, resolved ─► Applier ─ publications ─► engine

Resolved transactions are applied when enough of them are buffered, and at the end of the source.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from pyspark_theflash.base.clock import Clock, SystemClock
from pyspark_theflash.base.errors import SchemaOutdatedError, UnmatchedPrewriteError
from pyspark_theflash.base.types import MAX_TS, TimeStamp
from pyspark_theflash.replication.apply.applier import BATCH_BYTES, Applier, ApplyReport, Compact
from pyspark_theflash.replication.apply.base import check_base
from pyspark_theflash.replication.apply.base_rows import RowBase, load_any
from pyspark_theflash.replication.apply.move import MOVE_KIND
from pyspark_theflash.replication.apply.state import LEDGER_KIND, WriterState
from pyspark_theflash.replication.apply.stream_state import SchemaSource
from pyspark_theflash.replication.cdc.position import check_has_binlog
from pyspark_theflash.replication.pairing.pending import PENDING_KIND
from pyspark_theflash.replication.pairing.spill import Spill
from pyspark_theflash.replication.source.event import Entity, EntitySource, Transaction
from pyspark_theflash.replication.source.merge import MergedSource
from pyspark_theflash.replication.ticdc.backlog import SERIES_KIND
from pyspark_theflash.replication.upkeep.orphans import ORPHAN_MS, OrphanWatch
from pyspark_theflash.storage.engine.api import Publication, WriterEngine
from pyspark_theflash.storage.store.aside import ASIDE_KIND
from pyspark_theflash.storage.store.base_load import BASE_LOAD_KIND
from pyspark_theflash.storage.store.catalog import SCHEMA_KIND
from pyspark_theflash.storage.store.coverage import (
    ASSUMED_KIND,
    BASE_KIND,
    RECOVERED_KIND,
    assumed_records,
)
from pyspark_theflash.storage.store.entered import ENTERED_KIND
from pyspark_theflash.storage.store.feed import FEED_KIND, Feed, claim
from pyspark_theflash.storage.store.gap import GAP_KIND
from pyspark_theflash.storage.store.load import LOAD_KIND
from pyspark_theflash.storage.store.manifest import ManifestChange
from pyspark_theflash.storage.store.orphan import ORPHAN_KIND
from pyspark_theflash.storage.store.progress import PROGRESS_KIND, Progress
from pyspark_theflash.storage.store.scope import SCOPE_KIND, TableScope

GATHER_BYTES: Final = BATCH_BYTES
WRITER_KINDS: Final = frozenset(
    {
        *(FEED_KIND, SCOPE_KIND, ASSUMED_KIND, BASE_KIND, BASE_LOAD_KIND, RECOVERED_KIND),
        *(PROGRESS_KIND, LEDGER_KIND, PENDING_KIND, ORPHAN_KIND, MOVE_KIND, GAP_KIND, ASIDE_KIND),
        *(SERIES_KIND, LOAD_KIND, ENTERED_KIND, SCHEMA_KIND),
    }
)
"""Kinds of the records that a writer publishes."""


class Writer:
    """Writer of one store. `engine` is the store's, open for writing."""

    def __init__(
        self,
        engine: WriterEngine,
        schema: SchemaSource,
        scope: TableScope | None = None,
        spill: Spill | None = None,
        *,
        may_guess: bool = False,
        assume_empty: Sequence[str] = (),
        clock: Clock | None = None,
        orphan_ms: int = ORPHAN_MS,
        streams: Sequence[str] = ("",),
        compact: Compact | None = None,
        applier: type[Applier] = Applier,
    ) -> None:
        """Continue from the state of the store.

        Args:
            spill: File for pending payloads that do not fit in memory.
            may_guess: Guess partitions that cannot be determined (`placement.py`), with a warning.
            assume_empty: Patterns of tables without rows before their first change, in addition
                to those of earlier runs (`storage/store/coverage.py`).
            orphan_ms: Age at which a prewrite without commit is looked up in TiKV (`orphans.py`).
            streams: Names of the source's parts if it is merged.
            compact: Called with the tables published; None compacts them synchronously.
            applier: The class that applies transactions, of the engine.

        Raises:
            FeedConflictError: The store is written through the API, or from TiKV's change feed.
            SchemaConflictError: The store was written with another schema history.
            OptionError: The store was written with another scope.
        """
        self._engine = engine
        view = engine.read([FEED_KIND, ASSUMED_KIND, PROGRESS_KIND])
        claims = claim(view, Feed.STREAM)
        claims += assumed_records(view, assume_empty)
        check_has_binlog(Progress.of(view))
        self._state = WriterState(engine, schema, scope, spill, streams)
        if claims:
            engine.publish(Publication((), ManifestChange(claims)))
        self._applier = applier(engine, self._state, may_guess=may_guess, compact=compact)
        self._orphans = OrphanWatch(engine, self._state, clock or SystemClock(), orphan_ms)
        self._read: str | None = None
        """The position after the last poll; None after an error."""

    @property
    def resolved_ts(self) -> TimeStamp:
        """Newest readable timestamp of the store."""
        return self._state.resolved_ts

    @property
    def position(self) -> str | None:
        """Durable position in the source that another writer continues at."""
        return self._state.position

    @property
    def state(self) -> WriterState:
        """The writer's records of the manifest."""
        return self._state

    @property
    def pending(self) -> int:
        """Number of transactions received but not applied."""
        return self._state.pairing.pending_count

    @property
    def report(self) -> ApplyReport:
        """Counts of everything applied since the writer was created."""
        return self._applier.report

    def load_base(self, base: Path | RowBase) -> int:
        """Load a base, the rows from before the binlog; return the number of rows loaded."""
        rows = load_any(self._engine, base, self._state)
        if self._state.resolved_ts < self._state.history.start_ts:
            self._applier.apply([], self._state.history.start_ts)
        return rows

    def poll(self, source: EntitySource, *, until_ts: TimeStamp | None = None) -> int:
        """Apply the entities after the last poll's, up to `until_ts`; return their number.

        The first poll, and one after an error, begins at the durable position.

        Raises:
            SchemaOutdatedError, CodecError, TransactionConflictError: The input is invalid; the
                transactions before it are applied.
        """
        check_base(self._engine)
        limit = TimeStamp(MAX_TS - 1) if until_ts is None else until_ts
        if isinstance(source, MergedSource):
            source.is_full = lambda: self._state.is_full
        # Pending transactions that are too large to be stored hold back the durable position.
        count, begin, self._read = 0, self._read or self.position, None
        for _ in self._gather(source.entities(begin), limit, source):
            count += 1
        self._orphans.check()
        self._finish(limit, source.position)
        self._read = source.position
        return count

    def run_once(self, source: EntitySource, *, until_ts: TimeStamp | None = None) -> ApplyReport:
        """Apply all that is in the source, or all up to `until_ts`.

        With `until_ts` the source must be complete up to it.

        Raises:
            UnmatchedPrewriteError: The source is not complete; what is resolved is applied.
            SchemaOutdatedError, CodecError, TransactionConflictError: The input is invalid; the
                transactions before it are applied.
        """
        check_base(self._engine)
        pairing = self._state.pairing
        limit = TimeStamp(MAX_TS - 1) if until_ts is None else until_ts
        newest = TimeStamp(0)
        for entity in self._gather(source.entities(), limit, None):
            newest = max(newest, entity.commit_ts)
        self._apply(limit, None)
        self._check_overlap(newest if until_ts is None else until_ts)
        self._orphans.check()
        if until_ts is not None and until_ts > pairing.resolved_ts:
            try:
                pairing.vouch(until_ts)
            except UnmatchedPrewriteError:
                # The next run may complete the transactions that are pending.
                self._finish(limit, None)
                raise
        self._finish(limit, None)
        return self._applier.report

    def _gather(
        self, entities: Iterable[Entity], limit: TimeStamp, source: EntitySource | None
    ) -> Iterator[Entity]:
        """Pass entities to the pairing and yield them, applying when enough are buffered."""
        pairing = self._state.pairing
        for entity in entities:
            pairing.add(entity)
            yield entity
            if pairing.buffered_bytes >= GATHER_BYTES:
                self._apply(limit, source)

    def _apply(self, limit: TimeStamp, source: EntitySource | None) -> None:
        """Apply the resolved transactions, if there are any."""
        transactions, resolved_ts = self._take(limit)
        if transactions:
            position = source.position if source else None
            self._applier.apply(
                transactions, resolved_ts, keep_pending=source is not None, position=position
            )
            self._applier.compact()

    def _finish(self, limit: TimeStamp, position: str | None) -> None:
        """Apply what is resolved and store the pending transactions, in one publication."""
        transactions, resolved_ts = self._take(limit)
        if transactions or self._state.has_news(position):
            self._applier.apply(transactions, resolved_ts, keep_pending=True, position=position)
        self._applier.compact()

    def _take(self, limit: TimeStamp) -> tuple[list[Transaction], TimeStamp]:
        """Take the transactions resolved up to `limit`; return them and the resolved_ts."""
        pairing = self._state.pairing
        resolved_ts = min(pairing.resolved_ts, limit)
        if resolved_ts <= self._state.resolved_ts and not pairing.has_resolved(resolved_ts):
            return [], resolved_ts
        # Before anything is taken: if this fails, the next poll retries it. Also without
        # transactions, since the schema may have changed up to the new resolved_ts.
        self._state.reach(resolved_ts)
        return pairing.take_resolved(resolved_ts), resolved_ts

    def _check_overlap(self, newest: TimeStamp) -> None:
        """Reject a first source that ends before the schema history begins.

        All of its transactions would be skipped as early, without an error.
        """
        start_ts = self._state.history.start_ts
        if newest < start_ts and self._state.resolved_ts < start_ts:
            raise SchemaOutdatedError(f"table (it begins at {start_ts})", newest)
