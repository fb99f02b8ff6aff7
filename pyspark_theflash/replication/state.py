"""What the writer knows beside the rows, as records that are published with them.

    progress   how far the store can answer
    schema     the schema history, again whenever it has grown
    ledger     32 bytes for each finished transaction: what a second delivery is compared with
    pending    transactions that were seen but not applied, for the next run

A run that ends in the middle need not keep its pending transactions: it reads its source again from
the start, and the ledger tells what is done. For the same reason the newest commit seen is not
kept; starting from resolved_ts is always right, only slower to resolve.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from pyspark_theflash.binlog.event import Transaction
from pyspark_theflash.binlog.ledger import LedgerEntry, TransactionLedger, pack_entries
from pyspark_theflash.binlog.pairing import Pairing
from pyspark_theflash.binlog.pending import Pending
from pyspark_theflash.engine.api import Engine
from pyspark_theflash.schema.history import SchemaHistory
from pyspark_theflash.store.catalog import SCHEMA_KIND, schema_history, schema_records
from pyspark_theflash.store.manifest import Change, Record
from pyspark_theflash.store.progress import PROGRESS_KIND, Progress
from pyspark_theflash.types import TimeStamp

LEDGER_KIND: Final = "ledger"
PENDING_KIND: Final = "pending"


class WriterState:
    """The writer's side of the manifest: read once, then moved on with each publication."""

    def __init__(self, engine: Engine, history: SchemaHistory) -> None:
        """Read the state of a store, and continue its schema history by `history`.

        Raises:
            SchemaConflictError: the store was written under another history.
        """
        view = engine.read([PROGRESS_KIND, SCHEMA_KIND, LEDGER_KIND, PENDING_KIND])
        stored = schema_history(view)
        self.history: Final = history if stored is None else stored.extend(history)
        self._new_schema = () if self.history is stored else tuple(schema_records(self.history))
        self._progress = Progress.of(view)
        self._ledger = TransactionLedger()
        for body in view.of_kind(LEDGER_KIND).values():
            self._ledger.add_packed(body)
        self._ledger_records = len(view.of_kind(LEDGER_KIND))
        self._pending = dict(view.of_kind(PENDING_KIND))
        self._staged: tuple[list[LedgerEntry], Progress, dict[str, bytes]] | None = None
        self.pairing: Final = self._start_pairing()

    @property
    def resolved_ts(self) -> TimeStamp:
        """Up to where the store can answer; 0 before the first publication."""
        return self._progress.resolved_ts if self._progress else TimeStamp(0)

    @property
    def _oldest_ts(self) -> TimeStamp:
        """The oldest timestamp that can be read: the history's first, or a safe point."""
        return self._progress.oldest_ts if self._progress else self.history.start_ts

    @property
    def has_news(self) -> bool:
        """Whether a publication without rows would change anything."""
        return (
            self.pairing.resolved_ts > self.resolved_ts
            or bool(self._new_schema)
            or self._pending_bodies() != self._pending
        )

    def advance(
        self, resolved_ts: TimeStamp, transactions: Sequence[Transaction], *, keep_pending: bool
    ) -> Change:
        """The change to publish with the rows of `transactions`; `published` makes it the present.

        With `keep_pending`, whatever the pairing still holds is kept for another run.
        """
        oldest_ts = self._oldest_ts
        progress = Progress(oldest_ts, max(resolved_ts, self.resolved_ts, oldest_ts))
        entries = [LedgerEntry.committed(t) for t in transactions]
        entries += [LedgerEntry.rolled_back(ts) for ts in self.pairing.take_rolled_back()]
        puts = [progress.to_record(), *self._new_schema, *self._ledger_record(entries)]
        wanted = self._pending_bodies() if keep_pending else self._without(entries)
        puts += [Record(PENDING_KIND, k, v) for k, v in wanted.items() if self._pending.get(k) != v]
        self._staged = entries, progress, wanted
        return Change(puts, [(PENDING_KIND, k) for k in self._pending if k not in wanted])

    def published(self) -> None:
        """The change of the last `advance` is durable."""
        if self._staged is None:
            return
        entries, self._progress, self._pending = self._staged
        self._ledger.add(entries)
        self._ledger_records += bool(entries)
        self._new_schema, self._staged = (), None

    def collected(self, progress: Progress, ledger_records: int) -> None:
        """A garbage collection has published a new `oldest_ts`, and a ledger pruned by it."""
        self._progress = progress
        self._ledger.forget(progress.oldest_ts)
        self._ledger_records = ledger_records
        self.pairing.forget(progress.oldest_ts)

    def _start_pairing(self) -> Pairing:
        """Pending transactions that an interrupted run has finished since are done."""
        pending = (Pending.from_bytes(body) for body in self._pending.values())
        return Pairing(
            self._ledger,
            resolved_ts=self.resolved_ts,
            oldest_ts=self._oldest_ts,
            pending=[p for p in pending if self._ledger.lookup(p.start_ts) is None],
        )

    def _pending_bodies(self) -> dict[str, bytes]:
        return {_key(p.start_ts): p.to_bytes() for p in self.pairing.pending()}

    def _without(self, entries: Iterable[LedgerEntry]) -> dict[str, bytes]:
        done = {_key(e.start_ts) for e in entries}
        return {k: v for k, v in self._pending.items() if k not in done}

    def _ledger_record(self, entries: list[LedgerEntry]) -> list[Record]:
        if not entries:
            return []
        return [Record(LEDGER_KIND, f"{self._ledger_records:012d}", pack_entries(entries))]


def _key(start_ts: TimeStamp) -> str:
    return f"{start_ts:020d}"
