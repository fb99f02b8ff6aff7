"""Snapshots: reads of a store at one timestamp.

A `ReadSnapshot` fixes the timestamp, checks that the store can be read there, and holds the read
latch that retains the versions. All tables are read at the same timestamp, so joins are consistent.

    with open_snapshot(Path("store"), ts) as snapshot:
        for batch in snapshot.scan("db.table"):
            ...
"""

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pyarrow as pa

from pyspark_theflash.base.budget import DEFAULT_BUDGET, Budget
from pyspark_theflash.base.clock import Clock, SystemClock
from pyspark_theflash.base.errors import (
    FeedConflictError,
    PurgedError,
    PurgedRangeError,
    TableNotFoundError,
    TableNotReplicatedError,
    UnsupportedError,
)
from pyspark_theflash.base.fs import FileSystem, LocalFileSystem
from pyspark_theflash.base.read_options import timestamp_option
from pyspark_theflash.base.timestamp import AnyTimestamp, shown
from pyspark_theflash.base.types import ColumnID, PhysicalTableID, RegionID, TableID, TimeStamp
from pyspark_theflash.read.plan.columns import named_columns, output_columns
from pyspark_theflash.read.plan.condition import Condition
from pyspark_theflash.read.plan.handles import HandleRanges, node_of
from pyspark_theflash.read.plan.hold import HeldBatches, LeaseHold
from pyspark_theflash.read.plan.metadata import (
    METADATA_ID,
    METADATA_REGION,
    METADATA_STATS,
    MetadataSource,
    metadata_rows,
    metadata_table,
    split_name,
)
from pyspark_theflash.read.plan.origin import FILES, Origin
from pyspark_theflash.read.plan.read import LeaseKeeper, read_regions
from pyspark_theflash.read.plan.scan_plan import ScanPlan, ScanTask, native_strings
from pyspark_theflash.read.present import NATIVE, TEXT, Presentation, as_texts
from pyspark_theflash.read.pushdown.pushdown import NOTHING, Filter, Pushdown
from pyspark_theflash.read.pushdown.term import column_names, distinct
from pyspark_theflash.read.sql.relation import Relation
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.storage.engine.api import RegionScan, RegionStats, ScanSpec
from pyspark_theflash.storage.mvcc.project import ScanColumn, scan_column
from pyspark_theflash.storage.store.catalog import feed_history
from pyspark_theflash.storage.store.command import handle_text
from pyspark_theflash.storage.store.coverage import COVERAGE_KINDS, Coverage, MissingRows
from pyspark_theflash.storage.store.feed import FEED_KIND, SCHEMA_KINDS, SIDE, records_of
from pyspark_theflash.storage.store.folder import IDENTITY_KIND, StoreIdentity, open_manifest
from pyspark_theflash.storage.store.gap import GAP_KIND, gaps_of
from pyspark_theflash.storage.store.latch.lease import LEASE_TTL_MS, LeaseTable, ReadLease
from pyspark_theflash.storage.store.manifest import View
from pyspark_theflash.storage.store.progress import PROGRESS_KIND
from pyspark_theflash.storage.store.purged import PURGED_KIND, purged_at
from pyspark_theflash.storage.store.raft_fed import RAFT_FED_KIND
from pyspark_theflash.storage.store.scope import SCOPE_KIND, ScopedTables, TableScope
from pyspark_theflash.tidb.codec.digest import TableDigest
from pyspark_theflash.tidb.schema.history import SchemaHistory, TableEvent
from pyspark_theflash.tidb.schema.model import ROWID_COLUMN, ColumnInfo, TableInfo
from pyspark_theflash.tidb.schema.owners import Owners

if TYPE_CHECKING:
    from pyspark_theflash.read.sql.session import QueryLimits
    from pyspark_theflash.read.sql.sql import SqlResult

_KINDS: Final = (
    *SCHEMA_KINDS,
    *COVERAGE_KINDS,
    FEED_KIND,
    SCOPE_KIND,
    PROGRESS_KIND,
    PURGED_KIND,
    GAP_KIND,
)


