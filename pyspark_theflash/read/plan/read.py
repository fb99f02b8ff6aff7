"""Running one task of a plan, on whatever machine and in whatever process it landed."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa

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
from pyspark_theflash.storage.engine.api import EngineReader, RegionScan, ScanSpec
from pyspark_theflash.storage.mvcc.filter import filter_rows
from pyspark_theflash.storage.mvcc.project import ScanColumn, batch_of
from pyspark_theflash.storage.mvcc.version import HANDLE, column_name
from pyspark_theflash.storage.store.folder import IDENTITY_KIND, StoreIdentity, open_manifest
from pyspark_theflash.storage.store.latch.lease import LeaseTable, ReadLease
from pyspark_theflash.storage.store.manifest import Manifest
from pyspark_theflash.tidb.schema.model import ROWID_COLUMN, ColumnInfo

Over = Callable[[EngineReader], EngineReader]
"""(what a store's files have) -> all there is."""


def no_more_than_stored(stored: EngineReader) -> EngineReader:
    """An `Over`: the files have all there is."""
    return stored


def read_task(
    task: ScanTask,
    *,
    fs: FileSystem | None = None,
    clock: Clock | None = None,
    check: Callable[[], None] | None = None,
    over: Over = no_more_than_stored,
) -> Iterator[pa.RecordBatch]:
    """The rows of a task, or what is made of them, in bounded batches of `task.schema`.

    Keeps the plan's read latch alive as long as batches are taken. `check` is called often, and
    may raise.

    Raises:
        StoreMismatchError: the store at the task's path is not the one it was planned on.
        LeaseExpiredError: the read latch has run out, so files of the plan may be gone.
        CorruptionError: stored data fails its checksum.
        UnrepresentableValueError: a date that no calendar has, and the task does not say what then.
    """
    fs, clock = fs or LocalFileSystem(), clock or SystemClock()
    path = Path(task.store_path)
    with closing(open_store(task, fs)) as manifest:
        identity = StoreIdentity.of(manifest.read([IDENTITY_KIND]))
        keeper = LeaseKeeper(LeaseTable(manifest, clock), task.lease, clock, check)
        keeper.renew()
        with closing(over(registry.open_reader(path, identity, fs, clock))) as engine:
            yield from read_region(engine, task, keeper)


def as_dictionaries(task: ScanTask, engine: EngineReader) -> ScanTask:
    """The same rows with those strings as dictionaries that cost less so, as most are stored.

    Raises `CorruptionError`.
    """
    columns = native_strings(task.output, task.presentation)
    if task.pushed.aggregation is not None or task.stated is not None or not columns:
        return task
    stored = [column for column in task.columns if column.id in columns]
    return task.with_dictionaries(engine.repeating(task.region, stored))


def read_region(
    engine: EngineReader, task: ScanTask, keeper: "LeaseRenewer"
) -> Iterator[pa.RecordBatch]:
    """The rows of a task whose store is open; see `read_task`."""
    return read_regions(engine, task, [task.region], keeper)


def read_regions(
    engine: EngineReader, task: ScanTask, regions: Iterable[RegionScan], keeper: "LeaseRenewer"
) -> Iterator[pa.RecordBatch]:
    """The rows of these regions in place of the task's, or what is made of all of them."""
    condition = _TaskCondition(task, keeper) if _TaskCondition.has_any(task) else None
    rows = (b for r in regions for b in _rows(engine, replace(task, region=r), keeper, condition))
    return task.pushed.of(rows, task.rows_schema, task.shown)


def _rows(
    engine: EngineReader, task: ScanTask, keeper: "LeaseRenewer", condition: "_TaskCondition | None"
) -> Iterator[pa.RecordBatch]:
    """The rows that pass the task's conditions, as they are handed out."""
    if condition is not None:
        condition.begin(task)
    try:
        unread = _unread(engine, task)
        for batch in _stored(engine, task, condition, unread):
            if batch.num_rows:
                yield _presented(batch, task, unread)
            keeper.keep()
    except CorruptionError:
        # Who was stopped for longer than the latch lasts finds no damage, but files gone.
        keeper.renew()
        raise


def _stored(
    engine: EngineReader,
    task: ScanTask,
    condition: "_TaskCondition | None",
    unread: Collection[ColumnID],
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
        ),
    )


