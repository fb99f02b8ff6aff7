"""Matched transactions -> one publication after another.

Transactions come sorted by (commit_ts, start_ts), all of (old resolved_ts, new resolved_ts]. They
are cut into batches small enough to decode in memory; each is published with the resolved_ts it
reaches, so a crash between two batches leaves a prefix. A batch also ends

    where DDL moves rows                    they are read as of right before, and published alone
    before what the schema history lacks    what comes before is published, then the error is raised

What cannot be told of one table stops no other: the table is set aside (`storage/store/aside.py`)
in the publication that it would have been part of, and what comes later goes on. Input that is
damaged, or a schema that is not its, still ends the writer.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from pyspark_theflash.base.errors import (
    SchemaOutdatedError,
    UnknownCopyError,
    UnknownPartitionError,
    UnsupportedError,
)
from pyspark_theflash.base.types import PhysicalTableID, TableID, TimeStamp
from pyspark_theflash.replication.apply.changes import TableChanges
from pyspark_theflash.replication.apply.move import move_record, moved_gaps, moved_versions
from pyspark_theflash.replication.apply.placement import AmbiguousPlacement
from pyspark_theflash.replication.apply.state import WriterState
from pyspark_theflash.replication.pairing.spill import payload_bytes
from pyspark_theflash.replication.source.event import Transaction
from pyspark_theflash.replication.source.prewrite import parse_prewrite
from pyspark_theflash.storage.engine.api import Publication, VersionBatch, WriterEngine
from pyspark_theflash.storage.store.aside import ASIDE_KIND, Aside, asides_of
from pyspark_theflash.storage.store.manifest import ManifestChange, Record
from pyspark_theflash.tidb.schema.lineage import Move
from pyspark_theflash.tidb.schema.model import TableInfo

BATCH_BYTES: Final = 32 << 20
"""Row bytes a batch: what a publication of a backlog has, and what memory must have room for."""
COLUMN_BYTES: Final = 2 * BATCH_BYTES
"""How much a batch's rows may take as columns, where these are much wider than rows."""
Compact: TypeAlias = Callable[[Iterable[PhysicalTableID]], None]
"""Has tables compacted that rows were published of."""
STAGES: Final = ("parse", "decode", "publish", "compact")
_UNTOLD: Final = UnknownPartitionError, UnknownCopyError, UnsupportedError
"""What leaves open what one table holds, and nothing else."""
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class ApplyReport:
    """Counts of what was applied, and `seconds` by stage, as `timer` counts them."""

    transactions: int = 0
    rows: int = 0
    row_bytes: int = 0
    publications: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    timer: Callable[[], float] = time.perf_counter

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the block's time to a stage."""
        started = self.timer()
        yield
        self.seconds[stage] += self.timer() - started


@dataclass(slots=True)
class _Batch:
    """Transactions to publish together, and their rows by table and definition."""

    changes: list[TableChanges] = field(default_factory=list)
    transactions: list[Transaction] = field(default_factory=list)
    row_bytes: int = 0
    column_bytes: int = 0
    _open: dict[TableID, TableChanges] = field(default_factory=dict)

    @property
    def is_full(self) -> bool:
        """Whether it is as much as memory should hold."""
        return self.row_bytes >= BATCH_BYTES or self.column_bytes >= COLUMN_BYTES

    def changes_of(self, table: TableInfo, placement: TableInfo) -> TableChanges:
        """The changes to which the next rows of a table are added: new for another definition."""
        known = self._open.get(table.id)
        # By identity: a history hands out the same definition every time, and they are large.
        if known is None or known.table is not table or known.placement is not placement:
            known = self._open[table.id] = TableChanges(table, placement)
            self.changes.append(known)
        return known


