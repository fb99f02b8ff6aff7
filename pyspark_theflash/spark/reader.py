"""The read of a table: planned on the driver, run on executors.

Spark plans a DataFrame's read once, at its first action, and keeps the partitions for all later
ones. The plan's read latch ends when nothing has been read for a while, and the files it pinned may
go; a task that comes later plans anew. Timestamp and rows are the same then, only the files differ.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import pyarrow as pa
from pyspark.sql.datasource import DataSourceReader, InputPartition
from pyspark.sql.types import StructType

from pyspark_theflash.base.errors import LeaseExpiredError
from pyspark_theflash.base.types import RegionID, TimeStamp
from pyspark_theflash.read.plan.read import read_task
from pyspark_theflash.read.plan.scan_plan import ScanTask
from pyspark_theflash.read.plan.snapshot import open_snapshot
from pyspark_theflash.read.present import Presentation
from pyspark_theflash.spark.convert import arrow_schema, spark_batches
from pyspark_theflash.spark.partition import ScanPartition
from pyspark_theflash.tidb.schema.model import ColumnInfo


@dataclass(frozen=True, slots=True)
class ScanTarget:
    """What is read, with nothing left open; `columns` are those that the options ask for."""

    store: Path
    table: str
    snapshot_ts: TimeStamp
    columns: tuple[ColumnInfo, ...]
    presentation: Presentation
    where: str | None

    def reader(self, columns: Sequence[ColumnInfo], schema: StructType) -> DataSourceReader:
        """A reader of these columns."""
        return TheFlashReader(self, columns, schema)


class TheFlashReader(DataSourceReader):
    """A table as of a timestamp. Pickled to every task, so it holds values only.

    It takes no filters from Spark. Spark 4.2 keeps what a reader with filters has planned for the
    next query on the same DataFrame, whose filters are others: rows would be missing. Whoever wants
    rows left out early says so by the option `where`.
    """

    def __init__(
        self, target: ScanTarget, columns: Sequence[ColumnInfo], schema: StructType
    ) -> None:
        self._target, self._columns, self._schema = target, columns, schema

    def partitions(self) -> Sequence[InputPartition]:
        """One partition a task."""
        tasks = self._plan()
        return [ScanPartition(task, frozenset(_like(task, tasks))) for task in tasks]

    def read(self, partition: InputPartition) -> Iterator[pa.RecordBatch]:
        """The rows of a partition. Where there is none, Spark makes one itself, without a task."""
        if not isinstance(partition, ScanPartition):
            return
        schema = arrow_schema(self._schema)
        for batch in self._scan(partition):
            yield from spark_batches(batch, self._columns, schema)

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
            target = self._target
            snapshot = latch.enter_context(open_snapshot(target.store, target.snapshot_ts))
            names = [column.name for column in self._columns]
            tasks = snapshot.plan(target.table, names, target.presentation, target.where).tasks
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
            raise LeaseExpiredError(planned.lease.id, self._target.snapshot_ts)
        return tasks[planned.region.region_id]


def _like(task: ScanTask, tasks: Sequence[ScanTask]) -> Mapping[RegionID, ScanTask]:
    """The tasks that read the same physical table as `task`, by region."""
    physical_id = task.region.physical_id
    return {t.region.region_id: t for t in tasks if t.region.physical_id == physical_id}
