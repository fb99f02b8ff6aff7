"""State of a binlog's writer, as manifest records that are published together with rows.

Besides the records of `moving_state`:

    ledger     32 bytes per finished transaction, to recognise repeated deliveries
    pending    transactions received but not applied, for the next run
    orphan     transactions without a commit or prewrite, and decisions about them

Pending transactions need not be stored when a run is interrupted: the next one reads the source
again from the last position, and the ledger records what is applied. For the same reason the newest
commit_ts seen is not stored: resolved_ts is a correct start, but then takes longer to advance.
"""

import bisect
import re
from collections.abc import Iterable, Sequence
from typing import Final

from pyspark_theflash.base.errors import SchemaOutdatedError
from pyspark_theflash.base.types import (
    SchemaVersion,
    TableID,
    TimeStamp,
    from_physical_ms,
)
from pyspark_theflash.replication.apply.moving_state import MovingState
from pyspark_theflash.replication.apply.stream_state import SchemaSource
from pyspark_theflash.replication.pairing.ledger import LedgerEntry, TransactionLedger, pack_entries
from pyspark_theflash.replication.pairing.pairing import Pairing
from pyspark_theflash.replication.pairing.pending import PENDING_KIND, PendingTransaction
from pyspark_theflash.replication.pairing.spill import Spill
from pyspark_theflash.replication.source.event import DdlInfo, Transaction
from pyspark_theflash.replication.source.merge import places_of
from pyspark_theflash.storage.engine.api import WriterEngine
from pyspark_theflash.storage.store.coverage import recovered_record
from pyspark_theflash.storage.store.feed import MAIN
from pyspark_theflash.storage.store.manifest import ManifestChange, Record
from pyspark_theflash.storage.store.orphan import ORPHAN_KIND, Orphan, orphans_of
from pyspark_theflash.storage.store.progress import Progress
from pyspark_theflash.storage.store.scope import TableScope
from pyspark_theflash.tidb.schema.lineage import double_writes
from pyspark_theflash.tidb.schema.model import TableInfo

LEDGER_KIND: Final = MAIN.ledger_kind
MOST_PENDING_BYTES: Final = 8 << 20
"""Above this size pending transactions are not stored; the next run reads the source again."""
_LEASE: Final = from_physical_ms(45_000)
_LAG: Final = from_physical_ms(1_000)
BRINGS_ROWS: Final = re.compile(
    r"(\s|/\*.*?\*/)*(RECOVER|FLASHBACK|ALTER)\b", re.IGNORECASE | re.DOTALL
)
"""Statements after which tables may exist whose rows are in no binlog."""


