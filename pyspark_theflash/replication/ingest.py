"""Writing through the API: what a caller brings becomes one publication, or nothing.

    latches ──► held, for all that is written? ──► looked at again in the transaction of the commit
    schema  ──► continues the store's history
    rows    ──► such as their tables may have (`incoming.py`)
    ledger  ──► which transactions are new; those that were applied before must be the same
    engine  ──► all of it at once, with the progress and the ledger

A transaction is whole in one write: its rows over all tables have one fingerprint
(`storage/mvcc/fingerprint.py`), and that is what the ledger keeps of it. So a write may come again,
or its transactions regrouped into other writes; what was applied is compared and left out. At or
below `oldest_ts` the ledger has forgotten, and what comes is passed over.

What commits at or below `resolved_ts` and is not known is late: readers have been told what those
timestamps look like. The same goes for a physical table and the newest commit written to it, since
versions of a row come in the order of their commits.

Of a store that a stream feeds, the API writes tables of its own (`storage/store/feed.py`), which
have a schema history, progress and a ledger apart from the stream's.
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
    all_guards,
    claim,
    feed_guard,
    main_feed,
)
from pyspark_theflash.storage.store.folder import IDENTITY_KIND, StoreIdentity, open_manifest
from pyspark_theflash.storage.store.latch.grants import Grants
from pyspark_theflash.storage.store.latch.latch import Grant, LatchKind, LatchScope
from pyspark_theflash.storage.store.manifest import ManifestChange, Record
from pyspark_theflash.storage.store.progress import PROGRESS_KIND, Progress
from pyspark_theflash.storage.store.raft_fed import RAFT_FED_KIND, check_not_learned
from pyspark_theflash.tidb.codec.document import uint64
from pyspark_theflash.tidb.schema.history import SchemaHistory, TableEvent
from pyspark_theflash.tidb.schema.lineage import Lineage

_RETRY_MS: Final = 20


@dataclass(frozen=True, slots=True)
class Ingestion:
    """The rows of a caller. `latches` are (id, token) of write latches that cover them.

    With `resolved_ts`, readers of the API's tables are answered up to there from now on, and
    `position` is kept for the caller; `start_ts` is where the history of these tables begins, of
    the first write only. `events` continue it. These need a latch on the store.
    """

    latches: Sequence[tuple[str, int]]
    rows: Sequence[IncomingRows] = ()
    events: Sequence[TableEvent] = ()
    resolved_ts: TimeStamp | None = None
    position: str | None = None
    start_ts: TimeStamp | None = None

    @property
    def is_of_the_store(self) -> bool:
        """Whether it says something of the store as a whole."""
        known = (self.resolved_ts, self.position, self.start_ts)
        return bool(self.events) or any(one is not None for one in known)


@dataclass(frozen=True, slots=True)
class Ingested:
    """The durable result of a write. `known` transactions had been applied before."""

    generation: Generation
    rows: int
    transactions: int
    known: int
    resolved_ts: TimeStamp


def ingest(
    path: Path,
    brought: Ingestion,
    *,
    fs: FileSystem,
    clock: Clock,
    check: Callable[[], None],
) -> Ingested:
    """Write what a caller brings into the store at `path`; when this returns, it is durable.

    Args:
        check: called while another process has the store, and last right before the commit; ends
            the write, which changes nothing then, by raising.

    Raises:
        LatchLostError: a latch has ended; also where that shows only in the commit.
        FeedConflictError: a stream writes the table, or could; likewise.
        CodecError: rows that are not such as their table may have.
        TransactionConflictError: a transaction that came before with another content, or too late.
        SchemaConflictError: events that contradict the store's history.
        OptionError: something is missing, or not covered by the latches.
    """
    with ExitStack() as undo:
        manifest = undo.enter_context(closing(open_manifest(path, fs)))
        grants = Grants(manifest, clock)
        identity = StoreIdentity.of(manifest.read([IDENTITY_KIND]))
        held = [grants.look(id, token) for id, token in brought.latches]
        _check_covered(brought, held)
        main = main_feed(manifest.read([FEED_KIND])) or Feed.API
        guard = all_guards(grants.guard(brought.latches), feed_guard(main))
        while True:
            try:
                engine = registry.open_engine(path, identity, fs, clock, guard)
                break
            except StoreInUseError:
                check()
                clock.sleep_ms(_RETRY_MS)
        undo.enter_context(closing(engine))
        return _Ingest(engine, brought, held).run(check)


class _Ingest:
    """One write, on an engine that is ours for it."""

    def __init__(self, engine: Engine, brought: Ingestion, held: Sequence[Grant]) -> None:
        self._engine, self._brought, self._held = engine, brought, held
        ledgers = [feed.ledger_kind for feed in (MAIN, SIDE)]
        self._view = engine.read(
            [FEED_KIND, PROGRESS_KIND, *SCHEMA_KINDS, *ledgers, WRITTEN_KIND, RAFT_FED_KIND]
        )
        check_not_learned(self._view)
        is_side = main_feed(self._view) is Feed.STREAM
        self._feed = SIDE if is_side else MAIN
        self._claims = [] if is_side else claim(self._view, Feed.API)
        self._streamed = feed_history(self._view) if is_side else None
        self._stored = feed_history(self._view, self._feed)
        self._progress = Progress.of(self._view, self._feed)

    def run(self, check: Callable[[], None]) -> Ingested:
        if self._feed is SIDE:
            self._check_apart()
        history = self._history()
        rows = [checked_rows(incoming, history) for incoming in self._brought.rows]
        check_disjoint(rows)
        self._check_regions(rows)
        new, entries, known = self._new_rows(rows)
        progress = self._next_progress(history)
        change = self._change(history, new, entries, progress)
        generation = self._view.generation
        if change.puts or new:
            check()
            fail_point("ingest.before_publish")
            versions = [VersionBatch(one.physical_id, one.batch) for one in new]
            generation = self._engine.publish(Publication(versions, change))
            fail_point("ingest.after_publish")
        count = sum(one.batch.num_rows for one in new)
        return Ingested(generation, count, len(entries), known, progress.resolved_ts)

    # -- schema and progress

    def _check_apart(self) -> None:
        """Raise `FeedConflictError` where a stream writes what is brought, or could some day."""
        brought, streamed = self._brought, self._streamed
        if self._stored is None and not brought.events:
            reason = (
                "is written by a stream, and its resolved_ts is the stream's: a write through the "
                f"API begins with tables of its own, whose ids are {SIDE_IDS_FROM} or above"
            )
            raise FeedConflictError("the store", reason)
        lowest = [(rows.table_id, min(rows.table_id, rows.physical_id)) for rows in brought.rows]
        lowest += [(e.table_id, min([e.table_id, *e.physical_ids])) for e in brought.events]
        for table_id, id in lowest:
            if id < SIDE_IDS_FROM:
                reason = (
                    "is written by a stream, or could be: beside a stream, tables and partitions "
                    f"that are written through the API have ids from {SIDE_IDS_FROM} on"
                )
                raise FeedConflictError(f"table {table_id}", reason)
        known = () if self._stored is None else self._stored.events
        for event in brought.events:
            if streamed is not None and event.name is not None and event not in known:
                self._check_name(streamed, event)

    def _check_name(self, streamed: SchemaHistory, event: TableEvent) -> None:
        name = f"{event.db}.{event.name}"
        with suppress(TableNotFoundError):
            streamed.table_by_name(name, TimeStamp(max(event.ts, streamed.end_ts)))
            raise FeedConflictError(name, "is the name of a table that a stream writes")

    def _history(self) -> SchemaHistory:
        """The store's history, continued by what was brought."""
        brought, stored = self._brought, self._stored
        start_ts = stored.start_ts if stored is not None else brought.start_ts
        if start_ts is None or (stored is None and brought.resolved_ts is None):
            raise OptionError("start_ts", "the first write says where the store begins and ends")
        if brought.start_ts not in (None, start_ts):
            raise OptionError("start_ts", f"the store begins at {start_ts}")
        known = () if stored is None else stored.events
        until = 0 if stored is None else stored.end_ts
        for event in brought.events:
            if event.ts < start_ts or (event.ts <= until and event not in known):
                raise SchemaConflictError(f"table {event.table_id}", event.ts)
        events = [*known, *(event for event in brought.events if event not in known)]
        end_ts = max([until, start_ts, brought.resolved_ts or 0, *(e.ts for e in events)])
        versions = () if stored is None else stored.versions
        history = SchemaHistory(start_ts, TimeStamp(end_ts), events, versions)
        if brought.events and any(move.ts > until for move in Lineage(history).moves):
            raise UnsupportedError("REORGANIZE PARTITION", "schema events of a write")
        return history

    def _next_progress(self, history: SchemaHistory) -> Progress:
        """The progress from now on; an older one, which comes again, takes nothing back."""
        stored, brought = self._progress, self._brought
        if stored is None:
            resolved_ts = brought.resolved_ts or history.start_ts
            if resolved_ts < history.start_ts:
                raise OptionError("resolved_ts", f"is below start_ts {history.start_ts}")
            return Progress(history.start_ts, resolved_ts, brought.position)
        if brought.resolved_ts is None or brought.resolved_ts < stored.resolved_ts:
            return stored
        position = stored.position if brought.position is None else brought.position
        return replace(stored, resolved_ts=brought.resolved_ts, position=position)

    # -- transactions

    def _new_rows(
        self, rows: Sequence[CheckedRows]
    ) -> tuple[list[CheckedRows], list[LedgerEntry], int]:
        """Rows of transactions that were not applied before, their entries, and how many were."""
        commits, prints = self._transactions(rows)
        ledger = TransactionLedger()
        for body in self._view.of_kind(self._feed.ledger_kind).values():
            ledger.add_packed(body)
        oldest_ts = self._progress.oldest_ts if self._progress else 0
        known: set[int] = set()
        entries: list[LedgerEntry] = []
        for start_ts, commit_ts in commits.items():
            entry = LedgerEntry(TimeStamp(start_ts), TimeStamp(commit_ts), digest(prints[start_ts]))
            found = ledger.lookup(entry.start_ts)
            if found == entry or commit_ts <= oldest_ts:
                known.add(start_ts)
            elif found is not None:
                reason = "it was applied before, with another content"
                raise TransactionConflictError(start_ts, commit_ts, reason)
            else:
                entries.append(entry)
        applied = np.array(sorted(known), np.uint64)
        new = [one for one in (_without(each, applied) for each in rows) if one.batch.num_rows]
        self._check_late(new)
        return new, entries, len(known)

    def _transactions(
        self, rows: Sequence[CheckedRows]
    ) -> tuple[dict[int, int], dict[int, tuple[int, ...]]]:
        """The commit_ts and the fingerprint of each transaction, by start_ts."""
        commits: dict[int, int] = {}
        prints: dict[int, tuple[int, ...]] = defaultdict(lambda: (0, 0))
        for one in rows:
            if not one.batch.num_rows:
                continue
            starts, first = np.unique(one.start_ts, return_index=True)
            pairs = zip(starts.tolist(), one.commit_ts[first].tolist(), strict=True)
            for start_ts, commit_ts in pairs:
                if commits.setdefault(start_ts, commit_ts) != commit_ts:
                    reason = "its rows in several tables have several commit_ts"
                    raise TransactionConflictError(start_ts, commit_ts, reason)
            columns = dict(zip(one.batch.schema.names, one.batch.columns, strict=True))
            words = row_fingerprints(one.physical_id, columns)
            for start_ts, found in transaction_fingerprints(one.start_ts, words).items():
                prints[start_ts] = added(prints[start_ts], found)
        return commits, prints

    def _check_late(self, rows: Sequence[CheckedRows]) -> None:
        for one in rows:
            bounds = [self._written(one.physical_id)]
            if self._progress is not None:
                bounds.append(self._progress.resolved_ts)
            at = int(one.commit_ts.argmin())
            commit_ts, newest = int(one.commit_ts[at]), max(bounds)
            if commit_ts <= newest:
                start_ts = int(one.start_ts[at])
                reason = f"it is late: physical table {one.physical_id} is written up to {newest}"
                raise TransactionConflictError(start_ts, commit_ts, reason)

    def _written(self, physical_id: PhysicalTableID) -> int:
        return uint64(int(self._view.of_kind(WRITTEN_KIND).get(_key(physical_id), b"0")))

    def _check_regions(self, rows: Sequence[CheckedRows]) -> None:
        """Rows that a latch on a region is for lie in that region, which is still there."""
        for one in rows:
            scopes = [grant.wanted.scope for grant in self._held]
            table = LatchScope(one.table_id, one.physical_id)
            if any(scope.covers(table) for scope in scopes) or not one.batch.num_rows:
                continue
            regions = self._engine.regions(self._view, one.physical_id)
            by_id = {region.region_id: region for region in regions}
            wanted = [s.region_id for s in scopes if table.covers(s) and s.region_id is not None]
            for region_id in wanted:
                if region_id not in by_id:
                    raise RegionNotFoundError(one.physical_id, region_id)
            handles = one.batch.column(HANDLE)
            low, high = handles[0].as_py(), handles[len(handles) - 1].as_py()
            if not any(by_id[region_id].covers(low, high) for region_id in wanted):
                reason = f"rows of physical table {one.physical_id} are outside the latched region"
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
        newest = max((int(one.commit_ts.max()) for one in rows), default=0)
        if newest > history.end_ts:
            # What rows were checked by must not be changed below them.
            history = SchemaHistory(
                history.start_ts, TimeStamp(newest), history.events, history.versions
            )
        if self._stored is None or history.end_ts > self._stored.end_ts:
            puts += schema_records(history, self._stored, self._feed)
        if progress != self._progress:
            puts.append(progress.to_record(self._feed))
        if entries:
            number = 1 + max(map(int, self._view.of_kind(kind)), default=-1)
            puts.append(Record(kind, f"{number:012d}", pack_entries(entries)))
        for one in rows:
            body = str(int(one.commit_ts.max())).encode()
            puts.append(Record(WRITTEN_KIND, _key(one.physical_id), body))
        return ManifestChange([*self._claims, *puts] if puts else puts)


