"""Writes through the API: each becomes one publication or fails as a whole.

    latches   must be held for everything written; checked again in the transaction of the commit
    schema    must continue the store's history
    rows      must be valid for their tables (`incoming.py`)
    ledger    shows which transactions are new; others must be the same as before
    engine    publishes all of it, with the progress and the ledger

All rows of a transaction must be in one write: the ledger stores one fingerprint of its rows in all
tables (`storage/mvcc/fingerprint.py`). So a write may be repeated, or its transactions regrouped;
those already applied are compared and skipped. Transactions at or below `oldest_ts`, where the
ledger has been pruned, are skipped without comparison.

A new transaction that commits at or below `resolved_ts` is late, since snapshots there may have
been read. So is one at or below the newest commit of a physical table that it writes to, since
versions of a row must arrive in order of commit.

In a store fed by a stream, the API writes its own tables (`storage/store/feed.py`), which have a
schema history, progress and ledger separate from the stream's.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from pyspark_theflash.base.clock import Clock
from pyspark_theflash.base.errors import (
    FeedConflictError,
    OptionError,
    RegionNotFoundError,
    SchemaConflictError,
    StoreInUseError,
    TableNotFoundError,
    TransactionConflictError,
    UnsupportedError,
)
from pyspark_theflash.base.failpoint import fail_point
from pyspark_theflash.base.fs import FileSystem
from pyspark_theflash.base.types import Generation, PhysicalTableID, TimeStamp
from pyspark_theflash.replication.incoming import (
    CheckedRows,
    IncomingRows,
    check_disjoint,
    checked_rows,
)
from pyspark_theflash.replication.pairing.ledger import LedgerEntry, TransactionLedger, pack_entries
from pyspark_theflash.replication.statement import StatementWrite, plan_statement
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.storage.engine.api import Engine, Publication, VersionBatch
from pyspark_theflash.storage.mvcc.filter import filter_rows
from pyspark_theflash.storage.mvcc.fingerprint import (
    added,
    digest,
    row_fingerprints,
    transaction_fingerprints,
)
from pyspark_theflash.storage.mvcc.version import HANDLE
from pyspark_theflash.storage.store.catalog import feed_history, schema_records
from pyspark_theflash.storage.store.feed import (
    FEED_KIND,
    MAIN,
    SCHEMA_KINDS,
    SIDE,
    SIDE_IDS_FROM,
    WRITTEN_KIND,
    Feed,
    FeedRecords,
    all_guards,
    claim,
    feed_guard,
    main_feed,
)
from pyspark_theflash.storage.store.folder import IDENTITY_KIND, StoreIdentity, open_manifest
from pyspark_theflash.storage.store.latch.latch import Grant, LatchClaim, LatchKind, LatchScope
from pyspark_theflash.storage.store.latch.queue import LatchQueue
from pyspark_theflash.storage.store.manifest import ManifestChange, Record, View
from pyspark_theflash.storage.store.progress import FOLLOWING_KIND, PROGRESS_KIND, Progress
from pyspark_theflash.storage.store.raft_fed import RAFT_FED_KIND, check_not_learned
from pyspark_theflash.tidb.codec.document import uint64
from pyspark_theflash.tidb.schema.history import SchemaHistory, TableEvent
from pyspark_theflash.tidb.schema.lineage import Lineage

_RETRY_MS: Final = 20
_KINDS: Final = (FEED_KIND, PROGRESS_KIND, *SCHEMA_KINDS, RAFT_FED_KIND)


@dataclass(frozen=True, slots=True)
class Ingestion:
    """A write request. `latches` are write latches that cover it.

    `events` continue the schema history of the API's tables, which begins at the first write's
    `start_ts`. `resolved_ts` is the new newest readable timestamp of these tables, and `position`
    is stored for the caller. All of these need a latch on the whole store.
    """

    latches: Sequence[LatchClaim]
    rows: Sequence[IncomingRows] = ()
    events: Sequence[TableEvent] = ()
    resolved_ts: TimeStamp | None = None
    position: str | None = None
    start_ts: TimeStamp | None = None
    statement: StatementWrite | None = None
    """A statement, which determines all other attributes but the latches."""

    @property
    def is_of_the_store(self) -> bool:
        """Whether it changes the store's schema or progress."""
        progress = (self.resolved_ts, self.position, self.start_ts, self.statement)
        return bool(self.events) or any(each is not None for each in progress)


