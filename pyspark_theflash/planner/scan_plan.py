"""What a planned scan is made of: values that survive pickle, for tasks travel to executors."""

from collections.abc import Collection
from dataclasses import dataclass, replace

import pyarrow as pa

from pyspark_theflash.engine.api import RegionScan
from pyspark_theflash.mvcc.project import ScanColumn, dictionary_of
from pyspark_theflash.planner.condition import Condition
from pyspark_theflash.planner.present import Presentation
from pyspark_theflash.schema.model import ColumnInfo, TableInfo
from pyspark_theflash.store.lease import ReadLease
from pyspark_theflash.types import ColumnID, TimeStamp


@dataclass(frozen=True, slots=True)
class ScanTask:
    """One region's share of a scan.

    Names the store (by path and id), the state of it (the region's files with their checksums) and
    the latch that keeps that state, so that a task on a machine where the path means something else
    raises instead of answering. `output` are the columns in order; `columns` says how to read those
    of them that are stored, and what `condition` reads besides; the one that is not stored, if any,
    is `_tidb_rowid`.
    """

    store_path: str
    store_id: str
    snapshot_ts: TimeStamp
    lease: ReadLease
    region: RegionScan
    output: tuple[ColumnInfo, ...]
    columns: tuple[ScanColumn, ...]
    presentation: Presentation
    condition: Condition | None = None
    dictionaries: frozenset[ColumnID] = frozenset()
    """Columns of strings that come as dictionaries."""


@dataclass(frozen=True, slots=True)
class ScanPlan:
    """A table as of a timestamp: its columns in output order, and tasks that read each row once.

    Of a scan with a condition, the rows for which it is true.
    """

    table: TableInfo
    snapshot_ts: TimeStamp
    columns: tuple[ColumnInfo, ...]
    presentation: Presentation
    tasks: tuple[ScanTask, ...]
    dictionaries: frozenset[ColumnID] = frozenset()

    @property
    def schema(self) -> pa.Schema:
        """Of the batches that the tasks yield. Raises `UnsupportedError`."""
        return pa.schema([(c.name, self._type_of(c)) for c in self.columns])

    def with_dictionaries(self, column_ids: Collection[ColumnID]) -> "ScanPlan":
        """The same with these columns, of native strings, as dictionaries; see `repeating`."""
        ids = frozenset(c.id for c in self.columns if c.id in column_ids)
        tasks = tuple(replace(task, dictionaries=ids) for task in self.tasks)
        return replace(self, tasks=tasks, dictionaries=ids)

    def _type_of(self, column: ColumnInfo) -> pa.DataType:
        tp = self.presentation.type_of(column.type)
        return dictionary_of(tp) if column.id in self.dictionaries else tp