def open_snapshot(
    path: str | os.PathLike[str],
    snapshot_ts: AnyTimestamp | None = None,
    *,
    fs: FileSystem | None = None,
    clock: Clock | None = None,
) -> "ReadSnapshot":
    """Open a snapshot of the store at `path`; without a timestamp, at the newest readable one.

    Args:
        snapshot_ts: a TSO, a time with its zone as text, or a `datetime` with a time zone.

    Raises:
        OptionError: `snapshot_ts` is not a timestamp.
        StoreNotFoundError: There is no store.
        NotCaughtUpError: The store has not applied everything up to `snapshot_ts`.
        SnapshotTooOldError: `snapshot_ts` is before the store's oldest readable timestamp.
    """
    ts = None if snapshot_ts is None else timestamp_option("snapshot_ts", snapshot_ts)
    return ReadSnapshot(Path(path), ts, fs or LocalFileSystem(), clock or SystemClock())


class ReadSnapshot:
    """A store at `snapshot_ts`. A context manager: leaving it releases the read latch.

    With `lease`, an existing latch on the timestamp is extended and not released at the end.
    `origin` is the source of the rows, `identity` the caller for whom a latch is taken, `budget`
    that of each read.
    """

    snapshot_ts: Final[TimeStamp]
    lease: Final[ReadLease]

    def __init__(
        self,
        path: Path,
        snapshot_ts: TimeStamp | None,
        fs: FileSystem,
        clock: Clock,
        *,
        ttl_ms: int = LEASE_TTL_MS,
        lease: ReadLease | None = None,
        origin: Origin = FILES,
        identity: str = "",
        budget: Budget = DEFAULT_BUDGET,
    ) -> None:
        self._path, self._clock, self._origin = path, clock, origin
        is_borrowed = lease is not None
        with ExitStack() as undo:
            self._manifest = undo.enter_context(closing(open_manifest(path, fs)))
            head = self._manifest.read([IDENTITY_KIND, PROGRESS_KIND, RAFT_FED_KIND, FEED_KIND])
            self._identity = StoreIdentity.of(head)
            origin.check_store(head, str(path))
            self.snapshot_ts = origin.choose(head, snapshot_ts)
            # The latch precedes the view, so that all files of the view are pinned.
            self._leases = LeaseTable(self._manifest, clock)
            if lease is None:
                lease = self._leases.take(self.snapshot_ts, ttl_ms, identity=identity)
                undo.callback(self._leases.release, lease)
            else:
                self._leases.extend(lease)
            self.lease = lease
            self._keeper = LeaseKeeper(self._leases, lease, clock, budget)
            self._hold = LeaseHold(path, lease, fs, clock, is_borrowed=is_borrowed)
            self._engine = origin.reader(registry.open_reader(path, self._identity, fs, clock))
            undo.callback(self._engine.close)
            self._view = self._engine.read(_KINDS)
            # Garbage collection may have passed the timestamp before the latch was acquired.
            origin.confirm(self._view, lease)
            history = origin.history(self._view, self.snapshot_ts)
            # If the store was replaced, latch and view could belong to different stores.
            self._manifest.check_in_place()
            undo.pop_all()
        self._history = history or SchemaHistory(self.snapshot_ts, self.snapshot_ts, (), ())
        self._views: dict[TableID, View] = {}
        self._scope = ScopedTables(TableScope.of(self._view) or TableScope(), self._history)
        self._coverage = Coverage(self._view, self._history)
        self._owners = Owners(self._history)

    def tables(self) -> Sequence[TableInfo]:
        """Return the replicated tables that exist at `snapshot_ts`."""
        return [event.table for event in self.listed() if event.table is not None]

    def listed(self) -> Sequence[TableEvent]:
        """Return the events of the same tables, without parsing their definitions."""
        events = self._history.listed_at(self.snapshot_ts)
        return [event for event in events if self._scope.contains(event.table_id)]

    def lacking(self, table: TableEvent) -> MissingRows | None:
        """Return the error that reading a table raises because of missing rows, or None."""
        return self._coverage.lacking(table, self.snapshot_ts)

    def table(self, name: str) -> TableInfo:
        """Return the table `db.table` as of `snapshot_ts`.

        Or a table about it, such as `db.table$files`: see `read.plan.metadata`.

        Raises:
            TableNotFoundError: There is no such table.
            TableNotReplicatedError: The store's scope excludes the table.
            UnsupportedError: It is a view or a sequence.
            PurgedError: It was dropped, collected as garbage, and then recovered.
            NotCaughtUpError, SnapshotTooOldError: Its feed cannot be read then, or the table was
                loaded later; other tables can.
            FeedConflictError: A stream and the API both have a table of that name.
            TableNotLoadedError: It has rows from before the stream, and no base was loaded.
            TableSetAsideError: Its contents at the timestamp are not known.
        """
        about = None
        try:
            table = self._history.table_by_name(name, self.snapshot_ts)
        except TableNotFoundError:
            if (about := split_name(name)) is None:
                raise
            # Metadata tables have none, or there would be one for each sequence of suffixes.
            table = self._history.table_by_name(about[0], self.snapshot_ts)
        self._check(table)
        return table if about is None else metadata_table(table.db, table.name, about[1])

    def _check(self, table: TableInfo) -> None:
        """Raise the error of a table that cannot be read; see `table`."""
        self._check_name(table)
        if not self._scope.contains(table.id):
            raise TableNotReplicatedError(table.full_name)
        if not table.holds_rows:
            raise UnsupportedError("reading a view or a sequence", table.full_name)
        self._origin.check_table(self._view, table, self.snapshot_ts)
        self._coverage.check(table, self.snapshot_ts)
        for physical_id in table.physical_ids:
            if (safe_point := purged_at(self._view, physical_id)) is not None:
                raise PurgedError(table.full_name, safe_point)

    def _check_name(self, table: TableInfo) -> None:
        """Raise `FeedConflictError` if a stream and the API both have a table of this name."""
        side = feed_history(self._view, SIDE)
        if side is None or records_of(self._view, table.id) is SIDE:
            return
        with suppress(TableNotFoundError):
            other = side.table_by_name(table.full_name, self.snapshot_ts)
            reason = f"is the name of two tables: {table.id} of a stream and {other.id} of the API"
            raise FeedConflictError(table.full_name, reason)

    def plan(
        self,
        name: str,
        columns: Sequence[str] | None = None,
        presentation: Presentation = NATIVE,
        where: str | None = None,
        regions: Sequence[RegionScan] | None = None,
        pushed: Pushdown = NOTHING,
    ) -> ScanPlan:
        """Plan a scan.

        Args:
            name: `db.table`.
            columns: names in output order, also `_tidb_rowid` if the table has one. None: those of
                `SELECT *`, or with an aggregation those that it reads.
            presentation: the returned form.
            where: an expression, evaluated as in TiDB; only rows for which it is true are returned.
            regions: the regions to read, from an earlier plan of the same scan under the same
                latch.
                None: all.
            pushed: operations on the rows, of one region or of several.

        Raises:
            TableNotFoundError, ColumnNotFoundError: There is no such table or column at
                `snapshot_ts`.
            OptionError: `where` is not an expression, or one that is not supported.
            UnsupportedError: A pushed operation could give other results than Spark.
            StoreReplacedError: The store was replaced by another one.
            PurgedRangeError: Rows in the range of the scan were purged.
        """
        self._manifest.check_in_place()
        table = self.table(name)
        chosen, shown = output_columns(table, columns, pushed)
        condition = None if where is None else Condition.parse(where, table, self._keeper.budget)
        filter = None
        if pushed.filter is not None:
            filtered = named_columns(table, distinct(list(column_names(pushed.filter))))
            filter = Filter.bound(pushed.filter, filtered, presentation)
        more = [each.columns for each in (condition, filter) if each is not None]
        read = dict.fromkeys([*chosen, *chain.from_iterable(more)])
        usual, exchanged = self._scan_columns(table, [c for c in read if c is not ROWID_COLUMN])
        stated = self._stated(table) if table.id == METADATA_ID else None
        tasks = tuple(
            ScanTask(
                str(self._path.absolute()),
                self._identity.store_id,
                self.snapshot_ts,
                self.lease,
                region,
                chosen,
                usual,
                presentation,
                condition,
                filter=filter,
                pushed=pushed,
                shown=shown,
                exchanged=exchanged,
                stated=stated,
            )
            for region in (self._regions(table, condition, filter) if regions is None else regions)
        )
        plan = ScanPlan(
            table, self.snapshot_ts, chosen, presentation, tasks, pushed=pushed, shown=shown
        )
        pushed.check(plan.rows_schema)
        return plan

    def _scan_columns(
        self, table: TableInfo, infos: Sequence[ColumnInfo]
    ) -> tuple[tuple[ScanColumn, ...], Mapping[PhysicalTableID, tuple[ScanColumn, ...]]]:
        """Return how to read columns, and separately for physical tables with another past."""
        usual = self._owners.past_of(table, self.snapshot_ts)
        exchanged = {}
        for physical_id in table.physical_ids:
            past = self._owners.past(table, physical_id, self.snapshot_ts)
            if past.moved_from or any(owner.id != table.id for owner in past.tables):
                past = replace(past, has_base=self._coverage.is_from_folder(past.tables[0]))
                exchanged[physical_id] = tuple(scan_column(table, c, past) for c in infos)
        return tuple(scan_column(table, c, usual) for c in infos), exchanged

    def scan(
        self,
        name: str,
        columns: Sequence[str] | None = None,
        presentation: Presentation = NATIVE,
        where: str | None = None,
    ) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a table, in no particular order; see `plan`.

        Raises:
            UnrepresentableValueError: A date does not exist, and `presentation` does not allow for
                it.
        """
        plan = self.plan(name, columns, presentation, where)
        yield from self._results(plan.tasks, self._keeper)

    def reader(
        self,
        name: str,
        columns: Sequence[str] | None = None,
        presentation: Presentation = NATIVE,
        where: str | None = None,
    ) -> Relation:
        """Return the same rows as an Arrow stream for DuckDB, Polars, pandas; see `scan`.

        Each stream holds the read latch until it ends or is closed, even if the snapshot is closed
        before. A stream that is started after that raises `LeaseExpiredError`.
        """
        plan = self.plan(name, columns, presentation, where)
        return Relation(plan.schema, lambda: self.held(plan))

    def held(self, plan: ScanPlan) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a plan of this snapshot, in any thread; see `reader`."""
        return HeldBatches(self._hold, self._results(plan.tasks, self._hold.keeper))

    def repeating(self, plan: ScanPlan) -> Collection[ColumnID]:
        """Return the string columns of a plan that are mostly stored as dictionaries.

        The largest region decides.
        """
        native = native_strings(plan.columns, plan.presentation)
        regions = [task.region for task in plan.tasks]
        if not native or not regions or plan.table.id == METADATA_ID:
            return ()
        stats = self.region_stats(plan.table)
        largest = max(regions, key=lambda r: stats[r.physical_id, r.region_id].rows)
        columns = [c for c in plan.tasks[0].columns if c.id in native]
        return self._engine.repeating(largest, columns)

    def sql(
        self,
        text: str,
        parameters: Sequence[object] = (),
        *,
        presentation: Presentation = NATIVE,
        limits: "QueryLimits | None" = None,
    ) -> "SqlResult":
        """Run a query over the tables of the snapshot, named `db.table`; see `read.sql.sql`.

        The SQL is DuckDB's: strings compare by bytes, ENUM, SET and JSON are strings, BIT is
        binary, TIME an interval, and the average of decimals a double.

        With `limits`, the query runs in a process of its own, which is killed when a limit is
        reached. Without, it runs in this process, where DuckDB's own limits do not hold for
        constants that it evaluates while it plans.

        Raises:
            SqlMemoryError, SqlTimeoutError: A limit was reached.
            MissingExtraError: DuckDB is not installed.
            SqlError: The text is not valid SQL, or the query fails.
            UnsupportedError: The statement does more than read.
            TableNotFoundError: There is no such table at `snapshot_ts`.
        """
        # Imported here because loading these takes longer than most commands run.
        from pyspark_theflash.read.plan.sql_tables import SnapshotTables
        from pyspark_theflash.read.sql.process import run_confined
        from pyspark_theflash.read.sql.sql import run_sql

        tables = SnapshotTables(self, presentation)
        if limits is None:
            return run_sql(text, tables, parameters, None, self._clock)
        return run_confined(text, tables, parameters, limits, self._clock)

    def _results(self, tasks: Sequence[ScanTask], keeper: LeaseKeeper) -> Iterator[pa.RecordBatch]:
        """Yield the combined results of tasks that differ in their regions only."""
        if tasks:
            regions = [task.region for task in tasks]
            yield from read_regions(self._engine, tasks[0], regions, keeper)

    def texts(self, plan: ScanPlan) -> Iterator[list[pa.Array]]:
        """Yield the columns of the batches of a plan of this snapshot as TiDB's text."""
        as_text = [replace(task, presentation=TEXT) for task in plan.tasks]
        for batch in self._results(as_text, self._keeper):
            yield batch.columns

    def handles_and_texts(
        self, table: TableInfo
    ) -> Iterator[tuple[PhysicalTableID, pa.Array, list[pa.Array]]]:
        """Yield batches of rows: physical table, handles, and the columns of `SELECT *` as text."""
        infos = table.public_columns
        usual, exchanged = self._scan_columns(table, infos)
        for region in self._regions(table, None, None):
            columns = exchanged.get(region.physical_id, usual)
            spec = ScanSpec(columns, self.snapshot_ts, with_handle=True)
            for batch in self._engine.scan(region, spec):
                self._keeper.keep()
                handles, *values = batch.columns
                yield region.physical_id, handles, as_texts(values, infos)

    def digest(self, name: str) -> TableDigest:
        """Return row count and order-independent checksum of a table, without `_tidb_rowid`."""
        digest = TableDigest()
        for texts in self.texts(self.plan(name)):
            digest.update(texts)
        return digest

    def _regions(
        self, table: TableInfo, condition: Condition | None, filter: Filter | None
    ) -> Iterator[RegionScan]:
        """Yield the regions of all partitions that may have rows that pass both conditions."""
        if table.id == METADATA_ID:
            yield METADATA_REGION
            return
        conditions = [] if condition is None else [condition.expression.tree]
        conditions += [] if filter is None else [node_of(filter.term)]
        ranges, view = HandleRanges(conditions, table), self._view_of(table)
        for physical_id in table.physical_ids:
            self._check_no_gap(table, physical_id, ranges)
            stats = self._engine.regions(view, physical_id)
            selected = {r.region_id for r in stats if ranges.reach(r.start, r.end)}
            for region in self._engine.plan(view, physical_id):
                if region.region_id in selected:
                    yield region

    def _check_no_gap(
        self, table: TableInfo, physical_id: PhysicalTableID, ranges: HandleRanges
    ) -> None:
        """Raise `PurgedRangeError` if rows in the ranges were purged."""
        for gap in gaps_of(self._view, physical_id):
            if ranges.reach(gap.start, gap.end):
                bounds = ("" if b is None else handle_text(b) for b in (gap.start, gap.end))
                raise PurgedRangeError(table.full_name, physical_id, *bounds)

    def region_stats(
        self, table: TableInfo
    ) -> Mapping[tuple[PhysicalTableID, RegionID], RegionStats]:
        """Return the storage statistics of the regions of all partitions of a table."""
        if table.id == METADATA_ID:
            return {(METADATA_REGION.physical_id, METADATA_REGION.region_id): METADATA_STATS}
        view = self._view_of(table)
        return {
            (physical_id, stats.region_id): stats
            for physical_id in table.physical_ids
            for stats in self._engine.regions(view, physical_id)
        }

    def _view_of(self, table: TableInfo) -> View:
        """Return the view to plan scans of a table on; the same for all its scans."""
        if table.id not in self._views:
            self._views[table.id] = self._origin.view(table, self._view, self._engine, self.lease)
        return self._views[table.id]

    def _stated(self, metadata: TableInfo) -> bytes:
        """Return the rows of a metadata table."""
        source = MetadataSource(
            self._engine, self._view, self._history, self._leases, self._clock, self._origin
        )
        name, kind = split_name(metadata.full_name) or ("", "")
        return metadata_rows(source, self.table(name), kind)

    def latches_of(self, identity: str, most: int) -> int:
        """Return the number of a caller's read latches, exactly only if it is above `most`."""
        return len(self._leases.ids_of(identity, most))

    def keep_lease(self) -> None:
        """Leave the read latch to others: closing the snapshot does not release it."""
        self._hold.lend()

    def detach(self) -> None:
        """Close the snapshot without releasing its read latch, which its tasks renew."""
        self._engine.close()
        self._manifest.close()

    def __repr__(self) -> str:
        return f"<snapshot of {self._path} at {shown(self.snapshot_ts)}>"

    def __enter__(self) -> "ReadSnapshot":
        return self

    def __exit__(self, *_: object) -> None:
        self._hold.release()
        self.detach()
