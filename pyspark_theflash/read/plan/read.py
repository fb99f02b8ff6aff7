"""Execution of the tasks of a plan, in any process."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import pyarrow as pa

from pyspark_theflash.base.budget import DEFAULT_BUDGET, Budget
from pyspark_theflash.base.clock import Clock, SystemClock
from pyspark_theflash.base.errors import CorruptionError, StoreMismatchError, StoreNotFoundError
from pyspark_theflash.base.fs import FileSystem, LocalFileSystem
from pyspark_theflash.base.types import ColumnID
from pyspark_theflash.read.plan.metadata import stated_rows
from pyspark_theflash.read.plan.scan_plan import ScanTask, native_strings
from pyspark_theflash.read.pushdown.pushdown import shown_column
from pyspark_theflash.read.pushdown.top import LEADERS_MAX, FirstRows
from pyspark_theflash.read.pushdown.value import Mask
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.storage.engine.api import Bounds, EngineReader, RegionScan, ScanSpec
from pyspark_theflash.storage.mvcc.filter import filter_rows
from pyspark_theflash.storage.mvcc.project import ScanColumn, batch_of
from pyspark_theflash.storage.mvcc.version import HANDLE, column_name
from pyspark_theflash.storage.store.folder import IDENTITY_KIND, StoreIdentity, open_manifest
from pyspark_theflash.storage.store.latch.lease import LeaseTable, ReadLease
from pyspark_theflash.storage.store.manifest import Manifest
from pyspark_theflash.tidb.expression.allowance import arrow_limits
from pyspark_theflash.tidb.schema.model import ROWID_COLUMN, ColumnInfo

Over = Callable[[EngineReader], EngineReader]
"""Function from the reader of a store's files to the reader of all rows."""


def no_more_than_stored(stored: EngineReader) -> EngineReader:
    """Return the reader of the files: an `Over` for stores without a replica."""
    return stored


def read_task(
    task: ScanTask,
    *,
    fs: FileSystem | None = None,
    clock: Clock | None = None,
    budget: Budget = DEFAULT_BUDGET,
    over: Over = no_more_than_stored,
) -> Iterator[pa.RecordBatch]:
    """Yield the results of a task, in batches of bounded size with schema `task.schema`.

    Renews the plan's read latch while batches are consumed. `budget` limits memory and time.

    Raises:
        StoreMismatchError: The store at the task's path is not the one it was planned on.
        LeaseExpiredError: The read latch has expired, so files of the plan may have been removed.
        CorruptionError: Stored data fails its checksum.
        UnrepresentableValueError: A date does not exist, and the task does not say how to return
            it.
        SqlMemoryError: Conditions or pushed operations need more memory than the budget.
    """
    fs, clock = fs or LocalFileSystem(), clock or SystemClock()
    path = Path(task.store_path)
    with closing(open_store(task, fs)) as manifest:
        identity = StoreIdentity.of(manifest.read([IDENTITY_KIND]))
        keeper = LeaseKeeper(LeaseTable(manifest, clock), task.lease, clock, budget)
        keeper.renew()
        with closing(over(registry.open_reader(path, identity, fs, clock))) as engine:
            yield from read_regions(engine, task, [task.region], keeper)


def as_dictionaries(task: ScanTask, engine: EngineReader) -> ScanTask:
    """Return the task with string columns as dictionaries where most rows are stored so.

    Raises `CorruptionError`.
    """
    columns = native_strings(task.output, task.presentation)
    if task.pushed.aggregation is not None or task.stated is not None or not columns:
        return task
    stored = [column for column in task.columns if column.id in columns]
    return task.with_dictionaries(engine.repeating(task.region, stored))


def read_regions(
    engine: EngineReader, task: ScanTask, regions: Iterable[RegionScan], keeper: "LeaseKeeper"
) -> Iterator[pa.RecordBatch]:
    """Yield the combined results of `regions`, which replace that of a task whose store is open.

    See `read_task`.
    """
    condition = _TaskCondition(task, keeper) if _TaskCondition.has_any(task) else None
    rows = (b for r in regions for b in _rows(engine, replace(task, region=r), keeper, condition))
    return task.pushed.of(rows, task.rows_schema, task.shown, keeper.budget)


