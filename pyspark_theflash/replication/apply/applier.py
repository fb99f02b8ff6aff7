"""Apply matched transactions as a series of publications.

The input of `Applier.apply` is all transactions with a commit_ts in (old resolved_ts, new
resolved_ts], sorted by (commit_ts, start_ts). They are cut into batches that fit in memory when
decoded. Each batch is published with the resolved_ts that it reaches, so a crash between two
batches leaves a prefix. A batch also ends

    where DDL moves rows               they are read at the timestamp before, and published alone
    at the end of the schema history   earlier transactions are published, then the error is raised

If the rows or partitions of one table cannot be determined, the other tables are still applied:
the table is set aside (`storage/store/aside.py`) in the publication that the rows would have been
part of. Damaged input, or a schema that does not belong to it, ends the writer.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Final, TypeAlias

from pyspark_theflash.base.errors import SchemaOutdatedError
from pyspark_theflash.base.types import PhysicalTableID, TableID, TimeStamp
from pyspark_theflash.replication.apply.asides import AsideTables
from pyspark_theflash.replication.apply.changes import TableChanges
from pyspark_theflash.replication.apply.decoding import (
    TABLE_ERRORS,
    DecodeFailure,
    decode_changes,
    possible_ids,
)
from pyspark_theflash.replication.apply.move import move_record, moved_gaps, moved_versions
from pyspark_theflash.replication.apply.placement import AmbiguousPlacement
from pyspark_theflash.replication.apply.state import WriterState
from pyspark_theflash.replication.apply.stream_state import StreamState
from pyspark_theflash.replication.pairing.spill import payload_bytes
from pyspark_theflash.replication.source.event import Transaction
from pyspark_theflash.replication.source.prewrite import parse_prewrite
from pyspark_theflash.storage.engine.api import Publication, VersionBatch, WriterEngine
from pyspark_theflash.storage.store.manifest import ManifestChange
from pyspark_theflash.tidb.schema.lineage import Move
from pyspark_theflash.tidb.schema.model import TableInfo

BATCH_BYTES: Final = 32 << 20
"""Maximum size of a batch in bytes of encoded rows, which must fit in memory."""
COLUMN_BYTES: Final = 2 * BATCH_BYTES
"""Maximum size of a batch in bytes of decoded columns, if these are much wider than the rows."""
Compact: TypeAlias = Callable[[Iterable[PhysicalTableID]], None]
"""Callback that compacts tables after rows of them were published."""
STAGES: Final = ("parse", "decode", "publish", "compact")


@dataclass(slots=True)
class ApplyReport:
    """Numbers of applied transactions and rows, and the `seconds` of `timer` by stage."""

    transactions: int = 0
    rows: int = 0
    row_bytes: int = 0
    publications: int = 0
    loading: float | None = None
    """The part that is loaded of the tables that enter a store, from 0 to 1; None without any."""
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    timer: Callable[[], float] = time.perf_counter

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the duration of the block to a stage."""
        started = self.timer()
        yield
        self.seconds[stage] += self.timer() - started


@dataclass(slots=True)
class TransactionBatch:
    """Transactions to publish together, and their rows by table and definition."""

    changes: list[TableChanges] = field(default_factory=list)
    transactions: list[Transaction] = field(default_factory=list)
    row_bytes: int = 0
    column_bytes: int = 0
    _open: dict[TableID, TableChanges] = field(default_factory=dict)

    @property
    def is_full(self) -> bool:
        """Whether it should be published before more is added."""
        return self.row_bytes >= BATCH_BYTES or self.column_bytes >= COLUMN_BYTES

    def changes_of(self, table: TableInfo, placement: TableInfo) -> TableChanges:
        """Return the changes to append a table's rows to; new ones if its definition changed."""
        changes = self._open.get(table.id)
        # Compared by identity: definitions are large, and a history always returns the same object.
        if changes is None or changes.table is not table or changes.placement is not placement:
            changes = self._open[table.id] = TableChanges(table, placement)
            self.changes.append(changes)
        return changes


