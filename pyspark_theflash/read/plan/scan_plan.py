"""Scan plans and their tasks: values that are pickled to executors."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pyarrow as pa

from pyspark_theflash.base.types import ColumnID, PhysicalTableID, TimeStamp
from pyspark_theflash.read.plan.condition import Condition
from pyspark_theflash.read.present import Presentation
from pyspark_theflash.read.pushdown.pushdown import NOTHING, Filter, Pushdown
from pyspark_theflash.storage.engine.api import RegionScan
from pyspark_theflash.storage.mvcc.project import ScanColumn, dictionary_of
from pyspark_theflash.storage.store.latch.lease import ReadLease
from pyspark_theflash.tidb.codec.field_type import STRING_TYPES
from pyspark_theflash.tidb.schema.model import ColumnInfo, TableInfo


@dataclass(frozen=True, slots=True)
class ScanTask:
    """Scan of one region.

    It identifies the store (path and id), its state (the region's files with their checksums) and
    the read latch that retains that state, so a task on a machine where the path is another store
    raises.

    Attributes:
        output: the columns in order, with those that only `pushed` needs and `_tidb_rowid`.
        usual_columns: how to read the stored columns of `output`, `condition` and `filter`.
        exchanged: the same for physical tables with another past (exchanged partitions).
        pushed: operations on the rows.
        shown: the number of returned columns of `output`; None: all.
    """

    store_path: str
    store_id: str
    snapshot_ts: TimeStamp
    lease: ReadLease
    region: RegionScan
    output: tuple[ColumnInfo, ...]
    usual_columns: tuple[ScanColumn, ...]
    presentation: Presentation
    condition: Condition | None = None
    dictionaries: frozenset[ColumnID] = frozenset()
    """String columns that are returned as dictionaries."""
    filter: Filter | None = None
    pushed: Pushdown = NOTHING
    shown: int | None = None
    exchanged: Mapping[PhysicalTableID, tuple[ScanColumn, ...]] = field(default_factory=dict)
    stated: bytes | None = None
    """Rows of a metadata table; see `read.plan.metadata`."""

    @property
    def columns(self) -> tuple[ScanColumn, ...]:
        """Stored columns to read in the task's region."""
        return self.exchanged.get(self.region.physical_id, self.usual_columns)

    @property
    def rows_schema(self) -> pa.Schema:
        """Schema of the rows before `pushed` is applied. Raises `UnsupportedError`."""
        return _schema(self.output, self.presentation, self.dictionaries)

    @property
    def schema(self) -> pa.Schema:
        """Schema of the task's batches. Raises `UnsupportedError`."""
        return self.pushed.schema(self.rows_schema, self.shown)

    @property
    def stored_output(self) -> Sequence[ScanColumn]:
        """Stored columns of `output`."""
        ids = {column.id for column in self.output}
        return [column for column in self.columns if column.id in ids]

    def with_dictionaries(self, column_ids: Collection[ColumnID]) -> "ScanTask":
        """Return the task with these native string columns as dictionaries."""
        ids = frozenset(c.id for c in self.output if c.id in column_ids)
        return replace(self, dictionaries=ids)


@dataclass(frozen=True, slots=True)
class ScanPlan:
    """Scan of a table at a timestamp; its tasks together read each row once.

    `columns` are in output order. With a condition, only rows for which it is true are read.
    """

    table: TableInfo
    snapshot_ts: TimeStamp
    columns: tuple[ColumnInfo, ...]
    presentation: Presentation
    tasks: tuple[ScanTask, ...]
    dictionaries: frozenset[ColumnID] = frozenset()
    pushed: Pushdown = NOTHING
    shown: int | None = None

    @property
    def schema(self) -> pa.Schema:
        """Schema of the batches of the tasks. Raises `UnsupportedError`."""
        return self.pushed.schema(self.rows_schema, self.shown)

    @property
    def rows_schema(self) -> pa.Schema:
        """Schema of the rows before `pushed` is applied. Raises `UnsupportedError`."""
        return _schema(self.columns, self.presentation, self.dictionaries)

    def with_dictionaries(self, column_ids: Collection[ColumnID]) -> "ScanPlan":
        """Return the plan with these native string columns as dictionaries; see `repeating`."""
        ids = frozenset(c.id for c in self.columns if c.id in column_ids)
        tasks = tuple(task.with_dictionaries(ids) for task in self.tasks)
        return replace(self, tasks=tasks, dictionaries=ids)


def native_strings(
    columns: Sequence[ColumnInfo], presentation: Presentation
) -> Collection[ColumnID]:
    """Return the string columns that are returned as stored."""
    return {c.id for c in columns if c.type.tp in STRING_TYPES and not presentation.is_text(c.type)}


def _schema(
    columns: Sequence[ColumnInfo], presentation: Presentation, dictionaries: Collection[ColumnID]
) -> pa.Schema:
    types = ((c, presentation.type_of(c.type)) for c in columns)
    return pa.schema(
        [(c.name, dictionary_of(tp) if c.id in dictionaries else tp) for c, tp in types]
    )
