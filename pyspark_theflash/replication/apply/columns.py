"""Which columns rows of a physical table have ever had: what a compaction must keep."""

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
    """By physical table; one may have belonged to several tables (EXCHANGE PARTITION)."""

    def __init__(self, history: SchemaHistory) -> None:
        self._owners = Owners(history)

    @property
    def physical_ids(self) -> Sequence[PhysicalTableID]:
        """All that there are."""
        return sorted(self._owners.last)

    def of(self, physical_id: PhysicalTableID, *, is_moved: bool = False) -> Sequence[ScanColumn]:
        """Each column as its newest definition has it.

        With `is_moved` for the rows that another physical table gets, which no earlier snapshot
        reads there. In one that was exchanged before MODIFY COLUMN, earlier snapshots see other
        values in the same rows, so nothing that it has made may be written down.
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
