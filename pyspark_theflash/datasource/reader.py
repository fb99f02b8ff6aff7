"""The read of a table: planned on the driver, run on executors.

Spark plans a DataFrame's read once, at its first action, and keeps the partitions for all later
ones. The plan's read latch ends when nothing has been read for a while, and the files it pinned may
go; a task that comes later plans anew. Timestamp and rows are the same then, only the files differ.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import chain
from pathlib import Path

import pyarrow as pa
from pyspark.sql.datasource import DataSourceReader, Filter, InputPartition
from pyspark.sql.types import StructType

from pyspark_theflash.datasource.convert import arrow_schema, spark_batches
from pyspark_theflash.datasource.filters import prefilter
from pyspark_theflash.datasource.partition import ScanPartition
from pyspark_theflash.errors import LeaseExpiredError
from pyspark_theflash.planner.present import Presentation
from pyspark_theflash.planner.read import read_task
from pyspark_theflash.planner.scan_plan import ScanTask
from pyspark_theflash.planner.snapshot import open_snapshot
from pyspark_theflash.schema.model import ColumnInfo
from pyspark_theflash.types import RegionID, TimeStamp


class TheFlashReader(DataSourceReader):
    """A table as of a timestamp. Pickled to every task, so it holds values only."""

    def __init__(
        self,
        store: Path,
        table: str,
        snapshot_ts: TimeStamp,
        columns: Sequence[ColumnInfo],
        presentation: Presentation,
        schema: StructType,
    ) -> None:
        self._store, self._table, self._snapshot_ts = store, table, snapshot_ts
        self._columns, self._presentation, self._schema = columns, presentation, schema
        self._filters: tuple[Filter, ...] = ()

    @property
    def pushFilters(self) -> "_FilterPush":
        """Takes filters where Spark pushes them; reading works where it does not."""
        return _FilterPush(self)

    def take_filters(self, filters: Sequence[Filter]) -> None:
        """Leave out early what `filters`, which Spark applies as well, refuse."""
        self._filters = tuple(filters)

    def partitions(self) -> Sequence[InputPartition]:
        """One partition a task."""
        tasks = self._plan()
        return [ScanPartition(task, frozenset(_like(task, tasks))) for task in tasks]

    def read(self, partition: InputPartition) -> Iterator[pa.RecordBatch]:
        """The rows of a partition. Where there is none, Spark makes one itself, without a task."""
        if not isinstance(partition, ScanPartition):
            return
        schema = arrow_schema(self._schema)
        wanted = prefilter(self._filters, schema)
        for batch in self._scan(partition):
            for rows in spark_batches(batch, self._columns, schema):
                yield rows if wanted is None else rows.filter(wanted)

    def _scan(self, partition: ScanPartition) -> Iterator[pa.RecordBatch]:
        batches = read_task(partition.value)
        try:
            first = next(batches, None)
        except LeaseExpiredError:
            batches = read_task(self._plan_again(partition))
            first = next(batches, None)
        return iter(()) if first is None else chain([first], batches)

    def _plan(self) -> Sequence[ScanTask]:
        """The tasks, to which the read latch taken here is left."""
        with ExitStack() as latch:
            snapshot = latch.enter_context(open_snapshot(self._store, self._snapshot_ts))
            names = [column.name for column in self._columns]
            tasks = snapshot.plan(self._table, names, self._presentation).tasks
            if tasks:
                latch.pop_all()
                snapshot.detach()
        return tasks

    def _plan_again(self, partition: ScanPartition) -> ScanTask:
        """The partition's task in a plan of today.

        Raises:
            LeaseExpiredError: the regions have changed, and tasks of both plans do not mix.
        """
        planned = partition.value
        tasks = _like(planned, self._plan())
        if tasks.keys() != partition.regions:
            raise LeaseExpiredError(planned.lease.id, self._snapshot_ts)
        return tasks[planned.region.region_id]


class _FilterPush:
    """`pushFilters` for Spark's eyes: the base class's method, and ours when it is called.

    Spark refuses to read at all from a reader that overrides the method unless its pushdown is on,
    so that no filter is ignored unnoticed. Here none is: Spark keeps them all.
    """

    # Static, or looking it up would bind it, and Spark compare it with something else.
    __func__ = staticmethod(DataSourceReader.pushFilters)

    def __init__(self, reader: TheFlashReader) -> None:
        self._reader = reader

    def __call__(self, filters: list[Filter]) -> Iterable[Filter]:
        """Returns what Spark has to apply itself: everything."""
        self._reader.take_filters(filters)
        return filters


def _like(task: ScanTask, tasks: Sequence[ScanTask]) -> Mapping[RegionID, ScanTask]:
    """The tasks that read the same physical table as `task`, by region."""
    physical_id = task.region.physical_id
    return {t.region.region_id: t for t in tasks if t.region.physical_id == physical_id}
