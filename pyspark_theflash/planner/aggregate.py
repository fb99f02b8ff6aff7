"""Aggregates over planned scans: whole ones here, partial ones wherever a task lands.

The rows are those that the scan would give, in the form in which it would, but for TIME, which
comes as int64: microseconds.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from pyspark_theflash.clock import Clock, SystemClock
from pyspark_theflash.engine import registry
from pyspark_theflash.errors import ColumnNotFoundError
from pyspark_theflash.fs import FileSystem, LocalFileSystem
from pyspark_theflash.mvcc.project import batch_of
from pyspark_theflash.planner.hold import LeaseHold
from pyspark_theflash.planner.read import open_store, read_region
from pyspark_theflash.planner.scan_plan import ScanPlan, ScanTask
from pyspark_theflash.planner.sql import narrowed, sql_type
from pyspark_theflash.query.aggregate import AggregateRequest
from pyspark_theflash.query.connection import Limits
from pyspark_theflash.query.partial import PartialAggregation
from pyspark_theflash.store.folder import IDENTITY_KIND, StoreIdentity

if TYPE_CHECKING:
    from pyspark_theflash.planner.snapshot import Snapshot

Read = Callable[[ScanTask], Iterator[pa.RecordBatch]]


class TaskTable:
    """The rows of one task; `query.lazy.SqlTable`."""

    def __init__(self, task: ScanTask, schema: pa.Schema, read: Read) -> None:
        self._task, self._schema, self._read = task, schema, read

    @property
    def schema(self) -> pa.Schema:
        return self._schema

    def read(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        types = [self._schema.field(name).type for name in columns]
        for batch in self._read(self._task.narrowed(columns)):
            arrays = map(_numbered, batch.columns, types, columns)
            yield batch_of(columns, list(arrays), batch.num_rows)


def aggregate_plan(
    snapshot: "Snapshot",
    plan: ScanPlan,
    request: AggregateRequest,
    *,
    limits: Limits | None = None,
) -> pa.Table:
    """The aggregate of a plan made by the snapshot, with the columns `request.names`.

    Raises:
        MissingExtraError: DuckDB is not installed.
        ColumnNotFoundError: the plan lacks a column.
        UnsupportedError: what is asked for could not be answered exactly.
        SqlError, SqlMemoryError, SqlTimeoutError: it failed; see `PartialAggregation.of`.
        TheFlashError: what `Snapshot.scan` raises.
    """
    schema = _schema(plan.schema, request)
    if request.is_row_count:
        return _counts(request, sum(_rows(task, snapshot.held_task) for task in plan.tasks))
    with PartialAggregation(request, schema, limits) as aggregation:
        tables = (TaskTable(task, schema, snapshot.held_task) for task in plan.tasks)
        partials = [batch for table in tables for batch in aggregation.of(table)]
        if len(plan.tasks) == 1:
            return pa.Table.from_batches(partials, aggregation.schema)
        return aggregation.merge(partials)


def aggregate_task(
    task: ScanTask,
    request: AggregateRequest,
    *,
    limits: Limits | None = None,
    fs: FileSystem | None = None,
    clock: Clock | None = None,
) -> Iterator[pa.RecordBatch]:
    """The partial aggregate of a task, on whatever machine and in whatever process it landed.

    Without groups it is one row. Raises what `read_task` and `aggregate_plan` do.
    """
    fs, clock = fs or LocalFileSystem(), clock or SystemClock()
    path, schema = Path(task.store_path), _schema(task.schema, request)
    with closing(open_store(task, fs)) as manifest:
        identity = StoreIdentity.of(manifest.read([IDENTITY_KIND]))
    # The rows are read in the query engine's threads, while an open manifest would be in use here.
    hold = LeaseHold(path, task.lease, fs, clock)
    hold.acquire()
    try:
        hold.renew()
        with closing(registry.open_reader(path, identity, fs, clock)) as engine:

            def read(some: ScanTask) -> Iterator[pa.RecordBatch]:
                return read_region(engine, some, hold)

            if request.is_row_count:
                yield from _counts(request, _rows(task, read)).to_batches()
                return
            with PartialAggregation(request, schema, limits, clock) as aggregation:
                yield from aggregation.of(TaskTable(task, schema, read))
    finally:
        hold.let_go()


def _rows(task: ScanTask, read: Read) -> int:
    """How many; where nothing of the region is hidden, the manifest knows it."""
    return sum(batch.num_rows for batch in read(task.narrowed([])))


def _counts(request: AggregateRequest, rows: int) -> pa.Table:
    return pa.table({name: pa.array([rows], pa.int64()) for name in request.names})


def _schema(scanned: pa.Schema, request: AggregateRequest) -> pa.Schema:
    """Of what the request reads."""
    known = {field.name.lower(): field for field in scanned}
    for name in request.columns:
        if name.lower() not in known:
            raise ColumnNotFoundError("plan", name, tuple(scanned.names))
    fields = (known[name.lower()] for name in request.columns)
    return pa.schema([(f.name, _numbered_type(f.type)) for f in fields])


def _numbered_type(tp: pa.DataType) -> pa.DataType:
    return pa.int64() if pa.types.is_duration(tp) else sql_type(tp)


def _numbered(values: pa.Array, tp: pa.DataType, name: str) -> pa.Array:
    return values.view(tp) if pa.types.is_duration(values.type) else narrowed(values, tp, name)
