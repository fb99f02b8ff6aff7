"""Upkeep of a store by whoever holds its writer's lock: compaction, garbage collection, settings.

Garbage collection
    The safe point is the oldest timestamp that can still be read. It becomes the lowest of what was
    asked for, `resolved_ts` and the timestamps that latches pin, and never goes back. First it is
    published as the new `oldest_ts`, together with a ledger that forgets what committed at or below
    it; only then is anything dropped:

    published   reads below raise SnapshotTooOldError; a snapshot that took its latch a moment too
                late to be counted sees this when it looks at `oldest_ts` again
    purged      physical tables that no definition at or above the safe point names
    compacted   the rest: of versions at or below the safe point, what a read there needs stays

    All of it can be done again, so an interrupted collection is finished by the next. The schema
    history stays whole: the writer compares its source's with it from the start.

Commands
    `poll` executes what other processes have left on the store's board (`store/command.py`).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

from pyspark_theflash.binlog.ledger import pruned_entries
from pyspark_theflash.clock import Clock
from pyspark_theflash.engine.api import CompactionReport, Engine, Publication
from pyspark_theflash.errors import InternalError, OptionError, RegionNotFoundError, TheFlashError
from pyspark_theflash.failpoint import fail_point
from pyspark_theflash.mvcc.project import ScanColumn
from pyspark_theflash.replication.columns import StoredColumns
from pyspark_theflash.replication.state import LEDGER_KIND
from pyspark_theflash.schema.history import SchemaHistory
from pyspark_theflash.schema.lineage import Lineage
from pyspark_theflash.store.catalog import SCHEMA_KIND, schema_history
from pyspark_theflash.store.command import (
    Argument,
    Command,
    Mailbox,
    MergeOrder,
    SplitOrder,
    Verb,
)
from pyspark_theflash.store.lease import LeaseTable
from pyspark_theflash.store.manifest import Change, Manifest, Record, View
from pyspark_theflash.store.progress import PROGRESS_KIND, Progress
from pyspark_theflash.store.purged import purged_record
from pyspark_theflash.store.setting import SETTING_KIND, interval_ms, interval_record
from pyspark_theflash.types import PhysicalTableID, RegionID, TimeStamp

LEDGER_RECORD_ENTRIES: Final = 1 << 15
MIN_INTERVAL_MS: Final = 10
MAX_INTERVAL_MS: Final = 86_400_000


class WriterMemory(Protocol):
    """What a running writer holds of the records that a collection changes."""

    def collected(self, progress: Progress, ledger_records: int) -> None:
        """`progress.oldest_ts` is durable, and the ledger forgets up to it."""


@dataclass(frozen=True, slots=True)
class CollectionReport:
    """What a garbage collection did."""

    safe_point: TimeStamp
    transactions_forgotten: int
    tables_purged: int
    compaction: CompactionReport


class Maintenance:
    """The upkeep of one store. `manifest` is a second one, for latches and commands."""

    interval_ms: int | None
    """How often the writer is to look for new input; None if nobody has said."""
    is_stopping: bool
    """Whether somebody has asked the writer to end."""

    def __init__(
        self,
        engine: Engine,
        manifest: Manifest,
        clock: Clock,
        *,
        memory: WriterMemory | None = None,
        on_progress: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._engine, self.memory, self._on_progress = engine, memory, on_progress
        self._leases, self._mailbox = LeaseTable(manifest, clock), Mailbox(manifest, clock)
        self.interval_ms = interval_ms(engine.read([SETTING_KIND]))
        self.is_stopping = False

    def poll(self) -> None:
        """Execute the commands that others have left. Cheap where there are none.

        A command's error goes to who gave it; one of ours is raised here as well.
        """
        while (command := self._mailbox.take()) is not None:
            self._answer(command)

    def _answer(self, command: Command) -> None:
        try:
            text = self.execute(command.verb, command.argument)
        except TheFlashError as error:
            self._mailbox.failed(command, error)
            if isinstance(error, InternalError):
                raise
        else:
            self._mailbox.done(command, text)

    def execute(self, verb: Verb, argument: Argument) -> str:
        """Do what a command says; returns what to tell who gave it."""
        if verb is Verb.COMPACT:
            return _told(self.compact())
        if verb is Verb.FLUSH:
            return _told(self.flush())
        if verb is Verb.SPLIT:
            return _told(self.split(SplitOrder.from_text(argument)))
        if verb is Verb.MERGE:
            return _told(self.merge(MergeOrder.from_text(argument)))
        number = argument if isinstance(argument, int) else None
        if verb is Verb.GC:
            report = self.collect(None if number is None else TimeStamp(number))
            return "nothing to collect yet" if report is None else _collection_told(report)
        if verb is Verb.INTERVAL:
            self.set_interval(number or 0)
            return f"polling every {number} ms"
        self.is_stopping = True
        return "stopping"

    def set_interval(self, interval_ms: int) -> None:
        """Look for new input that often, now and after a restart.

        Raises:
            OptionError: that is no sensible interval.
        """
        if not MIN_INTERVAL_MS <= interval_ms <= MAX_INTERVAL_MS:
            reason = f"{interval_ms} ms is not between {MIN_INTERVAL_MS} ms and a day"
            raise OptionError("interval", reason)
        if interval_ms != self.interval_ms:
            self._publish([interval_record(interval_ms)])
            self.interval_ms = interval_ms

    def compact(self) -> CompactionReport:
        """Rewrite all tables there have ever been into the form that reads fastest."""
        return self._compact(self._all_stored(), None)

    def flush(self) -> CompactionReport:
        """Divide what came lately among the regions of all tables."""
        report = CompactionReport()
        for physical_id, columns in self._all_stored().items():
            report = report.plus(self._engine.flush(physical_id, columns))
        return report

    def split(self, order: SplitOrder) -> CompactionReport:
        """Divide a region.

        Raises:
            RegionNotFoundError, OptionError: see `Engine.split`.
        """
        columns = self._columns_of(order.physical_id, order.region_id)
        if isinstance(order.at, bytes) != self._has_key_handles(order.physical_id):
            raise OptionError("at", "is of another kind than the table's handles")
        return self._engine.split(order.physical_id, order.region_id, order.at, columns)

    def merge(self, order: MergeOrder) -> CompactionReport:
        """Unite two regions.

        Raises:
            RegionNotFoundError, OptionError: see `Engine.merge`.
        """
        columns = self._columns_of(order.physical_id, order.left_id)
        return self._engine.merge(order.physical_id, order.left_id, order.right_id, columns)

    def _columns_of(
        self, physical_id: PhysicalTableID, region_id: RegionID
    ) -> Sequence[ScanColumn]:
        columns = self._all_stored().get(physical_id)
        if columns is None:
            raise RegionNotFoundError(physical_id, region_id)
        return columns

    def _has_key_handles(self, physical_id: PhysicalTableID) -> bool:
        """Whether its rows are told apart by a clustered key and not by a number."""
        history = schema_history(self._engine.read([SCHEMA_KIND]))
        events = () if history is None else history.events
        tables = (e.table for e in events if physical_id in e.physical_ids)
        return any(table.is_common_handle for table in tables if table is not None)

    def _all_stored(self) -> dict[PhysicalTableID, Sequence[ScanColumn]]:
        view = self._engine.read([SCHEMA_KIND])
        history = schema_history(view)
        return {} if history is None else self._stored(history, view)

    def collect(self, wanted: TimeStamp | None) -> CollectionReport | None:
        """Drop what no read from the safe point on needs; without one, from `resolved_ts` on.

        Returns None before the first publication.
        """
        view = self._engine.read([PROGRESS_KIND, SCHEMA_KIND, LEDGER_KIND])
        progress, history = Progress.of(view), schema_history(view)
        if progress is None or history is None:
            return None
        pinned = self._leases.oldest_snapshot_ts()
        bounds = [progress.resolved_ts, *(ts for ts in (wanted, pinned) if ts is not None)]
        safe_point = max(progress.oldest_ts, min(bounds))
        forgotten = self._raise_oldest_ts(view, replace(progress, oldest_ts=safe_point))
        fail_point("gc.after_safe_point")
        needed = _needed_from(history, safe_point)
        stored = self._stored(history, view)
        if garbage := [i for i in stored if i not in needed]:
            self._publish(purged_record(i, safe_point) for i in garbage)
            self._engine.purge(garbage)
        fail_point("gc.after_purge")
        kept = {i: columns for i, columns in stored.items() if i in needed}
        compaction = self._compact(kept, safe_point)
        return CollectionReport(safe_point, forgotten, len(garbage), compaction)

    def _raise_oldest_ts(self, view: View, progress: Progress) -> int:
        """Publish the safe point; returns how many transactions are forgotten."""
        ledger = view.of_kind(LEDGER_KIND)
        kept, forgotten = pruned_entries(ledger.values(), progress.oldest_ts, LEDGER_RECORD_ENTRIES)
        if forgotten or Progress.of(view) != progress:
            records = [Record(LEDGER_KIND, f"{n:012d}", body) for n, body in enumerate(kept)]
            deletes = [(LEDGER_KIND, key) for key in ledger]
            self._publish([progress.to_record(), *records], deletes)
            if self.memory is not None:
                self.memory.collected(progress, len(records))
        return forgotten

    def _compact(
        self, stored: Mapping[PhysicalTableID, Sequence[ScanColumn]], safe_point: TimeStamp | None
    ) -> CompactionReport:
        report = CompactionReport()
        for number, (physical_id, columns) in enumerate(stored.items(), 1):
            self._on_progress(f"compacting table {number} of {len(stored)}")
            done = self._engine.compact(
                physical_id, columns, safe_point=safe_point, everything=True
            )
            report = report.plus(done)
            fail_point("gc.after_table")
        return report

    def _stored(
        self, history: SchemaHistory, view: View
    ) -> dict[PhysicalTableID, Sequence[ScanColumn]]:
        """What the engine holds rows of, with all columns those have ever had."""
        columns = StoredColumns(history, Lineage(history))
        held = (i for i in columns.physical_ids if self._engine.regions(view, i))
        return {physical_id: columns.of(physical_id) for physical_id in held}

    def _publish(self, puts: Iterable[Record], deletes: Iterable[tuple[str, str]] = ()) -> None:
        self._engine.publish(Publication((), Change(tuple(puts), tuple(deletes))))


def _needed_from(history: SchemaHistory, safe_point: TimeStamp) -> set[PhysicalTableID]:
    """The physical tables that a read at or above the safe point may look into."""
    later = (e.table for e in history.events if e.ts > safe_point and e.table is not None)
    tables = [*history.tables_at(safe_point), *later]
    return {physical_id for table in tables for physical_id in table.physical_ids}


def _told(report: CompactionReport) -> str:
    return (
        f"compacted {report.rows_read:,} versions of {report.files_replaced:,} files "
        f"into {report.rows_written:,} of {report.files_written:,}"
    )


def _collection_told(report: CollectionReport) -> str:
    return (
        f"safe point {report.safe_point}: dropped {report.compaction.rows_dropped:,} versions and "
        f"{report.tables_purged:,} tables, forgot {report.transactions_forgotten:,} transactions; "
        f"{_told(report.compaction)}"
    )
