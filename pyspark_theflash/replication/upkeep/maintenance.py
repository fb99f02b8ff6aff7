"""Upkeep of a store by its writer: compaction, garbage collection, settings and commands.

Garbage collection
    The safe point (`safe_point.py`) is the oldest timestamp that stays readable. It is published as
    the new `oldest_ts`, together with a ledger without the transactions at or below it, before
    anything is dropped:

    published   reads below raise SnapshotTooOldError; a snapshot that acquired its latch too late
                to be counted detects this when it checks `oldest_ts` again
    purged      physical tables that are in no definition at or above the safe point
    compacted   the others: versions at or below the safe point are dropped if not visible at it

    All steps are idempotent, so the next collection completes an interrupted one. The schema
    history is never pruned: the writer compares all of it with that of its source.

Execution
    Files are rewritten one piece at a time, round-robin for a collection, a compaction by command,
    and tables with published rows (`touched`). If there is a thread, pieces run in it, and `poll`
    and `touched` do the rest in the caller's thread once a piece has ended. Without a thread, each
    of these calls runs one piece. Publishers wait in `touched` only if compaction falls behind.

    If the store has a retention, a writer starts a collection when the safe point can advance by a
    quarter of it, and by ten minutes at least, which limits how often a region is rewritten. If PD
    is known, it stays at or below PD's safe point, since other readers may hold that.

Commands
    `poll` executes the commands that other processes have stored in the manifest's transient
    records (`storage/store/command.py`).
"""

import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from pyspark_theflash.base.clock import Clock
from pyspark_theflash.base.errors import InternalError, OptionError, TheFlashError, UpkeepError
from pyspark_theflash.base.failpoint import fail_point
from pyspark_theflash.base.types import LOGICAL_BITS, MAX_TS, PhysicalTableID, TimeStamp
from pyspark_theflash.replication.apply.columns import StoredColumns
from pyspark_theflash.replication.upkeep.collection import (
    CollectionReport,
    collectable,
    describe,
    raise_oldest_ts,
)
from pyspark_theflash.replication.upkeep.orphans import WriterMemory, decide, skip
from pyspark_theflash.replication.upkeep.regions import (
    all_stored,
    merge_regions,
    move_region,
    purge_region,
    split_region,
    stored_tables,
)
from pyspark_theflash.replication.upkeep.safe_point import (
    SafePoint,
    SafePointLimit,
    choose_safe_point,
    pinned_bounds,
    retention_bound,
)
from pyspark_theflash.replication.upkeep.work_queue import (
    FINAL_ERRORS,
    Pieces,
    Work,
    WorkQueue,
    run_all,
)
from pyspark_theflash.storage.engine.api import CompactionReport, Engine, Piece, Publication
from pyspark_theflash.storage.mvcc.project import ScanColumn
from pyspark_theflash.storage.store.catalog import schema_history
from pyspark_theflash.storage.store.command import (
    Argument,
    CollectOrder,
    Mailbox,
    MergeOrder,
    MoveOrder,
    PurgeOrder,
    ResolveOrder,
    SplitOrder,
    Verb,
)
from pyspark_theflash.storage.store.feed import MAIN, SCHEMA_KINDS, SIDE
from pyspark_theflash.storage.store.latch.lease import LeaseTable
from pyspark_theflash.storage.store.manifest import Manifest, ManifestChange, Record, View
from pyspark_theflash.storage.store.progress import PROGRESS_KIND, Progress, store_progress
from pyspark_theflash.storage.store.purged import purged_record
from pyspark_theflash.storage.store.setting import (
    DEFAULT_RETENTION_MS,
    SETTING_KIND,
    interval_ms,
    interval_record,
    retention_ms,
    retention_record,
)

MIN_INTERVAL_MS: Final = 10
MAX_INTERVAL_MS: Final = 86_400_000
COLLECT_MS_MIN: Final = 600_000
"""Minimum interval of automatic garbage collections, as in TiDB."""
_LONG: Final = (Verb.COMPACT, Verb.GC)
_log = logging.getLogger(__name__)
MAX_RETENTION_MS: Final = 100 * 366 * 86_400_000


