"""The writer's state beside the rows, as records that are published with them.

    progress   how far the store can answer, and where to go on in the source
    schema     the schema history, again whenever it has grown
    scope      which tables are replicated
    ledger     32 bytes for each finished transaction: what a second delivery is compared with
    pending    transactions that were seen but not applied, for the next run
    move       which moves of rows by DDL are done
    orphan     transactions of which one half is missing, and decisions about them

A run that ends in the middle need not keep its pending transactions: it reads its source again from
the position of before, and the ledger tells what is done. For the same reason the newest commit
seen is not kept; starting from resolved_ts is always right, only slower to resolve.
"""

import bisect
import re
from collections.abc import Iterable, Sequence
from typing import Final, Protocol

from pyspark_theflash.base.errors import SchemaOutdatedError
from pyspark_theflash.base.types import (
    PhysicalTableID,
    SchemaVersion,
    TableID,
    TimeStamp,
    from_physical_ms,
)
from pyspark_theflash.replication.apply.columns import StoredColumns
from pyspark_theflash.replication.apply.move import MOVE_KIND, move_record
from pyspark_theflash.replication.pairing.ledger import LedgerEntry, TransactionLedger, pack_entries
from pyspark_theflash.replication.pairing.pairing import Pairing
from pyspark_theflash.replication.pairing.pending import PENDING_KIND, PendingTransaction
from pyspark_theflash.replication.pairing.spill import Spill
from pyspark_theflash.replication.source.event import DdlInfo, Transaction
from pyspark_theflash.replication.source.merge import places_of
from pyspark_theflash.storage.engine.api import WriterEngine
from pyspark_theflash.storage.mvcc.project import ScanColumn
from pyspark_theflash.storage.store.catalog import SCHEMA_KIND, feed_history, schema_records
from pyspark_theflash.storage.store.coverage import recovered_record
from pyspark_theflash.storage.store.feed import MAIN
from pyspark_theflash.storage.store.manifest import ManifestChange, Record
from pyspark_theflash.storage.store.orphan import ORPHAN_KIND, Orphan, orphans_of
from pyspark_theflash.storage.store.progress import PROGRESS_KIND, Progress
from pyspark_theflash.storage.store.scope import SCOPE_KIND, ScopedTables, TableScope, continued
from pyspark_theflash.tidb.codec.key import RawKey
from pyspark_theflash.tidb.schema.history import SchemaHistory
from pyspark_theflash.tidb.schema.lineage import Lineage, Move, double_writes
from pyspark_theflash.tidb.schema.meta_key import Outcome
from pyspark_theflash.tidb.schema.model import TableInfo

LEDGER_KIND: Final = MAIN.ledger_kind
MOST_PENDING_BYTES: Final = 8 << 20
"""More than this is not kept for the next run, which then reads it again from the source."""
_LEASE: Final = from_physical_ms(45_000)
_LAG: Final = from_physical_ms(1_000)
_BRINGS_ROWS: Final = re.compile(
    r"(\s|/\*.*?\*/)*(RECOVER|FLASHBACK|ALTER)\b", re.IGNORECASE | re.DOTALL
)
"""Statements after which tables may be there whose rows no binlog has."""


class SchemaSource(Protocol):
    """Where the schema history comes from: a file, or a live TiDB."""

    def read(self, after: SchemaHistory | None, at_least: TimeStamp | None) -> SchemaHistory:
        """The history of `after` continued, or the whole where there is none.

        Where the source can wait for it, the history ends at `at_least` or later; None: as it is.
        """

    def has_written(self, key: RawKey, start_ts: TimeStamp) -> bool | None:
        """Whether a transaction which has committed wrote a record's key; None: not known."""

    def had_row(self, key: RawKey, ts: TimeStamp) -> bool | None:
        """Whether a record was there at `ts`; None where that is not known."""

    def outcome(self, primary: RawKey, start_ts: TimeStamp) -> Outcome | None:
        """How a transaction ended, by its primary key; None where nobody can be asked."""