class Applier:
    """Applies transactions to an engine in order. Not usable after an error."""

    def __init__(
        self,
        engine: WriterEngine,
        state: WriterState,
        *,
        may_guess: bool = False,
        compact: Compact | None = None,
    ) -> None:
        """With `may_guess`, guess unknown partitions instead of setting the table aside.

        `compact` is called with the tables published; None compacts them synchronously.
        """
        self._engine, self._state, self._may_guess = engine, state, may_guess
        self._compact = compact or synchronously(engine, state)
        self._touched: set[PhysicalTableID] = set()
        self._asides = AsideTables(engine)
        self.report: Final = ApplyReport()

    def apply(
        self,
        transactions: Sequence[Transaction],
        resolved_ts: TimeStamp,
        *,
        keep_pending: bool = False,
        position: str | None = None,
    ) -> None:
        """Publish `transactions`, after which the store is readable up to `resolved_ts`.

        With `keep_pending`, pending transactions are stored for the next run, which continues at
        `position` in the source.

        Raises:
            SchemaOutdatedError: A transaction needs a newer schema history; all before it are
                applied.
        """
        batch = TransactionBatch()
        for transaction in transactions:
            before = TimeStamp(transaction.commit_ts - 1)
            try:
                mutations = self._mutations(transaction)
            except SchemaOutdatedError:
                if batch.transactions:
                    self._publish(self._move_rows(batch, before), before)
                raise
            batch = self._move_rows(batch, transaction.commit_ts)
            placements = [m.determine(self._state.cluster.has_written) for m in mutations]
            if batch.is_full or (None in placements and batch.transactions):
                self._publish(batch, before)
                batch = TransactionBatch()
            self._add(batch, transaction, mutations, placements)
        batch = self._move_rows(batch, resolved_ts)
        self._publish(batch, resolved_ts, keep_pending=keep_pending, position=position)

    def compact(self) -> None:
        """Compact the tables that were published since the last call."""
        with self.report.timed("compact"):
            touched, self._touched = sorted(self._touched), set()
            self._compact(touched)

    def _mutations(self, transaction: Transaction) -> list[AmbiguousPlacement]:
        """Decode a transaction's changes, with the definitions that may have placed them."""
        if transaction.ddl is not None:
            self._state.require_schema(transaction.ddl, transaction.commit_ts)
        if not transaction.payload:
            return []
        with self.report.timed("parse"):
            prewrite = parse_prewrite(payload_bytes(transaction.payload))
            version = prewrite.schema_version
            self._state.observe_version(version, transaction.commit_ts)
            placements = []
            for rows in prewrite.mutations:
                table = self._state.table(rows.table_id, transaction.commit_ts)
                if not self._state.replicates(table.id):
                    continue
                try:
                    candidates, is_likely = self._state.placements(table, version, transaction)
                except TABLE_ERRORS as error:
                    self._asides.add(
                        table.full_name, table.stored_id_set, transaction.commit_ts, str(error)
                    )
                else:
                    placements.append(
                        AmbiguousPlacement(table, candidates, rows, transaction, is_likely)
                    )
        return placements

    def _add(
        self,
        batch: TransactionBatch,
        transaction: Transaction,
        mutations: Sequence[AmbiguousPlacement],
        placements: Sequence[TableInfo | None],
    ) -> None:
        """Add a transaction to a batch, which is empty if a placement is None."""
        for unplaced, placement in zip(mutations, placements, strict=True):
            table, rows = unplaced.table, unplaced.mutations
            try:
                placed = placement or unplaced.determine_by_rows(
                    self._engine, may_guess=self._may_guess
                )
            except TABLE_ERRORS as error:
                ids = possible_ids(table, *unplaced.candidates)
                self._asides.add(table.full_name, ids, transaction.commit_ts, str(error))
                continue
            changes = batch.changes_of(table, placed)
            changes.add(rows, transaction.start_ts, transaction.commit_ts)
            batch.column_bytes += changes.row_bytes * len(rows.sequence)
        batch.transactions.append(transaction)
        batch.row_bytes += len(transaction.payload)

    def _publish(
        self,
        batch: TransactionBatch,
        resolved_ts: TimeStamp,
        *,
        keep_pending: bool = False,
        position: str | None = None,
    ) -> None:
        with self.report.timed("decode"):
            versions = self._decode(batch)
        with self.report.timed("publish"):
            change = self._state.advance(
                resolved_ts, batch.transactions, keep_pending=keep_pending, position=position
            )
            self._publish_versions(versions, change)
            self._state.published()
        self.report.transactions += len(batch.transactions)
        self.report.row_bytes += batch.row_bytes

    def _decode(self, batch: TransactionBatch) -> list[VersionBatch]:
        """Decode the rows of a batch, and set the tables aside that have rows of unknown places."""
        versions = []
        for changes in batch.changes:
            decoded, failure = decode_changes(changes)
            versions += decoded
            if failure is not None:
                self._set_aside(failure)
        return versions

    def _set_aside(self, failure: DecodeFailure) -> None:
        self._asides.add(failure.table, failure.physical_ids, failure.ts, failure.reason)

    def _publish_versions(self, versions: Sequence[VersionBatch], change: ManifestChange) -> None:
        self._engine.publish(Publication(versions, self._asides.added_to(change)))
        self._asides.published()
        self._touched.update(v.physical_id for v in versions)
        self.report.rows += sum(v.batch.num_rows for v in versions)
        self.report.publications += 1

    def _move_rows(self, batch: TransactionBatch, ts: TimeStamp) -> TransactionBatch:
        """Apply the moves of rows at or below `ts`; return the batch to add the next rows to."""
        while (move := self._state.next_move(ts)) is not None:
            self._publish(batch, TimeStamp(move.ts - 1))
            batch = TransactionBatch()
            versions = moved_or_aside(
                self._engine, self._state, self._asides, move, may_guess=self._may_guess
            )
            records = [move_record(move), *moved_gaps(self._engine, move)]
            self._publish_versions(versions, ManifestChange(records))
            self._state.finish_move(move)
        return batch


def moved_or_aside(
    engine: WriterEngine,
    state: StreamState,
    asides: AsideTables,
    move: Move,
    *,
    may_guess: bool = False,
) -> list[VersionBatch]:
    """Return the rows that DDL moves; [] if the new partitions have to be set aside."""
    if (aside := asides.first(move.from_ids)) is not None:
        asides.add(move.after.full_name, move.to_ids, move.ts, aside.reason)
        return []
    columns_of = partial(state.columns.of, is_moved=True)
    try:
        return moved_versions(engine, move, columns_of, state.cluster.had_row, may_guess=may_guess)
    except TABLE_ERRORS as error:
        asides.add(move.after.full_name, move.to_ids, move.ts, str(error))
        return []


def synchronously(engine: WriterEngine, state: StreamState) -> Compact:
    """Return a callback that compacts tables before it returns."""

    def compact(tables: Iterable[PhysicalTableID]) -> None:
        for physical_id in tables:
            engine.compact(physical_id, state.columns.of(physical_id))

    return compact