class Maintenance:
    """Upkeep of one store. `manifest` is a separate handle for latches and commands."""

    interval_ms: int | None
    """Interval at which the writer polls its source; None if it is not set."""
    is_stopping: bool
    """Whether a command has requested the writer to stop."""
    memory: WriterMemory | None
    """State of the running writer, if any."""
    discarded: int
    """Number of pieces discarded because their tables were changed meanwhile."""

    def __init__(
        self,
        engine: Engine,
        manifest: Manifest,
        clock: Clock,
        *,
        memory: WriterMemory | None = None,
        on_progress: Callable[[str], None] = lambda _: None,
        pd_safe_point: Callable[[], TimeStamp] | None = None,
        thread: Executor | None = None,
    ) -> None:
        """`pd_safe_point` returns PD's GC safe point, below which TiKV may have dropped versions.

        Pieces run in `thread`, one at a time; None runs them in the caller's thread.
        """
        self._engine, self.memory, self._on_progress = engine, memory, on_progress
        self.pd_safe_point = pd_safe_point
        self._queue = WorkQueue(thread)
        self._is_collecting = False
        self._touched: set[PhysicalTableID] = set()
        self._failed: TheFlashError | None = None
        self.discarded = 0
        self._checked_ms: int | None = None
        self._leases, self._mailbox = LeaseTable(manifest, clock), Mailbox(manifest, clock)
        self._manifest, self._clock = manifest, clock
        self._columns: tuple[tuple[int | None, ...], StoredColumns] | None = None
        self.interval_ms = interval_ms(engine.read([SETTING_KIND]))
        self.is_stopping = False

    def poll(self) -> None:
        """Execute pending commands, and run the next piece of long-running work.

        Cheap if there is nothing to do. Errors of a command are returned to its sender; those in
        `work_queue.FINAL_ERRORS` are raised here as well.
        """
        while (command := self._mailbox.take(self._queue.command_ids)) is not None:
            work = Work(
                self._executing(command.verb, command.argument),
                partial(self._mailbox.done, command),
                partial(self._mailbox.failed, command),
                command.id,
            )
            if command.verb in _LONG:
                self._queue.add(work)
            else:
                self._queue.next_piece(work)
        self._collect_when_due()
        self._queue.run_next()

    def touched(self, tables: Iterable[PhysicalTableID]) -> None:
        """Compact tables of which rows were published, as far as it pays at present.

        Returns at once, unless compaction has fallen behind. If the compaction of a table has
        failed since the last call, raises its error; other tables are not affected.
        """
        for physical_id in tables:
            if physical_id not in self._touched:
                self._touched.add(physical_id)
                self._queue.add(self._compacting_one(physical_id))
        self._queue.run_next()
        while self._failed is None and any(map(self._engine.is_behind, self._touched)):
            self._queue.wait()
        if (failed := self._failed) is not None:
            self._failed = None
            raise failed

    def drain(self) -> None:
        """Wait until all tables passed to `touched` are compacted. Raises the same errors."""
        while self._failed is None and self._touched:
            self._queue.wait()
        self.touched(())

    def _compacting_one(self, physical_id: PhysicalTableID) -> Work:
        """Return the work of compacting a table as far as it pays."""

        def pieces() -> Pieces[str]:
            yield from self._all_of(physical_id, self._engine.begin)
            return ""

        def failed(error: TheFlashError) -> None:
            self._touched.remove(physical_id)
            self._failed = self._failed or error

        return Work(pieces(), lambda _: self._touched.remove(physical_id), failed)

    def _collect_when_due(self) -> None:
        """Start a collection by retention if the safe point can advance far enough."""
        now_ms = self._clock.boottime_ms()
        if self._checked_ms is not None and now_ms < self._checked_ms + COLLECT_MS_MIN:
            return
        if self._is_collecting:
            return
        self._checked_ms = now_ms
        view = self._engine.read([PROGRESS_KIND, SETTING_KIND])
        progress, kept_ms = store_progress(view), retention_ms(view)
        # A store of an earlier version has no retention, and keeps everything until it is set.
        if progress is None or kept_ms is None:
            return
        try:
            target = retention_bound(self._newest_ts(progress), kept_ms).ts
            if self.pd_safe_point is not None:
                target = min(target, self.pd_safe_point())
        except TheFlashError as error:
            _log.warning("garbage collection is postponed: %s", error)
            return
        if target - progress.oldest_ts >= max(kept_ms // 4, COLLECT_MS_MIN) << LOGICAL_BITS:
            order = CollectOrder(target).to_text()
            self._is_collecting = True
            self._queue.add(Work(self._executing(Verb.GC, order), self._collected, self._collected))

    def _collected(self, outcome: str | TheFlashError) -> None:
        """Handle the end of a collection by retention."""
        self._is_collecting = False
        if isinstance(outcome, TheFlashError):
            _log.warning("garbage collection is postponed: %s", outcome)

    def execute(self, verb: Verb, argument: Argument) -> str:
        """Execute a command; return a description of the result for display."""
        return run_all(self._executing(verb, argument))

    def _executing(self, verb: Verb, argument: Argument) -> Pieces[str]:
        """Execute a command piece by piece; return a description of the result for display."""
        if verb is Verb.COMPACT:
            return describe((yield from self.compacting()))
        if verb is Verb.FLUSH:
            return describe(self.flush())
        if verb is Verb.SPLIT:
            return describe(split_region(self._engine, SplitOrder.from_text(argument)))
        if verb is Verb.MERGE:
            return describe(merge_regions(self._engine, MergeOrder.from_text(argument)))
        if verb in (Verb.MOVE, Verb.COPY):
            is_copy = verb is Verb.COPY
            return move_region(self._engine, MoveOrder.from_text(argument), is_copy=is_copy)
        if verb is Verb.PURGE:
            return self.purge(PurgeOrder.from_text(argument))
        if verb is Verb.ADD_PARTITION:
            return f"partition {self._engine.add_partition(Path(str(argument)))}"
        if verb in (Verb.RESOLVE, Verb.SKIP):
            decision = ResolveOrder.from_text(argument)
            return (decide if verb is Verb.RESOLVE else skip)(decision, self._engine, self.memory)
        number = argument if isinstance(argument, int) else None
        if verb is Verb.GC:
            order = CollectOrder.from_text(argument)
            report = yield from self.collecting(order.safe_point, dry_run=order.dry_run)
            if report is None:
                return "nothing to collect yet"
            return report.describe(dry_run=order.dry_run)
        if verb is Verb.RETENTION:
            self.set_retention(number or 0)
            return f"garbage collection keeps {(number or 0) / 1000:g} s of history"
        if verb is Verb.INTERVAL:
            self.set_interval(number or 0)
            return f"polling every {number} ms"
        if verb is Verb.REMOVE_PARTITION:
            self._engine.remove_partition(number or 0)
            return f"removed partition {number}"
        self.is_stopping = True
        return "stopping"

    def set_interval(self, interval_ms: int) -> None:
        """Set the interval at which the writer polls its source; it persists over restarts.

        Raises:
            OptionError: The interval is below `MIN_INTERVAL_MS` or above `MAX_INTERVAL_MS`.
        """
        if not MIN_INTERVAL_MS <= interval_ms <= MAX_INTERVAL_MS:
            reason = f"{interval_ms} ms is not between {MIN_INTERVAL_MS} ms and a day"
            raise OptionError("interval", reason)
        if interval_ms != self.interval_ms:
            self._publish([interval_record(interval_ms)])
            self.interval_ms = interval_ms

    def set_retention(self, retention_ms: int) -> None:
        """Set how much history garbage collections retain.

        Raises:
            OptionError: The retention is negative or above `MAX_RETENTION_MS`.
        """
        if not 0 <= retention_ms <= MAX_RETENTION_MS:
            raise OptionError("retention", f"{retention_ms} ms is not between 0 and 100 years")
        self._publish([retention_record(retention_ms)])

    def compacting(self) -> Pieces[CompactionReport]:
        """Rewrite the rows of all tables, dropped ones included, into the form that reads fastest.

        Rows published after it begins are not included.

        Raises:
            UpkeepError: Some tables failed; the others are rewritten.
        """
        view = self._engine.read([])

        def merging(physical_id: PhysicalTableID) -> Pieces[CompactionReport]:
            newest = (f.max_commit_ts for f in self._engine.files(view, physical_id))
            to = max(newest, default=MAX_TS)
            return self._all_of(physical_id, partial(self._engine.begin, everything_to=to))

        return (yield from self._each("compact", all_stored(self._engine), merging))

    def flush(self) -> CompactionReport:
        """Distribute recently written rows among the regions of all tables.

        Raises:
            UpkeepError: Some tables failed; the others are distributed.
        """

        def flushing(physical_id: PhysicalTableID) -> Pieces[CompactionReport]:
            columns = self.columns_now(physical_id)
            return (yield partial(self._engine.flush, physical_id, columns))

        return run_all(self._each("flush", all_stored(self._engine), flushing))

    def purge(self, order: PurgeOrder) -> str:
        """Remove a region's rows; see `purge_region`."""
        return purge_region(self._engine, self._leases, order)

    def collecting(
        self, requested: TimeStamp | None = None, *, dry_run: bool = False
    ) -> Pieces[CollectionReport | None]:
        """Drop versions and tables that no read at or above the safe point needs.

        Args:
            requested: The requested safe point; None uses the store's retention.
            dry_run: Only report what would be done.

        Returns:
            None before the first publication.

        Raises:
            UpkeepError: Some tables could not be rewritten; all other steps are completed.
        """
        ledgers = [feed.ledger_kind for feed in (MAIN, SIDE)]
        view = self._engine.read([PROGRESS_KIND, *SCHEMA_KINDS, *ledgers, SETTING_KIND])
        progress, history = store_progress(view), schema_history(view)
        if progress is None or history is None:
            return None
        progress = replace(progress, resolved_ts=self._newest_ts(progress))
        safe_point = self._safe_point(view, progress, requested)
        if dry_run:
            return collectable(self._engine, view, history, safe_point)
        forgotten = sum(
            raise_oldest_ts(self._engine, view, feed, safe_point.ts, self.memory)
            for feed in (MAIN, SIDE)
        )
        fail_point("gc.after_safe_point")
        needed = history.physical_ids_from(safe_point.ts)
        stored = stored_tables(self._engine, history, view)
        if garbage := [i for i in stored if i not in needed]:
            self._publish(purged_record(i, safe_point.ts) for i in garbage)
            self._engine.purge(garbage)
        fail_point("gc.after_purge")
        remaining = [i for i in stored if i in needed]
        begin = partial(self._engine.begin, garbage_to=safe_point.ts)
        compaction = yield from self._each("gc", remaining, lambda i: self._all_of(i, begin))
        return CollectionReport(safe_point, forgotten, len(garbage), compaction)

    def _newest_ts(self, progress: Progress) -> TimeStamp:
        """Return the upper bound of safe points."""
        return progress.resolved_ts

    def _safe_point(self, view: View, progress: Progress, requested: TimeStamp | None) -> SafePoint:
        newest_ts = progress.resolved_ts
        bounds = [
            SafePointLimit(newest_ts, "resolved_ts"),
            *pinned_bounds(self._leases, self._clock),
        ]
        if requested is None:
            kept_ms = retention_ms(view)
            kept_ms = DEFAULT_RETENTION_MS if kept_ms is None else kept_ms
            bounds.append(retention_bound(newest_ts, kept_ms))
        return choose_safe_point(progress.oldest_ts, requested, bounds)

    def _all_of(
        self,
        physical_id: PhysicalTableID,
        begin: Callable[[PhysicalTableID, Sequence[ScanColumn]], Piece | None],
    ) -> Pieces[CompactionReport]:
        """Run all pieces of a table. Rows and schema changes may be published in between."""
        report = CompactionReport()
        while (piece := begin(physical_id, self.columns_now(physical_id))) is not None:
            done = yield piece
            self.discarded += done.discarded
            report = report.plus(done)
        return report

    def _each(
        self,
        verb: str,
        tables: Collection[PhysicalTableID],
        work: Callable[[PhysicalTableID], Pieces[CompactionReport]],
    ) -> Pieces[CompactionReport]:
        """Run work for all tables; errors of single tables are raised together at the end."""
        report, failed = CompactionReport(), dict[PhysicalTableID, TheFlashError]()
        for number, physical_id in enumerate(tables, 1):
            self._on_progress(f"{verb}: table {number} of {len(tables)}")
            try:
                report = report.plus((yield from work(physical_id)))
            except FINAL_ERRORS:
                raise
            except TheFlashError as error:
                if error.retryable:
                    raise
                failed[physical_id] = error
            fail_point("gc.after_table")
        if failed:
            reasons = [f"physical table {i}: {type(e).__name__}: {e}" for i, e in failed.items()]
            raise UpkeepError(verb, type(next(iter(failed.values()))).__name__, tuple(reasons))
        return report

    def columns_now(self, physical_id: PhysicalTableID) -> Sequence[ScanColumn]:
        """Return all columns that a physical table has had up to the newest publication."""
        sums = self._manifest.head().sums
        state = tuple(sums.get(kind) for kind in SCHEMA_KINDS)
        if self._columns is None or self._columns[0] != state:
            history = schema_history(self._engine.read(SCHEMA_KINDS))
            if history is None:
                raise InternalError("the store has rows, but no schema history")
            self._columns = state, StoredColumns(history)
        return self._columns[1].of(physical_id)

    def _publish(self, puts: Iterable[Record], deletes: Iterable[tuple[str, str]] = ()) -> None:
        self._engine.publish(Publication((), ManifestChange(tuple(puts), tuple(deletes))))
