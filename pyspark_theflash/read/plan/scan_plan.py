"""What a planned scan is made of: values that survive pickle, for tasks travel to executors."""

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
    """One region's share of a scan.

    Names the store (by path and id), the state of it (the region's files with their checksums) and
    the latch that keeps that state, so that a task on a machine where the path means something else
    raises instead of answering. `output` are the columns in order; `columns` says how to read those
    of them that are stored, and what `condition` and `filter` read besides; the one that is not
    stored, if any, is `_tidb_rowid`. In physical tables with another past than most it is
    `exchanged` that says it. Only the first `shown` of `output` are handed out, all where
    it is None; the others are for `pushed`, which says what is made of the rows.
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
    """Columns of strings that come as dictionaries."""
    filter: Filter | None = None
    pushed: Pushdown = NOTHING
    shown: int | None = None
    exchanged: Mapping[PhysicalTableID, tuple[ScanColumn, ...]] = field(default_factory=dict)
    stated: bytes | None = None
    """The rows themselves, where no engine has them; see `read.plan.metadata`."""

    @property
    def columns(self) -> tuple[ScanColumn, ...]:
        """How to read the stored columns in the task's region."""
        return self.exchanged.get(self.region.physical_id, self.usual_columns)

    @property
    def rows_schema(self) -> pa.Schema:
        """Of the rows, before anything is made of them. Raises `UnsupportedError`."""
        return _schema(self.output, self.presentation, self.dictionaries)

    @property
    def schema(self) -> pa.Schema:
        """Of the task's batches. Raises `UnsupportedError`."""
        return self.pushed.schema(self.rows_schema, self.shown)

    @property
    def stored_output(self) -> Sequence[ScanColumn]:
        """How to read those of `output` that are stored."""
        ids = {column.id for column in self.output}
        return [column for column in self.columns if column.id in ids]

    def with_dictionaries(self, column_ids: Collection[ColumnID]) -> "ScanTask":
        """The same with these columns, of native strings, as dictionaries."""
        ids = frozenset(c.id for c in self.output if c.id in column_ids)
        return replace(self, dictionaries=ids)


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
    pushed: Pushdown = NOTHING
    shown: int | None = None

    @property
    def schema(self) -> pa.Schema:
        """Of the batches that the tasks yield. Raises `UnsupportedError`."""
        return self.pushed.schema(self.rows_schema, self.shown)

    @property
    def rows_schema(self) -> pa.Schema:
        """Of the rows, before anything is made of them. Raises `UnsupportedError`."""
        return _schema(self.columns, self.presentation, self.dictionaries)

    def with_dictionaries(self, column_ids: Collection[ColumnID]) -> "ScanPlan":
        """The same with these columns, of native strings, as dictionaries; see `repeating`."""
        ids = frozenset(c.id for c in self.columns if c.id in column_ids)
        tasks = tuple(task.with_dictionaries(ids) for task in self.tasks)
        return replace(self, tasks=tasks, dictionaries=ids)


def native_strings(
    columns: Sequence[ColumnInfo], presentation: Presentation
) -> Collection[ColumnID]:
    """Those that are handed out as the strings or bytes that are stored."""
    return {c.id for c in columns if c.type.tp in STRING_TYPES and not presentation.is_text(c.type)}


def _schema(
    columns: Sequence[ColumnInfo], presentation: Presentation, dictionaries: Collection[ColumnID]
) -> pa.Schema:
    types = ((c, presentation.type_of(c.type)) for c in columns)
    return pa.schema(
        [(c.name, dictionary_of(tp) if c.id in dictionaries else tp) for c, tp in types]
    )