def _unread(engine: EngineReader, task: ScanTask) -> Collection[ColumnID]:
    """Columns of which only the NULLs are asked for, and the region has none."""
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
    """A task's conditions as an engine asks for them: TiDB's first, then Spark's of what is left.

    Of first rows, those that are behind others seen before are left out, too. As long as nothing is
    kept, this is where the latch is, too.
    """

    def __init__(self, task: ScanTask, keeper: "LeaseRenewer") -> None:
        self._condition, self._filter, self._keeper = task.condition, task.filter, keeper
        self._presentation = task.presentation
        self._keys = _late_keys(task)
        self._leaders = FirstRows(task.pushed.order, task.pushed.limit) if self._keys else None
        read = [each.columns for each in (task.condition, task.filter) if each is not None]
        self._ids = {column.id for columns in (*read, self._keys) for column in columns}
        self.columns: Sequence[ScanColumn] = ()
        """How to read what they look at in the region that comes next."""

    def begin(self, task: ScanTask) -> None:
        """Go on to the task's region."""
        self.columns = [column for column in task.columns if column.id in self._ids]

    @staticmethod
    def has_any(task: ScanTask) -> bool:
        """Whether the task has such conditions."""
        return bool(task.condition is not None or task.filter is not None or _late_keys(task))

    def rows(self, batch: pa.RecordBatch, visible: Mask | None = None) -> Mask:
        self._keeper.keep()
        kept = np.ones(batch.num_rows, np.bool_) if visible is None else visible.copy()
        if self._condition is not None and kept.any():
            kept[kept] = self._condition.rows(filter_rows(batch, kept))
        if self._filter is not None and kept.any():
            kept = self._filter.rows(batch, kept)
        if self._leaders is not None and kept.any():
            kept[kept] = self._leaders.rows(self._shown_keys(filter_rows(batch, kept)))
        return kept

    def _shown_keys(self, batch: pa.RecordBatch) -> pa.Table:
        stored = ((c, batch.column(column_name(c.id))) for c in self._keys)
        return pa.table({c.name: shown_column(v, c, self._presentation) for c, v in stored})


def _late_keys(task: ScanTask) -> Sequence[ColumnInfo]:
    """What first rows are sorted by, where it pays to look at that before the rest of a row."""
    if not task.pushed.order or task.pushed.limit > LEADERS_MAX:
        return ()
    known = {column.name.lower(): column for column in task.output}
    keys = [known[name.lower()] for name in task.pushed.more_columns]
    return () if ROWID_COLUMN in keys or len(keys) == len(task.output) else keys


def open_store(task: ScanTask, fs: FileSystem) -> Manifest:
    """The manifest of the task's store.

    Raises:
        StoreMismatchError: the store at the task's path is not the one it was planned on.
    """
    try:
        manifest = open_manifest(Path(task.store_path), fs)
    except StoreNotFoundError as error:
        raise StoreMismatchError(
            task.store_path,
            "there is no store here; an embedded store is read on the machine that holds it",
        ) from error
    with ExitStack() as undo:
        undo.callback(manifest.close)
        if StoreIdentity.of(manifest.read([IDENTITY_KIND])).store_id != task.store_id:
            raise StoreMismatchError(task.store_path, "it is another store")
        undo.pop_all()
    return manifest


class LeaseRenewer(Protocol):
    """What keeps a read latch alive while batches are read."""

    def keep(self) -> None:
        """Renew the lease if it is time; called after each batch."""

    def renew(self) -> None:
        """Renew the lease now. Raises `LeaseExpiredError`."""


class Leases(Protocol):
    """`storage.store.latch.lease.LeaseTable`, as far as it is needed here."""

    def renew(self, lease: ReadLease) -> None: ...


class LeaseKeeper:
    """Keeps a lease just taken or renewed: renews it whenever a third of its time is gone."""

    def __init__(
        self,
        leases: Leases,
        lease: ReadLease,
        clock: Clock,
        check: Callable[[], None] | None = None,
    ) -> None:
        """`check` is called as often as `keep`, and may raise."""
        self._leases, self._lease, self._clock, self._check = leases, lease, clock, check
        self._due_ms = self._next_ms()

    def keep(self) -> None:
        """Renew the lease if it is time; call it often."""
        if self._check is not None:
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
    """The batch with the columns the user knows, in the order and the form asked for.

    For those that were not read there is anything but NULLs.
    """
    arrays, aggregation = [], task.pushed.aggregation
    # Of what is only computed with, decimals are narrow.
    groups = aggregation.columns_grouped_by if aggregation is not None else ()
    for column in task.output:
        if column.id in unread:
            arrays.append(pa.array(np.zeros(batch.num_rows, np.uint8)))
            continue
        values = batch.column(HANDLE if column == ROWID_COLUMN else column_name(column.id))
        narrow = aggregation is not None and column.name.lower() not in groups
        arrays.append(shown_column(values, column, task.presentation, narrow=narrow))
    return batch_of([column.name for column in task.output], arrays, batch.num_rows)
