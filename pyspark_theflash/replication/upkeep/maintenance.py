"""Upkeep of a store by whoever holds its writer's lock: compaction, garbage collection, settings.

Garbage collection
    The safe point (`safe_point.py`) is the oldest timestamp that can still be read. First it is
    published as the new `oldest_ts`, together with a ledger that forgets what committed at or below
    it; only then is anything dropped:

    published   reads below raise SnapshotTooOldError; a snapshot that took its latch a moment too
                late to be counted sees this when it looks at `oldest_ts` again
    purged      physical tables that no definition at or above the safe point names
    compacted   the rest: of versions at or below the safe point, what a read there needs stays

    All of it can be done again, so an interrupted collection is finished by the next. The schema
    history stays whole: the writer compares its source's with it from the start.

Beside the writer
    Files are rewritten a piece at a time: for a collection, for a compaction by command, and for
    tables that rows were published of (`touched`), in turns. Given a thread, pieces run there. All
    else is done in the caller's, when `poll` or `touched` find that a piece has ended. Without a
    thread each of these calls does a piece itself. Publishers wait for a compaction in `touched`
    only where it falls behind.

    A writer collects by itself where the store has a retention: as soon as the safe point can move
    by a quarter of it, ten minutes at least, so that a region is not rewritten more often. It stays
    below PD's safe point where PD is known: others may read what that holds.

Commands
    `poll` executes what other processes have left in the store's transient records
    (`storage/store/command.py`).
"""

import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from pyspark_theflash.base.clock import Clock
from pyspark_theflash.base.errors import (
    InternalError,
    LatchHeldError,
    OptionError,
    RegionNotFoundError,
    TheFlashError,
    UpkeepError,
)
from pyspark_theflash.base.failpoint import fail_point
from pyspark_theflash.base.types import LOGICAL_BITS, MAX_TS, PhysicalTableID, RegionID, TimeStamp
from pyspark_theflash.replication.apply.columns import StoredColumns
from pyspark_theflash.replication.upkeep.collection import (
    CollectionReport,
    WriterMemory,
    collectable,
    raise_oldest_ts,
    told,
)
from pyspark_theflash.replication.upkeep.orphans import decide
from pyspark_theflash.replication.upkeep.safe_point import (
    SafePoint,
    SafePointLimit,
    choose_safe_point,
    pinned_bounds,
    retention_bound,
)
from pyspark_theflash.replication.upkeep.works import FINAL_ERRORS, Pieces, Work, Works, ended
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
from pyspark_theflash.storage.store.gap import GAP_KIND, Gap, gaps_of
from pyspark_theflash.storage.store.latch.latch import LatchKind
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
from pyspark_theflash.tidb.schema.history import SchemaHistory

MIN_INTERVAL_MS: Final = 10
MAX_INTERVAL_MS: Final = 86_400_000
COLLECT_MS_MIN: Final = 600_000
"""A writer collects garbage no more often than this, as TiDB does."""
_LONG: Final = (Verb.COMPACT, Verb.GC)
_log = logging.getLogger(__name__)
MAX_RETENTION_MS: Final = 100 * 366 * 86_400_000