class WriterState:
    """The writer's side of the manifest: read once, then moved on with each publication."""

    history: SchemaHistory
    lineage: Lineage
    _new_schema: tuple[Record, ...]

    def __init__(
        self,
        engine: WriterEngine,
        schema: SchemaSource,
        scope: TableScope | None = None,
        spill: Spill | None = None,
        streams: Sequence[str] = ("",),
    ) -> None:
        """Read the state of a store, and continue its schema history by that of `schema`.

        Raises:
            SchemaConflictError: the store was written under another history.
            OptionError: it was written under another scope.
        """
        kinds = [PROGRESS_KIND, SCHEMA_KIND, SCOPE_KIND, LEDGER_KIND, PENDING_KIND, MOVE_KIND]
        view = engine.read([*kinds, ORPHAN_KIND])
        self._schema = schema
        self._stored_history = feed_history(view)
        stored_scope = TableScope.of(view)
        self._scope = continued(stored_scope, scope)
        is_new = stored_scope != self._scope
        self._new_scope: tuple[Record, ...] = (self._scope.to_record(),) if is_new else ()
        self._progress = Progress.of(view)
        self._recovered: list[Record] = []
        self._done_moves = set(view.of_kind(MOVE_KIND))
        self._named: list[tuple[SchemaVersion, TimeStamp]] = []
        self._take_history(schema.read(self._stored_history, None))
        self._ledger = TransactionLedger()
        for body in view.of_kind(LEDGER_KIND).values():
            self._ledger.add_packed(body)
        self._next_ledger = 1 + max(map(int, view.of_kind(LEDGER_KIND)), default=-1)
        self._pending = dict(view.of_kind(PENDING_KIND))
        self._staged: tuple[list[LedgerEntry], Progress, dict[str, bytes]] | None = None
        self.orphans: Final = orphans_of(view)
        """By start_ts: those that wait, and those that were decided by hand."""
        self.pairing: Final = self._start_pairing(spill, streams)

    # -- what is known

    @property
    def resolved_ts(self) -> TimeStamp:
        """Up to where the store can answer; 0 before the first publication."""
        return self._progress.resolved_ts if self._progress else TimeStamp(0)

    @property
    def position(self) -> str | None:
        """Where in the source to go on; None at its beginning."""
        return self._progress.position if self._progress else None

    @property
    def is_full(self) -> bool:
        """Whether more that waits would not be kept for the next run."""
        return 4 * self.pairing.buffered_bytes > 3 * MOST_PENDING_BYTES

    def has_news(self, position: str | None) -> bool:
        """Whether a publication without rows would change anything."""
        return (
            self.pairing.resolved_ts > self.resolved_ts
            or bool(self._new_schema)
            or bool(self._new_scope)
            or (position is not None and position != self.position and self._keeps_pending())
            or self._pending_bodies() != self._pending
        )

    # -- schema

    def require_schema(self, ddl: DdlInfo, commit_ts: TimeStamp) -> None:
        """Have the schema history reach the commit of a schema change.

        Raises:
            SchemaOutdatedError: its source does not.
        """
        if commit_ts > self.history.end_ts:
            self._refresh(commit_ts)
        if commit_ts > self.history.end_ts:
            raise SchemaOutdatedError(f"schema change ({ddl.query})", commit_ts)
        if _BRINGS_ROWS.match(ddl.query):
            self._recovered += map(recovered_record, self.history.appearing_at(commit_ts))

    def reach(self, ts: TimeStamp) -> None:
        """Have the history reach `ts`, which the cluster has handed out, if its source can."""
        if ts > self.history.end_ts:
            self._refresh(ts)

    def table(self, table_id: TableID, commit_ts: TimeStamp) -> TableInfo:
        """Return the definition under which rows that commit at `commit_ts` are decoded.

        Raises:
            SchemaOutdatedError: the history does not know the table.
        """
        return self.history.table_at_commit(table_id, min(commit_ts, self.history.end_ts))

    def named(self, version: SchemaVersion, commit_ts: TimeStamp) -> None:
        """A transaction has named a schema version; called in the order of commits."""
        if not self._named or version > self._named[-1][0]:
            self._named.append((version, commit_ts))

    def placements(
        self, table: TableInfo, version: SchemaVersion, transaction: Transaction
    ) -> tuple[Sequence[TableInfo], bool]:
        """Whose partitions may hold what a transaction that names a schema version did to `table`.

        It may have been written to the table as it is at its commit or as it was one state before.
        The version is the one that BEGIN met, or, where a statement is a transaction, the one that
        its end met. So the state before is certain to be a candidate where it is named; that at the
        commit, where it is named, is the only one if the transaction began when TiDB had loaded it.
        A table may be younger than the transaction; then its first state is the only one until the
        second.

        Returns:
            The candidates, the likelier first, and whether that one is to be taken where nobody can
            tell: it is named, and the transaction began later than it.

        Raises:
            SchemaOutdatedError: the history does not know the version.
        """
        commit_ts = transaction.commit_ts
        named = self.history.table_by_version(table.id, version)
        before = self.history.table_before_commit(table.id, commit_ts)
        now = self.lineage.placement(table, commit_ts)
        if before is None:
            return [now], True
        then = self.lineage.placement(before, commit_ts)
        if _written(then) == _written(now):
            return [then if named is before else now], True
        if named is before:
            return [then, now], False
        since = self.history.state_ts(table.id, commit_ts)
        if transaction.start_ts >= self._loaded_by(since):
            return [now], True
        return [now, then], transaction.start_ts >= since

    @property
    def cluster(self) -> SchemaSource:
        """The source of the schema, which may know the cluster's rows."""
        return self._schema

    def outcome(self, pending: PendingTransaction) -> Outcome | None:
        """How a transaction ended, as the source of the schema knows it, if it can be asked."""
        return self._schema.outcome(pending.primary, pending.start_ts)

    def replicates(self, table_id: TableID) -> bool:
        """Whether a table is in the store's scope."""
        return self._tables.contains(table_id)

    def columns_of(self, physical_id: PhysicalTableID) -> Sequence[ScanColumn]:
        """All columns that rows of a physical table have ever had."""
        return self._columns.of(physical_id)

    def columns_moved_from(self, physical_id: PhysicalTableID) -> Sequence[ScanColumn]:
        """The same for their copies in another physical table."""
        return self._columns.of(physical_id, is_moved=True)

    def next_move(self, ts: TimeStamp) -> Move | None:
        """The first move of rows at or below `ts` that is not done."""
        return self._moves[0] if self._moves and self._moves[0].ts <= ts else None

    def moved(self, move: Move) -> None:
        """A move is done and published."""
        self._done_moves.add(move_record(move).key)
        self._moves.remove(move)

    # -- publishing

    def advance(
        self,
        resolved_ts: TimeStamp,
        transactions: Sequence[Transaction],
        *,
        keep_pending: bool,
        position: str | None = None,
    ) -> ManifestChange:
        """The change to publish with the rows of `transactions`; `published` makes it the present.

        With `keep_pending`, whatever the pairing still holds is kept for another run, which then
        goes on at `position` in the source; unless it is so much that reading again is better. A
        source without a position may not be there again, so of it everything is kept.
        """
        keep_pending = keep_pending and (position is None or self._keeps_pending())
        progress = Progress(
            self._oldest_ts,
            max(resolved_ts, self.resolved_ts, self._oldest_ts),
            position if keep_pending and position is not None else self.position,
        )
        entries = [LedgerEntry.committed(t) for t in transactions]
        entries += [LedgerEntry.rolled_back(ts) for ts in self.pairing.take_rolled_back()]
        puts = [progress.to_record(), *self._new_schema, *self._new_scope, *self._recovered]
        puts += self._ledger_record(entries)
        wanted = self._pending_bodies() if keep_pending else self._without(entries)
        puts += [Record(PENDING_KIND, k, v) for k, v in wanted.items() if self._pending.get(k) != v]
        self._staged = entries, progress, wanted
        deletes = [(PENDING_KIND, k) for k in self._pending if k not in wanted]
        deletes += [(ORPHAN_KIND, orphan.key) for orphan in self._adopted(entries)]
        return ManifestChange(puts, deletes)

    def published(self) -> None:
        """The change of the last `advance` is durable."""
        if self._staged is None:
            return
        entries, self._progress, self._pending = self._staged
        for orphan in self._adopted(entries):
            del self.orphans[orphan.start_ts]
        self._ledger.add(entries)
        self._next_ledger += bool(entries)
        self._stored_history = self.history
        self._new_schema, self._new_scope, self._staged = (), (), None
        self._recovered.clear()

    def is_open(self, start_ts: TimeStamp) -> bool:
        """Whether a prewrite waits for its commit or rollback."""
        return self.pairing.is_open(start_ts)

    def decided(self, orphan: Orphan) -> None:
        """How an orphan ended is durable."""
        if orphan.commit_ts is not None:
            self.pairing.settle(orphan.start_ts, orphan.commit_ts)
        self.orphans[orphan.start_ts] = orphan

    def collected(self, progress: Progress, ledger_records: int) -> None:
        """A garbage collection has published a new `oldest_ts`, and a ledger pruned by it."""
        self._progress = progress
        self._ledger.forget(progress.oldest_ts)
        self._next_ledger = ledger_records
        self.pairing.forget(progress.oldest_ts)

    # --

    def _loaded_by(self, ts: TimeStamp) -> int:
        """From when on every TiDB knows a schema change of `ts`.

        A TiDB that has not loaded it within a lease takes no more statements. The owner of the DDL
        tells all of them at once, so when a transaction names it, the others are not far behind.
        """
        wanted = self.history.version_at(ts)
        at = bisect.bisect_left(self._named, wanted, key=lambda seen: seen[0])
        seen = self._named[at : at + 1] if wanted else []
        return min([ts + _LEASE, *(commit_ts + _LAG for _, commit_ts in seen)])

    @property
    def _oldest_ts(self) -> TimeStamp:
        return self._progress.oldest_ts if self._progress else self.history.start_ts

    def _refresh(self, at_least: TimeStamp) -> bool:
        """Ask the source of the schema history again; returns whether it knows more now."""
        history = self._schema.read(self.history, at_least)
        if history.end_ts <= self.history.end_ts:
            return False
        self._take_history(history)
        return True

    def _take_history(self, history: SchemaHistory) -> None:
        self.history = history
        self.lineage = Lineage(history)
        self._tables = ScopedTables(self._scope, history)
        self._columns = StoredColumns(history)
        self._moves = [
            move
            for move in self.lineage.moves
            if move.ts > history.start_ts
            and self.replicates(move.table_id)
            and move_record(move).key not in self._done_moves
        ]
        is_stored = history is self._stored_history
        self._new_schema = () if is_stored else tuple(schema_records(history, self._stored_history))

    def _adopted(self, entries: Sequence[LedgerEntry]) -> list[Orphan]:
        """Orphans that are none any more with these entries; those decided by hand stay listed."""
        if not self.orphans:
            return []
        found = (self.orphans.get(entry.start_ts) for entry in entries)
        return [orphan for orphan in found if orphan is not None and not orphan.by_hand]

    def _start_pairing(self, spill: Spill | None, streams: Sequence[str]) -> Pairing:
        """Pending transactions that an interrupted run has finished since are done."""
        pending = (PendingTransaction.from_bytes(body) for body in self._pending.values())
        # The position, what waits and how far each source has come are published together.
        seen = {place.name: place.seen_ts for place in places_of(self.position)}
        pairing = Pairing(
            self._ledger,
            resolved_ts=self.resolved_ts,
            oldest_ts=self._oldest_ts,
            streams=[seen.get(name, TimeStamp(0)) for name in streams],
            pending=[p for p in pending if self._ledger.lookup(p.start_ts) is None],
            spill=spill,
        )
        for orphan in self.orphans.values():
            # Below the oldest timestamp, it is applied and the ledger has forgotten it.
            is_recent = (orphan.commit_ts or orphan.hold_ts) >= self._oldest_ts
            is_applied = self._ledger.lookup(orphan.start_ts) is not None
            if orphan.commit_ts is not None and is_recent and not is_applied:
                pairing.settle(orphan.start_ts, orphan.commit_ts)
        return pairing

    def _keeps_pending(self) -> bool:
        return self.pairing.buffered_bytes <= MOST_PENDING_BYTES

    def _pending_bodies(self) -> dict[str, bytes]:
        return {_key(p.start_ts): p.to_bytes() for p in self.pairing.pending()}

    def _without(self, entries: Iterable[LedgerEntry]) -> dict[str, bytes]:
        done = {_key(e.start_ts) for e in entries}
        return {k: v for k, v in self._pending.items() if k not in done}

    def _ledger_record(self, entries: list[LedgerEntry]) -> list[Record]:
        if not entries:
            return []
        return [Record(LEDGER_KIND, f"{self._next_ledger:012d}", pack_entries(entries))]


def _written(table: TableInfo) -> tuple[object, ...]:
    """Where rows go that are written under a definition."""
    double = double_writes(table)
    again = (double.second.physical_ids, double.is_delete_only) if double else None
    return table.physical_ids, again


def _key(start_ts: TimeStamp) -> str:
    return f"{start_ts:020d}"