@dataclass(frozen=True, slots=True)
class Ingested:
    """Result of a write, which is durable. `repeated` transactions had been applied before.

    `commit_ts` is that of a statement; 0 if it has changed nothing.
    """

    generation: Generation
    rows: int
    transactions: int
    repeated: int
    resolved_ts: TimeStamp
    commit_ts: int = 0


def ingest(
    path: Path,
    ingestion: Ingestion,
    *,
    fs: FileSystem,
    clock: Clock,
    check: Callable[[], None],
) -> Ingested:
    """Write to the store at `path`; durable on return.

    Args:
        check: Called while another process has the store open, and finally right before the commit.
            If it raises, the write is aborted without a change.

    Raises:
        LatchLostError: A latch is not held; may also be detected in the commit.
        FeedConflictError: A stream writes the table, or could; may also be detected in the commit.
        CodecError: Rows are invalid for their table.
        TransactionConflictError: A transaction has different content than before, or is late.
        SchemaConflictError: Events contradict the store's history.
        OptionError: A value is missing, or not covered by the latches.
        TheFlashError: A statement is invalid; see `plan_statement`.
    """
    with ExitStack() as undo:
        manifest = undo.enter_context(closing(open_manifest(path, fs)))
        queue = LatchQueue(manifest, clock)
        identity = StoreIdentity.of(manifest.read([IDENTITY_KIND]))
        held = [queue.look(claim) for claim in ingestion.latches]
        _check_covered(ingestion, held)
        main = main_feed(manifest.read([FEED_KIND])) or Feed.API
        guard = all_guards(queue.guard(ingestion.latches), feed_guard(main))
        while True:
            try:
                engine = registry.open_engine(path, identity, fs, clock, guard)
                break
            except StoreInUseError:
                check()
                clock.sleep_ms(_RETRY_MS)
        undo.enter_context(closing(engine))
        if ingestion.statement is not None:
            ingestion = _of_statement(ingestion, ingestion.statement, engine, clock)
        return _Ingest(engine, ingestion, held).run(check)


def _of_statement(
    ingestion: Ingestion, statement: StatementWrite, engine: Engine, clock: Clock
) -> Ingestion:
    """Return a statement as a write at the timestamp that is chosen for it."""
    view = engine.read([*_KINDS, WRITTEN_KIND])
    check_not_learned(view)
    planned = plan_statement(statement, engine, view, clock)
    if not planned.rows and not planned.events:
        return ingestion
    ts = planned.commit_ts
    has_begun = Progress.of(view, _feed_of(view)) is not None
    return replace(
        ingestion,
        rows=planned.rows,
        events=planned.events,
        resolved_ts=ts,
        start_ts=None if has_begun else ts,
    )


def _feed_of(view: View) -> FeedRecords:
    """Return the feed that the API writes."""
    return SIDE if main_feed(view) is Feed.STREAM else MAIN