class WriterState(MovingState):
    """The records of a binlog's writer: read once, then updated with each publication."""

    def __init__(
        self,
        engine: WriterEngine,
        schema: SchemaSource,
        scope: TableScope | None = None,
        spill: Spill | None = None,
        streams: Sequence[str] = ("",),
    ) -> None:
        """Read the state of a store, and update its schema history from `schema`.

        Raises:
            SchemaConflictError: The store was written with another schema history.
            OptionError: The store was written with another scope.
        """
        view = engine.read([LEDGER_KIND, PENDING_KIND, ORPHAN_KIND])
        self._recovered: list[Record] = []
        self._observed: list[tuple[SchemaVersion, TimeStamp]] = []
        super().__init__(engine, schema, scope)
        self._ledger = TransactionLedger()
        for body in view.of_kind(LEDGER_KIND).values():
            self._ledger.add_packed(body)
        self._next_ledger = 1 + max(map(int, view.of_kind(LEDGER_KIND)), default=-1)
        self._pending = dict(view.of_kind(PENDING_KIND))
        self._staged: tuple[list[LedgerEntry], dict[str, bytes]] | None = None
        self.orphans.update(orphans_of(view))
        self.pairing: Final = self._start_pairing(spill, streams)

    # -- progress

    @property
    def is_full(self) -> bool:
        """Whether pending transactions use over 3/4 of the size up to which they are stored."""
        return 4 * self.pairing.buffered_bytes > 3 * MOST_PENDING_BYTES

    def has_news(self, position: str | None) -> bool:
        """Return whether a publication without rows would change anything."""
        if self.pairing.resolved_ts > self.resolved_ts or self._new_schema or self._new_scope:
            return True
        if position is not None and not self._can_store_pending():
            return False
        return position not in (None, self.position) or self._pending_bodies() != self._pending

    # -- schema

    def require_schema(self, ddl: DdlInfo, commit_ts: TimeStamp) -> None:
        """Make sure that the schema history includes the commit of a schema change.

        Raises:
            SchemaOutdatedError: The schema source does not include it.
        """
        self.reach(commit_ts)
        if commit_ts > self.history.end_ts:
            raise SchemaOutdatedError(f"schema change ({ddl.query})", commit_ts)
        if BRINGS_ROWS.match(ddl.query):
            self._recovered += map(recovered_record, self.history.appearing_at(commit_ts))

    def table(self, table_id: TableID, commit_ts: TimeStamp) -> TableInfo:
        """Return the definition to decode rows with that commit at `commit_ts`.

        Raises:
            SchemaOutdatedError: The table is not in the history.
        """
        return self.history.table_at_commit(table_id, min(commit_ts, self.history.end_ts))

    def observe_version(self, version: SchemaVersion, commit_ts: TimeStamp) -> None:
        """Note the schema version that a transaction records; called in order of commit."""
        if not self._observed or version > self._observed[-1][0]:
            self._observed.append((version, commit_ts))

    def placements(
        self, table: TableInfo, version: SchemaVersion, transaction: Transaction
    ) -> tuple[Sequence[TableInfo], bool]:
        """Return the definitions whose partitions a transaction's changes of `table` may be in.

        The transaction used the table's state at its commit or the one before. `version` is the
        schema version at BEGIN, or at the end of an autocommit statement. If it is that of the
        state before, both states are candidates. If it is that of the state at the commit, this one
        is the only candidate if every TiDB had loaded it when the transaction began. If the table
        has only one state so far, that is the only candidate.

        Returns:
            The candidates, the more likely first, and whether that one is used if nothing else
            decides: `version` is its version, and the transaction began after it.

        Raises:
            SchemaOutdatedError: The version is not in the history.
        """
        commit_ts = transaction.commit_ts
        recorded = self.history.table_by_version(table.id, version)
        before = self.history.table_before_commit(table.id, commit_ts)
        now = self.lineage.placement(table, commit_ts)
        if before is None:
            return [now], True
        then = self.lineage.placement(before, commit_ts)
        if _targets(then) == _targets(now):
            return [then if recorded is before else now], True
        if recorded is before:
            return [then, now], False
        since = self.history.state_ts(table.id, commit_ts)
        if transaction.start_ts >= self._loaded_by(since):
            return [now], True
        return [now, then], transaction.start_ts >= since

    # -- publishing

    def advance(
        self,
        resolved_ts: TimeStamp,
        transactions: Sequence[Transaction],
        *,
        keep_pending: bool,
        position: str | None = None,
    ) -> ManifestChange:
        """Return the manifest change to publish with the rows of `transactions`.

        Call `published` when it is durable. With `keep_pending`, pending transactions are stored
        for the next run, which then continues at `position` in the source; if they are above
        `MOST_PENDING_BYTES`, it reads the source again instead. A source without positions may not
        be readable again, so its pending transactions are always stored.
        """
        keep_pending = keep_pending and (position is None or self._can_store_pending())
        may_continue = keep_pending and position is not None
        progress = self.progress_records(resolved_ts, position if may_continue else self.position)
        entries = [LedgerEntry.committed(t) for t in transactions]
        entries += [LedgerEntry.rolled_back(ts) for ts in self.pairing.take_rolled_back()]
        puts = [*progress, *self._recovered, *self._ledger_record(entries)]
        bodies = self._pending_bodies() if keep_pending else self._without(entries)
        puts += [Record(PENDING_KIND, k, v) for k, v in bodies.items() if self._pending.get(k) != v]
        self._staged = entries, bodies
        deletes = [(PENDING_KIND, k) for k in self._pending if k not in bodies]
        deletes += [(ORPHAN_KIND, orphan.key) for orphan in self._finished_orphans(entries)]
        return ManifestChange(puts, deletes)

    def published(self) -> None:
        super().published()
        if self._staged is None:
            return
        entries, self._pending = self._staged
        for orphan in self._finished_orphans(entries):
            del self.orphans[orphan.start_ts]
        self._ledger.add(entries)
        self._next_ledger += bool(entries)
        self._staged = None
        self._recovered.clear()

    def is_open(self, start_ts: TimeStamp) -> bool:
        return self.pairing.is_open(start_ts)

    def decided(self, orphan: Orphan) -> None:
        if orphan.is_skipped:
            self.pairing.skip(orphan.start_ts)
        elif orphan.commit_ts is not None:
            self.pairing.settle(orphan.start_ts, orphan.commit_ts)
        super().decided(orphan)

    def collected(self, progress: Progress, ledger_records: int) -> None:
        super().collected(progress, ledger_records)
        self._ledger.forget(progress.oldest_ts)
        self._next_ledger = ledger_records
        self.pairing.forget(progress.oldest_ts)

    # --

    def _loaded_by(self, ts: TimeStamp) -> int:
        """Return the timestamp from which every TiDB has loaded a schema change of `ts`.

        A TiDB that has not loaded it within a lease (45 s) accepts no statements. The DDL owner
        notifies all TiDB servers at once, so 1 s after a transaction with the version is enough.
        """
        version = self.history.version_at(ts)
        at = bisect.bisect_left(self._observed, version, key=lambda observed: observed[0])
        observed = self._observed[at : at + 1] if version else []
        return min([ts + _LEASE, *(commit_ts + _LAG for _, commit_ts in observed)])

    def _finished_orphans(self, entries: Sequence[LedgerEntry]) -> list[Orphan]:
        """Return the orphans among ledger entries, except those that an operator decided."""
        if not self.orphans:
            return []
        orphans = (self.orphans.get(entry.start_ts) for entry in entries)
        return [orphan for orphan in orphans if orphan is not None and not orphan.by_hand]

    def _start_pairing(self, spill: Spill | None, streams: Sequence[str]) -> Pairing:
        """Create the pairing from the records, without transactions that the ledger has."""
        pending = (PendingTransaction.from_bytes(body) for body in self._pending.values())
        # The position has the newest commit_ts seen of each source when `pending` was stored.
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
            if orphan.is_skipped:
                pairing.skip(orphan.start_ts)
                continue
            # If it ended below `oldest_ts`, it is applied and its ledger entry was removed.
            is_recent = (orphan.commit_ts or orphan.hold_ts) >= self._oldest_ts
            is_applied = self._ledger.lookup(orphan.start_ts) is not None
            if orphan.commit_ts is not None and is_recent and not is_applied:
                pairing.settle(orphan.start_ts, orphan.commit_ts)
        return pairing

    def _can_store_pending(self) -> bool:
        """Return whether all pending transactions together, also spilled ones, are small enough."""
        sizes = (len(pending.payload or b"") for pending in self.pairing.pending())
        return self.pairing.buffered_bytes <= MOST_PENDING_BYTES >= sum(sizes)

    def _pending_bodies(self) -> dict[str, bytes]:
        return {_key(p.start_ts): p.to_bytes() for p in self.pairing.pending()}

    def _without(self, entries: Iterable[LedgerEntry]) -> dict[str, bytes]:
        done = {_key(e.start_ts) for e in entries}
        return {k: v for k, v in self._pending.items() if k not in done}

    def _ledger_record(self, entries: list[LedgerEntry]) -> list[Record]:
        if not entries:
            return []
        return [Record(LEDGER_KIND, f"{self._next_ledger:012d}", pack_entries(entries))]


def _targets(table: TableInfo) -> tuple[object, ...]:
    """Return the partitions that rows written under a definition go to, for comparison."""
    double = double_writes(table)
    again = (double.second.physical_ids, double.is_delete_only) if double else None
    return table.physical_ids, again


def _key(start_ts: TimeStamp) -> str:
    return f"{start_ts:020d}"