def _rows(
    engine: EngineReader, task: ScanTask, keeper: "LeaseKeeper", condition: "_TaskCondition | None"
) -> Iterator[pa.RecordBatch]:
    """Yield the rows that pass the task's conditions, in the returned form."""
    if condition is not None:
        condition.begin(task)
    try:
        unread = _unread(engine, task)
        for batch in _stored(engine, task, condition, unread, keeper.budget):
            if batch.num_rows:
                with arrow_limits("scan"):
                    shown = _presented(batch, task, unread)
                yield shown
            keeper.keep()
    except CorruptionError:
        # After a pause longer than the lease, files may be removed rather than damaged.
        keeper.renew()
        raise


def _stored(
    engine: EngineReader,
    task: ScanTask,
    condition: "_TaskCondition | None",
    unread: Collection[ColumnID],
    budget: Budget,
) -> Iterator[pa.RecordBatch]:
    if task.stated is not None:
        batches = stated_rows(task.stated)
        if condition is None:
            return batches
        return (filter_rows(batch, condition.rows(batch)) for batch in batches)
    return engine.scan(
        task.region,
        ScanSpec(
            [column for column in task.stored_output if column.id not in unread],
            task.snapshot_ts,
            with_handle=ROWID_COLUMN in task.output,
            dictionaries=task.dictionaries,
            as_stored=task.pushed.takes_dictionaries,
            condition=condition,
            parts=_TaskParts(task, budget) if condition is not None else None,
            budget=budget,
        ),
    )


def _unread(engine: EngineReader, task: ScanTask) -> Collection[ColumnID]:
    """Return columns of which only the validity is read, and that have no NULLs in the region."""
    aggregation = task.pushed.aggregation
    if aggregation is None or task.stated is not None:
        return ()
    counted = {
        column.id
        for column in task.output
        if column.name.lower() in aggregation.counted and task.presentation.keeps(column.type)
    }
    columns = [column for column in task.stored_output if column.id in counted]
    return engine.never_null(task.region, columns) if columns else ()


class _TaskCondition:
    """A task's conditions for the engine: TiDB's WHERE first, then Spark's filter on the rest.

    With a sort order, rows behind enough earlier ones are filtered out too. It also renews the
    latch, since a scan that returns no rows would not.
    """

    def __init__(self, task: ScanTask, keeper: "LeaseKeeper") -> None:
        self._condition, self._filter, self._keeper = task.condition, task.filter, keeper
        self._presentation = task.presentation
        self._keys = _late_keys(task)
        order, limit = task.pushed.order, task.pushed.limit
        self._leaders = FirstRows(order, limit, keeper.budget) if self._keys else None
        read = [each.columns for each in (task.condition, task.filter) if each is not None]
        self._ids = {column.id for columns in (*read, self._keys) for column in columns}
        self.columns: Sequence[ScanColumn] = ()
        """Stored columns that the conditions read in the current region."""

    def begin(self, task: ScanTask) -> None:
        """Start on the task's region."""
        self.columns = [column for column in task.columns if column.id in self._ids]

    @staticmethod
    def has_any(task: ScanTask) -> bool:
        """Return whether the task has conditions."""
        return bool(task.condition is not None or task.filter is not None or _late_keys(task))

    def rows(self, batch: pa.RecordBatch, visible: Mask | None = None) -> Mask:
        self._keeper.keep()
        mask = np.ones(batch.num_rows, np.bool_) if visible is None else visible.copy()
        if self._condition is not None and mask.any():
            mask[mask] = self._condition.rows(filter_rows(batch, mask), self._keeper.budget)
        if self._filter is not None and mask.any():
            mask = self._filter.rows(batch, mask, self._keeper.budget)
        if self._leaders is not None and mask.any():
            mask[mask] = self._leaders.rows(self._shown_keys(filter_rows(batch, mask)))
        return mask

    def _shown_keys(self, batch: pa.RecordBatch) -> pa.Table:
        stored = ((c, batch.column(column_name(c.id))) for c in self._keys)
        return pa.table({c.name: shown_column(v, c, self._presentation) for c, v in stored})