class _Ingest:
    """One write, on an engine opened for it."""

    def __init__(self, engine: Engine, ingestion: Ingestion, held: Sequence[Grant]) -> None:
        self._engine, self._ingestion, self._held = engine, ingestion, held
        ledgers = [feed.ledger_kind for feed in (MAIN, SIDE)]
        self._view = engine.read([*_KINDS, *ledgers, WRITTEN_KIND])
        check_not_learned(self._view)
        self._feed = _feed_of(self._view)
        is_side = self._feed is SIDE
        self._claims = [] if is_side else claim(self._view, Feed.API)
        self._streamed = feed_history(self._view) if is_side else None
        self._stored = feed_history(self._view, self._feed)
        self._progress = Progress.of(self._view, self._feed)

    def run(self, check: Callable[[], None]) -> Ingested:
        if self._feed is SIDE:
            self._check_side()
        history = self._history()
        rows = [checked_rows(incoming, history) for incoming in self._ingestion.rows]
        check_disjoint(rows)
        self._check_regions(rows)
        new, entries, repeated = self._new_rows(rows)
        progress = self._next_progress(history)
        change = self._change(history, new, entries, progress)
        generation = self._view.generation
        if change.puts or new:
            check()
            fail_point("ingest.before_publish")
            versions = [VersionBatch(each.physical_id, each.batch) for each in new]
            generation = self._engine.publish(Publication(versions, change))
            fail_point("ingest.after_publish")
        count = sum(each.batch.num_rows for each in new)
        is_statement = self._ingestion.statement is not None and self._ingestion.resolved_ts
        commit_ts = progress.resolved_ts if is_statement else 0
        return Ingested(generation, count, len(entries), repeated, progress.resolved_ts, commit_ts)

    # -- schema and progress

    def _check_side(self) -> None:
        """Raise `FeedConflictError` if a stream writes one of the tables, or could in future."""
        ingestion, streamed = self._ingestion, self._streamed
        if self._stored is None and not ingestion.events:
            reason = (
                "is written by a stream: the first write through the API must create its own "
                f"tables by schema events, with ids from {SIDE_IDS_FROM} on"
            )
            raise FeedConflictError("the store", reason)
        lowest = [(rows.table_id, min(rows.table_id, rows.physical_id)) for rows in ingestion.rows]
        lowest += [(e.table_id, min([e.table_id, *e.physical_ids])) for e in ingestion.events]
        for table_id, id in lowest:
            if id < SIDE_IDS_FROM:
                reason = (
                    "is written by a stream, or could be: beside a stream, tables and partitions "
                    f"that are written through the API have ids from {SIDE_IDS_FROM} on"
                )
                raise FeedConflictError(f"table {table_id}", reason)
        stored = () if self._stored is None else self._stored.events
        for event in ingestion.events:
            if streamed is not None and event.name is not None and event not in stored:
                self._check_name(streamed, event)

    def _check_name(self, streamed: SchemaHistory, event: TableEvent) -> None:
        name = f"{event.db}.{event.name}"
        with suppress(TableNotFoundError):
            streamed.table_by_name(name, TimeStamp(max(event.ts, streamed.end_ts)))
            raise FeedConflictError(name, "is the name of a table that a stream writes")

    def _history(self) -> SchemaHistory:
        """Return the store's schema history with the events of this write."""
        ingestion, stored = self._ingestion, self._stored
        start_ts = stored.start_ts if stored is not None else ingestion.start_ts
        if start_ts is None or (stored is None and ingestion.resolved_ts is None):
            raise OptionError("start_ts", "the first write needs start_ts and resolved_ts")
        if ingestion.start_ts not in (None, start_ts):
            raise OptionError("start_ts", f"the store begins at {start_ts}")
        old = () if stored is None else stored.events
        until = 0 if stored is None else stored.end_ts
        for event in ingestion.events:
            if event.ts < start_ts or (event.ts <= until and event not in old):
                raise SchemaConflictError(f"table {event.table_id}", event.ts)
        events = [*old, *(event for event in ingestion.events if event not in old)]
        end_ts = max([until, start_ts, ingestion.resolved_ts or 0, *(e.ts for e in events)])
        versions = () if stored is None else stored.versions
        history = SchemaHistory(start_ts, TimeStamp(end_ts), events, versions)
        if ingestion.events and any(move.ts > until for move in Lineage(history).moves):
            raise UnsupportedError("REORGANIZE PARTITION", "schema events of a write")
        return history

    def _next_progress(self, history: SchemaHistory) -> Progress:
        """Return the new progress; a lower `resolved_ts`, as of a repeated write, is ignored."""
        stored, ingestion = self._progress, self._ingestion
        if stored is None:
            resolved_ts = ingestion.resolved_ts or history.start_ts
            if resolved_ts < history.start_ts:
                raise OptionError("resolved_ts", f"is below start_ts {history.start_ts}")
            follows = self._feed is SIDE and ingestion.statement is not None
            return Progress(history.start_ts, resolved_ts, ingestion.position, follows)
        if ingestion.resolved_ts is None or ingestion.resolved_ts < stored.resolved_ts:
            return stored
        position = stored.position if ingestion.position is None else ingestion.position
        follows = stored.follows or (self._feed is SIDE and ingestion.statement is not None)
        return Progress(stored.oldest_ts, ingestion.resolved_ts, position, follows)

    # -- transactions

    def _new_rows(
        self, rows: Sequence[CheckedRows]
    ) -> tuple[list[CheckedRows], list[LedgerEntry], int]:
        """Return the rows and ledger entries of new transactions, and the number of the others."""
        commits, prints = self._transactions(rows)
        ledger = TransactionLedger()
        for body in self._view.of_kind(self._feed.ledger_kind).values():
            ledger.add_packed(body)
        oldest_ts = self._progress.oldest_ts if self._progress else 0
        applied_ids: set[int] = set()
        entries: list[LedgerEntry] = []
        for start_ts, commit_ts in commits.items():
            entry = LedgerEntry(TimeStamp(start_ts), TimeStamp(commit_ts), digest(prints[start_ts]))
            stored = ledger.lookup(entry.start_ts)
            if stored == entry or commit_ts <= oldest_ts:
                applied_ids.add(start_ts)
            elif stored is not None:
                reason = "it was applied before with different content"
                raise TransactionConflictError(start_ts, commit_ts, reason)
            else:
                entries.append(entry)
        applied = np.array(sorted(applied_ids), np.uint64)
        new = [left for left in (_without(each, applied) for each in rows) if left.batch.num_rows]
        self._check_late(new)
        return new, entries, len(applied_ids)

    def _transactions(
        self, rows: Sequence[CheckedRows]
    ) -> tuple[dict[int, int], dict[int, tuple[int, ...]]]:
        """Return commit_ts and fingerprint of each transaction, by start_ts."""
        commits: dict[int, int] = {}
        prints: dict[int, tuple[int, ...]] = defaultdict(lambda: (0, 0))
        for each in rows:
            if not each.batch.num_rows:
                continue
            starts, first = np.unique(each.start_ts, return_index=True)
            pairs = zip(starts.tolist(), each.commit_ts[first].tolist(), strict=True)
            for start_ts, commit_ts in pairs:
                if commits.setdefault(start_ts, commit_ts) != commit_ts:
                    reason = "its rows in several tables have several commit_ts"
                    raise TransactionConflictError(start_ts, commit_ts, reason)
            columns = dict(zip(each.batch.schema.names, each.batch.columns, strict=True))
            words = row_fingerprints(each.physical_id, columns)
            for start_ts, fingerprint in transaction_fingerprints(each.start_ts, words).items():
                prints[start_ts] = added(prints[start_ts], fingerprint)
        return commits, prints

    def _check_late(self, rows: Sequence[CheckedRows]) -> None:
        for each in rows:
            bounds = [self._written(each.physical_id)]
            if self._progress is not None:
                bounds.append(self._progress.resolved_ts)
            at = int(each.commit_ts.argmin())
            commit_ts, newest = int(each.commit_ts[at]), max(bounds)
            if commit_ts <= newest:
                start_ts = int(each.start_ts[at])
                reason = f"it is late: physical table {each.physical_id} is written up to {newest}"
                raise TransactionConflictError(start_ts, commit_ts, reason)

    def _written(self, physical_id: PhysicalTableID) -> int:
        return uint64(int(self._view.of_kind(WRITTEN_KIND).get(_key(physical_id), b"0")))

    def _check_regions(self, rows: Sequence[CheckedRows]) -> None:
        """Check that rows covered only by a latch on a region are in it, and that it exists."""
        for each in rows:
            scopes = [grant.wanted.scope for grant in self._held]
            table = LatchScope(each.table_id, each.physical_id)
            if any(scope.covers(table) for scope in scopes) or not each.batch.num_rows:
                continue
            regions = self._engine.regions(self._view, each.physical_id)
            by_id = {region.region_id: region for region in regions}
            latched = [s.region_id for s in scopes if table.covers(s) and s.region_id is not None]
            for region_id in latched:
                if region_id not in by_id:
                    raise RegionNotFoundError(each.physical_id, region_id)
            handles = each.batch.column(HANDLE)
            low, high = handles[0].as_py(), handles[len(handles) - 1].as_py()
            if not any(by_id[region_id].covers(low, high) for region_id in latched):
                reason = f"rows of physical table {each.physical_id} are outside the latched region"
                raise OptionError("latches", reason)

    # -- records

    def _change(
        self,
        history: SchemaHistory,
        rows: Sequence[CheckedRows],
        entries: Sequence[LedgerEntry],
        progress: Progress,
    ) -> ManifestChange:
        puts: list[Record] = []
        kind = self._feed.ledger_kind
        newest = max((int(each.commit_ts.max()) for each in rows), default=0)
        if newest > history.end_ts:
            # No later event may change the definitions that the rows were checked against.
            history = SchemaHistory(
                history.start_ts, TimeStamp(newest), history.events, history.versions
            )
        if self._stored is None or history.end_ts > self._stored.end_ts:
            puts += schema_records(history, self._stored, self._feed)
        if progress != self._progress:
            puts.append(progress.to_record(self._feed))
            if progress.follows:
                puts.append(Record(FOLLOWING_KIND, self._feed.progress_key, b""))
        if entries:
            number = 1 + max(map(int, self._view.of_kind(kind)), default=-1)
            puts.append(Record(kind, f"{number:012d}", pack_entries(entries)))
        for each in rows:
            body = str(int(each.commit_ts.max())).encode()
            puts.append(Record(WRITTEN_KIND, _key(each.physical_id), body))
        return ManifestChange([*self._claims, *puts] if puts else puts)


