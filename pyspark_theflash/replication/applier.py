"""Matched transactions -> one publication after another.

Transactions come sorted by (commit_ts, start_ts), all of (old resolved_ts, new resolved_ts]. They
are cut into batches small enough to decode in memory; each is published with the resolved_ts it
reaches, so a crash between two batches leaves a prefix. A batch also ends where a table's
definition changes, because rows of one batch are decoded under one TableInfo, and before a
transaction that the schema history does not know how to decode: what comes before it is published,
then the error is raised.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from pyspark_theflash.binlog.event import Transaction
from pyspark_theflash.binlog.prewrite import TableMutations, parse_prewrite
from pyspark_theflash.engine.api import Engine, Publication
from pyspark_theflash.errors import SchemaOutdatedError
from pyspark_theflash.mvcc.project import scan_column
from pyspark_theflash.replication.changes import TableChanges, stored_columns
from pyspark_theflash.replication.state import WriterState
from pyspark_theflash.schema.model import TableInfo
from pyspark_theflash.types import TableID, TimeStamp

BATCH_BYTES: Final = 8 << 20
"""Row bytes a batch: about 40,000 rows of a wide table, where decoding is at its best."""
STAGES: Final = ("parse", "decode", "publish", "fold")

_Mutations: TypeAlias = list[tuple[TableInfo, TableMutations]]


@dataclass(slots=True)
class ApplyReport:
    """What was applied, and where the time went (seconds by stage)."""

    transactions: int = 0
    rows: int = 0
    row_bytes: int = 0
    publications: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the block's time to a stage."""
        started = time.perf_counter()
        yield
        self.seconds[stage] += time.perf_counter() - started


@dataclass(slots=True)
class _Batch:
    """Transactions to publish together, and their rows by table."""

    tables: dict[TableID, TableChanges] = field(default_factory=dict)
    transactions: list[Transaction] = field(default_factory=list)
    row_bytes: int = 0

    def accepts(self, mutations: _Mutations) -> bool:
        """Whether there is room, and every table is still what it was."""
        known = self.tables
        return self.row_bytes < BATCH_BYTES and all(
            table.id not in known or known[table.id].table == table for table, _ in mutations
        )

    def add(self, transaction: Transaction, mutations: _Mutations) -> None:
        for table, changes in mutations:
            target = self.tables.setdefault(table.id, TableChanges(table))
            target.add(changes, transaction.start_ts, transaction.commit_ts)
        self.transactions.append(transaction)
        self.row_bytes += len(transaction.payload)


class Applier:
    """Applies transactions to an engine, in order. After an error, make another."""

    def __init__(self, engine: Engine, state: WriterState) -> None:
        self._engine, self._history, self._state = engine, state.history, state
        self._touched: set[TableID] = set()
        self.report: Final = ApplyReport()

    def apply(
        self,
        transactions: Sequence[Transaction],
        resolved_ts: TimeStamp,
        *,
        keep_pending: bool = False,
    ) -> None:
        """Publish all of `transactions`, after which the store can answer at `resolved_ts`.

        With `keep_pending`, what is seen but not applied is kept for another run.

        Raises:
            SchemaOutdatedError: a transaction needs a newer schema history; all before it are
            applied.
        """
        batch = _Batch()
        for transaction in transactions:
            before = TimeStamp(transaction.commit_ts - 1)
            try:
                mutations = self._mutations(transaction)
            except SchemaOutdatedError:
                if batch.transactions:
                    self._publish(batch, before)
                raise
            if not batch.accepts(mutations):
                self._publish(batch, before)
                batch = _Batch()
            batch.add(transaction, mutations)
        self._publish(batch, resolved_ts, keep_pending=keep_pending)

    def fold(self) -> None:
        """Let the engine rewrite what was touched since the last call into its fastest form."""
        with self.report.timed("fold"):
            for table_id in sorted(self._touched):
                self._fold_table(table_id)
        self._touched.clear()

    def _mutations(self, transaction: Transaction) -> _Mutations:
        """What the transaction changes, with the definitions its rows were written under."""
        if transaction.ddl is not None and transaction.commit_ts > self._history.end_ts:
            raise SchemaOutdatedError(
                f"schema change ({transaction.ddl.query})", transaction.commit_ts
            )
        if not transaction.payload:
            return []
        with self.report.timed("parse"):
            prewrite = parse_prewrite(transaction.payload)
            version = prewrite.schema_version
            return [
                (self._history.table_by_version(m.table_id, version), m) for m in prewrite.mutations
            ]

    def _publish(
        self, batch: _Batch, resolved_ts: TimeStamp, *, keep_pending: bool = False
    ) -> None:
        with self.report.timed("decode"):
            versions = [v for c in batch.tables.values() for v in c.to_versions()]
        with self.report.timed("publish"):
            change = self._state.advance(resolved_ts, batch.transactions, keep_pending=keep_pending)
            self._engine.publish(Publication(versions, change))
            self._state.published()
        self._touched.update(batch.tables)
        self.report.transactions += len(batch.transactions)
        self.report.rows += sum(v.batch.num_rows for v in versions)
        self.report.row_bytes += batch.row_bytes
        self.report.publications += 1

    def _fold_table(self, table_id: TableID) -> None:
        """Fold all that the table has ever been stored in, with all columns it has ever had."""
        tables = [e.table for e in self._history.events if e.table_id == table_id and e.table]
        latest = {c.id: c for table in tables for c in stored_columns(table)}
        columns = [scan_column(c) for c in latest.values()]
        for physical_id in sorted({i for table in tables for i in table.physical_ids}):
            self._engine.compact(physical_id, columns)