class Applier:
    """Applies transactions to an engine, in order. After an error, make another."""

    def __init__(
        self,
        engine: WriterEngine,
        state: WriterState,
        *,
        may_guess: bool = False,
        compact: Compact | None = None,
    ) -> None:
        """`may_guess`: a partition that nobody can tell is guessed instead of refused.

        `compact` is told which tables were published; None: they are compacted here.
        """
        self._engine, self._state, self._may_guess = engine, state, may_guess
        self._compact = compact or self._compact_here
        self._touched: set[PhysicalTableID] = set()
        self._asides = asides_of(engine.read([ASIDE_KIND]))
        self._new_asides: list[Record] = []
        self.report: Final = ApplyReport()

    def apply(
        self,
        transactions: Sequence[Transaction],
        resolved_ts: TimeStamp,
        *,
        keep_pending: bool = False,
        position: str | None = None,
    ) -> None:
        """Publish all of `transactions`, after which the store can answer at `resolved_ts`.

        With `keep_pending`, what is seen but not applied is kept for another run, which goes on at
        `position` in the source.

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
                    self._publish(self._move_rows(batch, before), before)
                raise
            batch = self._move_rows(batch, transaction.commit_ts)
            told = [m.told(self._state.cluster.has_written) for m in mutations]
            if batch.is_full or (None in told and batch.transactions):
                self._publish(batch, before)
                batch = _Batch()
            self._add(batch, transaction, mutations, told)
        batch = self._move_rows(batch, resolved_ts)
        self._publish(batch, resolved_ts, keep_pending=keep_pending, position=position)

    def compact(self) -> None:
        """Have what was touched since the last call rewritten into its fastest form."""
        with self.report.timed("compact"):
            touched, self._touched = sorted(self._touched), set()
            self._compact(touched)

    def _compact_here(self, tables: Iterable[PhysicalTableID]) -> None:
        for physical_id in tables:
            self._engine.compact(physical_id, self._state.columns_of(physical_id))

    def _mutations(self, transaction: Transaction) -> list[AmbiguousPlacement]:
        """The changes of a transaction, and the definitions that may have placed them."""
        if transaction.ddl is not None:
            self._state.require_schema(transaction.ddl, transaction.commit_ts)
        if not transaction.payload:
            return []
        with self.report.timed("parse"):
            prewrite = parse_prewrite(payload_bytes(transaction.payload))
            version = prewrite.schema_version
            self._state.named(version, transaction.commit_ts)
            found = []
            for rows in prewrite.mutations:
                table = self._state.table(rows.table_id, transaction.commit_ts)
                if not self._state.replicates(table.id):
                    continue
                try:
                    candidates, is_likely = self._state.placements(table, version, transaction)
                except _UNTOLD as error:
                    self._set_aside(table, table.stored_id_set, transaction.commit_ts, str(error))
                else:
                    found.append(
                        AmbiguousPlacement(table, candidates, rows, transaction, is_likely)
                    )
        return found

    def _add(
        self,
        batch: _Batch,
        transaction: Transaction,
        mutations: Sequence[AmbiguousPlacement],
        told: Sequence[TableInfo | None],
    ) -> None:
        """Add a transaction to a batch; what has come before is published where it must tell."""
        for doubt, placement in zip(mutations, told, strict=True):
            table, rows = doubt.table, doubt.mutations
            try:
                placed = placement or doubt.guessed(self._engine, may_guess=self._may_guess)
            except _UNTOLD as error:
                ids = _stored_ids(table, *doubt.candidates)
                self._set_aside(table, ids, transaction.commit_ts, str(error))
                continue
            changes = batch.changes_of(table, placed)
            changes.add(rows, transaction.start_ts, transaction.commit_ts)
            batch.column_bytes += changes.row_bytes * len(rows.sequence)
        batch.transactions.append(transaction)
        batch.row_bytes += len(transaction.payload)

    def _publish(
        self,
        batch: _Batch,
        resolved_ts: TimeStamp,
        *,
        keep_pending: bool = False,
        position: str | None = None,
    ) -> None:
        with self.report.timed("decode"):
            versions = [v for c in batch.changes for v in self._versions(c)]
        with self.report.timed("publish"):
            change = self._state.advance(
                resolved_ts, batch.transactions, keep_pending=keep_pending, position=position
            )
            self._publish_versions(versions, change)
            self._state.published()
        self.report.transactions += len(batch.transactions)
        self.report.row_bytes += batch.row_bytes

    def _versions(self, changes: TableChanges) -> list[VersionBatch]:
        """The versions of changes; those of before, if the table is to be set aside."""
        try:
            return changes.to_versions()
        except _UNTOLD as error:
            ts, table = changes.first_ts, changes.table
            if isinstance(error, UnknownPartitionError):
                ts = TimeStamp(error.commit_ts)
            self._set_aside(table, _stored_ids(table, changes.placement or table), ts, str(error))
            return changes.below(ts).to_versions() if ts > changes.first_ts else []

    def _set_aside(
        self, table: TableInfo, ids: Set[PhysicalTableID], ts: TimeStamp, reason: str
    ) -> None:
        """Have the next publication say that physical tables are not known from `ts` on."""
        new = [i for i in sorted(ids) if i not in self._asides or self._asides[i].ts > ts]
        for physical_id in new:
            aside = Aside(physical_id, ts, table.full_name, reason)
            self._asides[physical_id] = aside
            self._new_asides.append(aside.to_record())
        if new:
            _log.warning("%s is set aside from %d on: %s", table.full_name, ts, reason)

    def _publish_versions(self, versions: Sequence[VersionBatch], change: ManifestChange) -> None:
        change = ManifestChange([*change.puts, *self._new_asides], change.deletes)
        self._engine.publish(Publication(versions, change))
        self._new_asides.clear()
        self._touched.update(v.physical_id for v in versions)
        self.report.rows += sum(v.batch.num_rows for v in versions)
        self.report.publications += 1

    def _move_rows(self, batch: _Batch, ts: TimeStamp) -> _Batch:
        """Carry out what DDL moves at or below `ts`; returns the batch that is open then."""
        while (move := self._state.next_move(ts)) is not None:
            self._publish(batch, TimeStamp(move.ts - 1))
            batch = _Batch()
            versions = self._moved(move)
            records = [move_record(move), *moved_gaps(self._engine, move)]
            self._publish_versions(versions, ManifestChange(records))
            self._state.moved(move)
        return batch

    def _moved(self, move: Move) -> list[VersionBatch]:
        """The rows that DDL moves; none where these are not known."""
        known = [self._asides[i] for i in sorted(move.from_ids) if i in self._asides]
        if known:
            self._set_aside(move.after, move.to_ids, move.ts, known[0].reason)
            return []
        try:
            return moved_versions(
                self._engine,
                move,
                self._state.columns_moved_from,
                self._state.cluster.had_row,
                may_guess=self._may_guess,
            )
        except _UNTOLD as error:
            self._set_aside(move.after, move.to_ids, move.ts, str(error))
            return []


def _stored_ids(*tables: TableInfo) -> Set[PhysicalTableID]:
    """Where rows may be that were written under one of some definitions."""
    return {physical_id for table in tables for physical_id in table.stored_ids}