def _check_covered(brought: Ingestion, held: Sequence[Grant]) -> None:
    """Raise `OptionError` unless the latches are for all that is brought."""
    for grant in held:
        if grant.wanted.kind is not LatchKind.WRITE:
            raise OptionError("latches", f"a {grant.wanted.kind.value} latch is not for writing")
    scopes = [grant.wanted.scope for grant in held]
    if not scopes:
        raise OptionError("latches", "a write needs a write latch")
    if brought.is_of_the_store and not any(scope.is_store for scope in scopes):
        reason = "progress and schema are the store's: they need a write latch on all of it"
        raise OptionError("latches", reason)
    for rows in brought.rows:
        wanted = LatchScope(rows.table_id, rows.physical_id)
        if not any(scope.overlaps(wanted) for scope in scopes):
            raise OptionError("latches", f"none is for {wanted}")


def _without(
    rows: CheckedRows, start_ts: "np.ndarray[tuple[int], np.dtype[np.uint64]]"
) -> CheckedRows:
    """The rows of other transactions than these, sorted."""
    if not len(start_ts) or not rows.batch.num_rows:
        return rows
    kept = ~np.isin(rows.start_ts, start_ts)
    return replace(rows, batch=filter_rows(rows.batch, kept))


def _key(physical_id: PhysicalTableID) -> str:
    return f"{physical_id:020d}"