class _TaskParts:
    """The conditions of a task, for engines that skip parts of the region."""

    def __init__(self, task: ScanTask, budget: Budget) -> None:
        self._conditions = [each for each in (task.condition, task.filter) if each is not None]
        ids = {column.id for each in self._conditions for column in each.columns}
        self.columns: Final = [column for column in task.columns if column.id in ids]
        self._budget = budget

    @property
    def sought(self) -> Mapping[ColumnID, Sequence[int | str | bytes]]:
        return {id: values for each in self._conditions for id, values in each.sought.items()}

    def possible(self, bounds: Bounds) -> Mask:
        mask = np.ones(bounds.parts, np.bool_)
        for each in self._conditions:
            mask &= each.possible(bounds, self._budget)
        return mask


def _late_keys(task: ScanTask) -> Sequence[ColumnInfo]:
    """Return the sort columns if reading them before the other columns pays off."""
    if not task.pushed.order or task.pushed.limit > LEADERS_MAX:
        return ()
    columns = {column.name.lower(): column for column in task.output}
    keys = [columns[name.lower()] for name in task.pushed.more_columns]
    return () if ROWID_COLUMN in keys or len(keys) == len(task.output) else keys


def open_store(task: ScanTask, fs: FileSystem) -> Manifest:
    """Open the manifest of the task's store. Raises `StoreMismatchError`."""
    try:
        manifest = open_manifest(Path(task.store_path), fs)
    except StoreNotFoundError as error:
        raise StoreMismatchError(
            task.store_path,
            "no store at this path; an embedded store can only be read on the machine that has it",
        ) from error
    with ExitStack() as undo:
        undo.callback(manifest.close)
        if StoreIdentity.of(manifest.read([IDENTITY_KIND])).store_id != task.store_id:
            raise StoreMismatchError(task.store_path, "a different store is at this path")
        undo.pop_all()
    return manifest


class Leases(Protocol):
    """The part of `storage.store.latch.lease.LeaseTable` that is used here."""

    def renew(self, lease: ReadLease) -> None: ...


class LeaseKeeper:
    """Renews a lease whenever a third of its time has passed since it was acquired or renewed."""

    def __init__(
        self,
        leases: Leases,
        lease: ReadLease,
        clock: Clock,
        budget: Budget = DEFAULT_BUDGET,
    ) -> None:
        """Keep `lease`. The `check` of `budget` is called as often as `keep`, and may raise."""
        self._leases, self._lease, self._clock, self._check = leases, lease, clock, budget.check
        self.budget: Final = Budget(budget.memory_bytes, self.keep)
        """The budget of computations, which keep the lease too."""
        self._due_ms = self._next_ms()

    def keep(self) -> None:
        """Renew the lease if it is due; call it often."""
        self._check()
        if self._clock.boottime_ms() >= self._due_ms:
            self.renew()

    def renew(self) -> None:
        """Renew the lease now. Raises `LeaseExpiredError`."""
        self._leases.renew(self._lease)
        self._due_ms = self._next_ms()

    def _next_ms(self) -> int:
        return self._clock.boottime_ms() + self._lease.ttl_ms // 3


def _presented(
    batch: pa.RecordBatch, task: ScanTask, unread: Collection[ColumnID]
) -> pa.RecordBatch:
    """Return the batch with the output columns in the returned form.

    Columns that were not read get arbitrary values other than NULL.
    """
    arrays, aggregation = [], task.pushed.aggregation
    # Decimals that are only computed with stay narrow.
    groups = aggregation.columns_grouped_by if aggregation is not None else ()
    for column in task.output:
        if column.id in unread:
            arrays.append(pa.array(np.zeros(batch.num_rows, np.uint8)))
            continue
        values = batch.column(HANDLE if column == ROWID_COLUMN else column_name(column.id))
        narrow = aggregation is not None and column.name.lower() not in groups
        arrays.append(shown_column(values, column, task.presentation, narrow=narrow))
    return batch_of([column.name for column in task.output], arrays, batch.num_rows)