class Maintenance:
    """The upkeep of one store. `manifest` is a second one, for latches and commands."""

    interval_ms: int | None
    """How often the writer is to look for new input; None if nobody has said."""
    is_stopping: bool
    """Whether somebody has asked the writer to end."""
    discarded: int
    """How many pieces were in vain, since their tables had changed otherwise meanwhile."""

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
        """`pd_safe_point` asks PD up to where TiKV may have dropped old versions.

        Pieces run in `thread`, one at a time; None: in the caller's.
        """
        self._engine, self.memory, self._on_progress = engine, memory, on_progress
        self.pd_safe_point = pd_safe_point
        self._works = Works(thread)
        self._is_collecting = False
        self._touched: set[PhysicalTableID] = set()
        self._failed: TheFlashError | None = None
        self.discarded = 0
        self._looked_ms: int | None = None
        self._leases, self._mailbox = LeaseTable(manifest, clock), Mailbox(manifest, clock)
        self._manifest, self._clock = manifest, clock
        self._columns: tuple[tuple[int | None, ...], StoredColumns] | None = None
        self.interval_ms = interval_ms(engine.read([SETTING_KIND]))
        self.is_stopping = False

    def poll(self) -> None:
        """Execute the commands that others have left, and go on with what takes long.

        Cheap where there is nothing to do. A command's error goes to who gave it. One of
        `works.FINAL_ERRORS` is raised here as well.
        """
        while (command := self._mailbox.take(self._works.ids)) is not None:
            work = Work(
                self._executing(command.verb, command.argument),
                partial(self._mailbox.done, command),
                partial(self._mailbox.failed, command),
                command.id,
            )
            if command.verb in _LONG:
                self._works.add(work)
            else:
                self._works.next_piece(work)
        self._collect_when_due()
        self._works.go_on()

    def touched(self, tables: Iterable[PhysicalTableID]) -> None:
        """Rows of these tables were published: compact them as far as it pays by now.

        Returns at once, unless compaction has fallen behind. Raises what the compaction of a table
        has failed with since the last call; the other tables are gone on with.
        """
        for physical_id in tables:
            if physical_id not in self._touched:
                self._touched.add(physical_id)
                self._works.add(self._compacting_one(physical_id))
        self._works.go_on()
        while self._failed is None and any(map(self._engine.is_behind, self._touched)):
            self._works.wait()
        if (failed := self._failed) is not None:
            self._failed = None
            raise failed

    def drain(self) -> None:
        """Wait until the tables that were touched are compacted. Raises as `touched` does."""
        while self._failed is None and self._touched:
            self._works.wait()
        self.touched(())

    def goes_on_with(self, state: WriterMemory) -> None:
        """Another writer goes on; that is what it has in memory."""
        self.memory = state

    def _compacting_one(self, physical_id: PhysicalTableID) -> Work:
        """Compact a table that was touched as far as it pays."""

        def paying() -> Pieces[str]:
            yield from self._all_of(physical_id, self._engine.begin)
            return ""

        def failed(error: TheFlashError) -> None:
            self._touched.remove(physical_id)
            self._failed = self._failed or error

        return Work(paying(), lambda _: self._touched.remove(physical_id), failed)

    def _collect_when_due(self) -> None:
        """Begin a collection by retention if there is something for it to do."""
        now_ms = self._clock.boottime_ms()
        if self._looked_ms is not None and now_ms < self._looked_ms + COLLECT_MS_MIN:
            return
        if self._is_collecting:
            return
        self._looked_ms = now_ms
        view = self._engine.read([PROGRESS_KIND, SETTING_KIND])
        progress, kept_ms = store_progress(view), retention_ms(view)
        # A store of an earlier version keeps everything until somebody says how much is wanted.
        if progress is None or kept_ms is None:
            return
        try:
            wanted = retention_bound(self._newest_ts(progress), kept_ms).ts
            if self.pd_safe_point is not None:
                wanted = min(wanted, self.pd_safe_point())
        except TheFlashError as error:
            _log.warning("garbage is collected later: %s", error)
            return
        if wanted - progress.oldest_ts >= max(kept_ms // 4, COLLECT_MS_MIN) << LOGICAL_BITS:
            order = CollectOrder(wanted).to_text()
            self._is_collecting = True
            self._works.add(Work(self._executing(Verb.GC, order), self._collected, self._collected))

    def _collected(self, outcome: str | TheFlashError) -> None:
        """A collection that nobody has asked for has ended."""
        self._is_collecting = False
        if isinstance(outcome, TheFlashError):
            _log.warning("garbage is collected later: %s", outcome)

    def execute(self, verb: Verb, argument: Argument) -> str:
        """Do what a command says; returns what to tell who gave it."""
        return ended(self._executing(verb, argument))

    def _executing(self, verb: Verb, argument: Argument) -> Pieces[str]:
        """Do what a command says, piece by piece; returns what to tell who gave it."""
        if verb is Verb.COMPACT:
            return told((yield from self._compacting()))
        if verb is Verb.FLUSH:
            return told(self.flush())
        if verb is Verb.SPLIT:
            return told(self.split(SplitOrder.from_text(argument)))
        if verb is Verb.MERGE:
            return told(self.merge(MergeOrder.from_text(argument)))
        if verb is Verb.MOVE:
            return self.move(MoveOrder.from_text(argument))
        if verb is Verb.COPY:
            return self.copy(MoveOrder.from_text(argument))
        if verb is Verb.PURGE:
            return self.purge(PurgeOrder.from_text(argument))
        if verb is Verb.ADD_PARTITION:
            return f"partition {self._engine.add_partition(Path(str(argument)))}"
        if verb is Verb.RESOLVE:
            decided = decide(ResolveOrder.from_text(argument), self._engine, self.memory)
            end = f"committed at {decided.commit_ts}" if decided.commit_ts else "rolled back"
            return f"{decided.start_ts} counts as {end}"
        number = argument if isinstance(argument, int) else None
        if verb is Verb.GC:
            order = CollectOrder.from_text(argument)
            report = yield from self._collecting(order.safe_point, dry_run=order.dry_run)
            if report is None:
                return "nothing to collect yet"
            return report.told(dry_run=order.dry_run)
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

    def set_retention(self, retention_ms: int) -> None:
        """Keep that much history when garbage is collected.

        Raises:
            OptionError: that is no sensible retention.
        """
        if not 0 <= retention_ms <= MAX_RETENTION_MS:
            raise OptionError("retention", f"{retention_ms} ms is not between 0 and a century")
        self._publish([retention_record(retention_ms)])

    def compact(self) -> CompactionReport:
        """Rewrite all tables there have ever been into the form that reads fastest.

        Raises:
            UpkeepError: some could not be rewritten; the others were.
        """
        return ended(self._compacting())

    def _compacting(self) -> Pieces[CompactionReport]:
        """The same, piece by piece, of what is there when it begins."""
        view = self._engine.read([])

        def merging(physical_id: PhysicalTableID) -> Pieces[CompactionReport]:
            there = (f.max_commit_ts for f in self._engine.files(view, physical_id))
            to = max(there, default=MAX_TS)
            return self._all_of(physical_id, partial(self._engine.begin, everything_to=to))

        return (yield from self._each("compact", self._all_stored(), merging))

    def flush(self) -> CompactionReport:
        """Distribute recently written rows among the regions of all tables.

        Raises:
            UpkeepError: some could not be split; the others were.
        """

        def flushing(physical_id: PhysicalTableID) -> Pieces[CompactionReport]:
            columns = self.columns_now(physical_id)
            return (yield partial(self._engine.flush, physical_id, columns))

        return ended(self._each("flush", self._all_stored(), flushing))

    def split(self, order: SplitOrder) -> CompactionReport:
        """Split a region.

        Raises:
            RegionNotFoundError, OptionError: see `Engine.split`.
        """
        columns = self._columns_of(order.physical_id, order.region_id)
        if isinstance(order.at, bytes) != self._has_key_handles(order.physical_id):
            raise OptionError("at", "is of another kind than the table's handles")
        return self._engine.split(order.physical_id, order.region_id, order.at, columns)

    def merge(self, order: MergeOrder) -> CompactionReport:
        """Merge two regions.

        Raises:
            RegionNotFoundError, OptionError: see `Engine.merge`.
        """
        columns = self._columns_of(order.physical_id, order.left_id)
        return self._engine.merge(order.physical_id, order.left_id, order.right_id, columns)

    def move(self, order: MoveOrder) -> str:
        """Have a region's files in another partition.

        Raises:
            RegionNotFoundError, OptionError: see `Engine.move`.
        """
        report = self._engine.move(order.physical_id, order.region_id, order.partition)
        return f"moved {report.files_written:,} files of {report.bytes_written:,} bytes"

    def copy(self, order: MoveOrder) -> str:
        """Have a region's files in one more partition. Otherwise like `move`."""
        report = self._engine.copy(order.physical_id, order.region_id, order.partition)
        return f"copied {report.files_written:,} files of {report.bytes_written:,} bytes"

    def purge(self, order: PurgeOrder) -> str:
        """Remove a region's rows, at every timestamp; reads that reach there fail from then on.

        Rows that were written there since an earlier purge of the region go, too.

        Raises:
            RegionNotFoundError: the region is not there, or not any more.
            LatchHeldError: a timestamp is pinned, at which its rows can be read.
        """
        view = self._engine.read([GAP_KIND])
        known = {gap.region_id: gap for gap in gaps_of(view, order.physical_id)}
        gap, others = known.get(order.region_id), None
        if gap is None:
            regions = {r.region_id: r for r in self._engine.regions(view, order.physical_id)}
            if (region := regions.get(order.region_id)) is None:
                raise RegionNotFoundError(order.physical_id, order.region_id)
            self._check_no_pin(order)
            gap = Gap(order.physical_id, order.region_id, region.start, region.end)
            others = ManifestChange([gap.to_record()])
        columns = self._all_stored().get(order.physical_id)
        if columns is None:  # All of the table went with an earlier purge.
            return "purged 0 versions"
        report = self._engine.purge_range(order.physical_id, gap.start, gap.end, columns, others)
        return f"purged {report.rows_dropped:,} versions"

    def _check_no_pin(self, order: PurgeOrder) -> None:
        for latch in self._leases.living():
            if latch.kind is LatchKind.PIN:
                scope = f"region {order.region_id} of physical table {order.physical_id}"
                raise LatchHeldError(scope, f"pin {latch.id} of timestamp {latch.snapshot_ts}")

    def _columns_of(
        self, physical_id: PhysicalTableID, region_id: RegionID
    ) -> Sequence[ScanColumn]:
        columns = self._all_stored().get(physical_id)
        if columns is None:
            raise RegionNotFoundError(physical_id, region_id)
        return columns

    def _has_key_handles(self, physical_id: PhysicalTableID) -> bool:
        """Whether its rows are told apart by a clustered key and not by a number."""
        history = schema_history(self._engine.read(SCHEMA_KINDS))
        events = () if history is None else history.events
        tables = (e.table for e in events if physical_id in e.physical_ids)
        return any(table.is_common_handle for table in tables if table is not None)

    def _all_stored(self) -> dict[PhysicalTableID, Sequence[ScanColumn]]:
        view = self._engine.read(SCHEMA_KINDS)
        history = schema_history(view)
        return {} if history is None else self._stored(history, view)

    def collect(
        self, wanted: TimeStamp | None = None, *, dry_run: bool = False
    ) -> CollectionReport | None:
        """Drop what no read from the safe point on needs.

        Args:
            wanted: the safe point; None: by the store's retention.
            dry_run: only find out what would be done.

        Returns:
            None before the first publication.

        Raises:
            UpkeepError: some tables could not be rewritten; all else is done.
        """
        return ended(self._collecting(wanted, dry_run=dry_run))

    def _collecting(
        self, wanted: TimeStamp | None, *, dry_run: bool
    ) -> Pieces[CollectionReport | None]:
        """The same, a region at a time."""
        ledgers = [feed.ledger_kind for feed in (MAIN, SIDE)]
        view = self._engine.read([PROGRESS_KIND, *SCHEMA_KINDS, *ledgers, SETTING_KIND])
        progress, history = store_progress(view), schema_history(view)
        if progress is None or history is None:
            return None
        progress = replace(progress, resolved_ts=self._newest_ts(progress))
        chosen = self._safe_point(view, progress, wanted)
        if dry_run:
            return collectable(self._engine, view, history, chosen)
        safe_point = chosen.ts
        forgotten = sum(
            raise_oldest_ts(self._engine, view, feed, safe_point, self.memory)
            for feed in (MAIN, SIDE)
        )
        fail_point("gc.after_safe_point")
        needed = history.physical_ids_from(safe_point)
        stored = self._stored(history, view)
        if garbage := [i for i in stored if i not in needed]:
            self._publish(purged_record(i, safe_point) for i in garbage)
            self._engine.purge(garbage)
        fail_point("gc.after_purge")
        kept = [i for i in stored if i in needed]
        begin = partial(self._engine.begin, garbage_to=safe_point)
        compaction = yield from self._each("gc", kept, lambda i: self._all_of(i, begin))
        return CollectionReport(chosen, forgotten, len(garbage), compaction)

    def _newest_ts(self, progress: Progress) -> TimeStamp:
        """The upper bound of safe points."""
        return progress.resolved_ts

    def _safe_point(self, view: View, progress: Progress, wanted: TimeStamp | None) -> SafePoint:
        newest_ts = progress.resolved_ts
        bounds = [
            SafePointLimit(newest_ts, "resolved_ts"),
            *pinned_bounds(self._leases, self._clock),
        ]
        if wanted is None:
            kept_ms = retention_ms(view)
            kept_ms = DEFAULT_RETENTION_MS if kept_ms is None else kept_ms
            bounds.append(retention_bound(newest_ts, kept_ms))
        return choose_safe_point(progress.oldest_ts, wanted, bounds)

    def _all_of(
        self,
        physical_id: PhysicalTableID,
        begin: Callable[[PhysicalTableID, Sequence[ScanColumn]], Piece | None],
    ) -> Pieces[CompactionReport]:
        """Piece after piece of a table. Rows and schema changes may be published in between."""
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
        """Do the same to all tables, also after one has failed of which the others know nothing."""
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
            told = [f"physical table {i}: {type(e).__name__}: {e}" for i, e in failed.items()]
            raise UpkeepError(verb, type(next(iter(failed.values()))).__name__, tuple(told))
        return report

    def _stored(
        self, history: SchemaHistory, view: View
    ) -> dict[PhysicalTableID, Sequence[ScanColumn]]:
        """The physical tables that the engine has rows of, with all columns they have ever had."""
        columns = StoredColumns(history)
        held = set(self._engine.tables(view))
        return {i: columns.of(i) for i in columns.physical_ids if i in held}

    def columns_now(self, physical_id: PhysicalTableID) -> Sequence[ScanColumn]:
        """All columns that rows of a physical table have had, up to the newest publication."""
        sums = self._manifest.head().sums
        state = tuple(sums.get(kind) for kind in SCHEMA_KINDS)
        if self._columns is None or self._columns[0] != state:
            history = schema_history(self._engine.read(SCHEMA_KINDS))
            if history is None:
                raise InternalError("there are rows, and no schema history")
            self._columns = state, StoredColumns(history)
        return self._columns[1].of(physical_id)

    def _publish(self, puts: Iterable[Record], deletes: Iterable[tuple[str, str]] = ()) -> None:
        self._engine.publish(Publication((), ManifestChange(tuple(puts), tuple(deletes))))
