"""One query's read of a table: planned on the driver, run on executors."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pyarrow as pa
from pyspark.sql.datasource import DataSourceReader, InputPartition
from pyspark.sql.types import StructType

from pyspark_theflash.datasource.convert import arrow_schema, spark_batches
from pyspark_theflash.datasource.partition import ScanPartition
from pyspark_theflash.planner.read import read_task
from pyspark_theflash.planner.snapshot import open_snapshot
from pyspark_theflash.schema.model import ColumnInfo
from pyspark_theflash.types import TimeStamp


class TheFlashReader(DataSourceReader):
    """Made anew for every action; pickled to each task, so it holds values only."""

    def __init__(
        self,
        store: Path,
        table: str,
        snapshot_ts: TimeStamp,
        columns: Sequence[ColumnInfo],
        schema: StructType,
    ) -> None:
        self._store, self._table, self._snapshot_ts = store, table, snapshot_ts
        self._columns, self._schema = columns, schema

    def partitions(self) -> Sequence[InputPartition]:
        """One partition a task. The read latch taken here is left to the tasks."""
        with ExitStack() as latch:
            snapshot = latch.enter_context(open_snapshot(self._store, self._snapshot_ts))
            tasks = snapshot.plan(self._table, [column.name for column in self._columns]).tasks
            if tasks:
                latch.pop_all()
                snapshot.detach()
        return [ScanPartition(task) for task in tasks]

    def read(self, partition: InputPartition) -> Iterator[pa.RecordBatch]:
        """The rows of a partition. Where there is none, Spark makes one itself, without a task."""
        if not isinstance(partition, ScanPartition):
            return
        schema = arrow_schema(self._schema)
        for batch in read_task(partition.value):
            yield from spark_batches(batch, self._columns, schema)