def _check_covered(ingestion: Ingestion, held: Sequence[Grant]) -> None:
    """Raise `OptionError` unless the latches cover everything to be written."""
    for grant in held:
        if grant.wanted.kind is not LatchKind.WRITE:
            raise OptionError("latches", f"a {grant.wanted.kind.value} latch is not for writing")
    scopes = [grant.wanted.scope for grant in held]
    if not scopes:
        raise OptionError("latches", "a write needs a write latch")
    if ingestion.is_of_the_store and not any(scope.is_store for scope in scopes):
        reason = "progress and schema changes need a write latch on the whole store"
        raise OptionError("latches", reason)
    for rows in ingestion.rows:
        table = LatchScope(rows.table_id, rows.physical_id)
        if not any(scope.overlaps(table) for scope in scopes):
            raise OptionError("latches", f"none covers {table}")


def _without(
    rows: CheckedRows, start_ts: "np.ndarray[tuple[int], np.dtype[np.uint64]]"
) -> CheckedRows:
    """Remove the rows of transactions with these start_ts, which are sorted."""
    if not len(start_ts) or not rows.batch.num_rows:
        return rows
    is_other = ~np.isin(rows.start_ts, start_ts)
    return replace(rows, batch=filter_rows(rows.batch, is_other))


def _key(physical_id: PhysicalTableID) -> str:
    return f"{physical_id:020d}"
