"""Columns that rows of a physical table have ever had, which a compaction must keep."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pyspark_theflash.base.types import ColumnID, PhysicalTableID
from pyspark_theflash.storage.mvcc.project import ScanColumn, columns_to_copy, scan_column
from pyspark_theflash.storage.mvcc.rows import stored_columns
from pyspark_theflash.tidb.schema.history import SchemaHistory
from pyspark_theflash.tidb.schema.owners import Owners

if TYPE_CHECKING:
    from pyspark_theflash.tidb.schema.model import ColumnInfo, TableInfo


class StoredColumns:
    """Columns by physical table, which EXCHANGE PARTITION may have moved between tables."""

    def __init__(self, history: SchemaHistory) -> None:
        self._owners = Owners(history)

    @property
    def physical_ids(self) -> Sequence[PhysicalTableID]:
        """All physical tables in the schema history."""
        return sorted(self._owners.last)

    def of(self, physical_id: PhysicalTableID, *, is_moved: bool = False) -> Sequence[ScanColumn]:
        """Return each column with its newest definition.

        `is_moved` is for copies of the rows in another physical table, where no earlier snapshot
        reads them. Without it, a physical table that was exchanged before MODIFY COLUMN gets no
        converted values: earlier snapshots see other values in the same rows.
        """
        event = self._owners.last.get(physical_id)
        if event is None or event.table is None:
            return []
        past = self._owners.past(event.table, physical_id, event.ts)
        newest: dict[ColumnID, tuple[TableInfo, ColumnInfo]] = {}
        for table in past.tables:
            newest.update((column.id, (table, column)) for column in stored_columns(table))
        columns = [scan_column(t, c, past, for_copy=True) for t, c in newest.values()]
        if past.is_exchanged and not is_moved:
            return [columns_to_copy(c.id, c.type)[0] for c in columns]
        return columns
