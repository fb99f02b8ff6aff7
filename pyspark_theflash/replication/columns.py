"""Which columns rows of a physical table have ever had: what a compaction must keep."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from pyspark_theflash.mvcc.project import ScanColumn, scan_column
from pyspark_theflash.mvcc.rows import stored_columns
from pyspark_theflash.schema.history import SchemaHistory, TableEvent
from pyspark_theflash.schema.lineage import Lineage
from pyspark_theflash.types import ColumnID, PhysicalTableID

if TYPE_CHECKING:
    from pyspark_theflash.schema.model import ColumnInfo, TableInfo


class StoredColumns:
    """By physical table; one may have belonged to several tables (EXCHANGE PARTITION)."""

    def __init__(self, history: SchemaHistory, lineage: Lineage) -> None:
        self._history, self._lineage = history, lineage

    @cached_property
    def _owners(self) -> Mapping[PhysicalTableID, Sequence[TableEvent]]:
        """The definitions of the tables that each belonged to, in order."""
        owners: dict[PhysicalTableID, list[TableEvent]] = defaultdict(list)
        for event in self._history.events:
            for physical_id in event.stored_ids:
                owners[physical_id].append(event)
        return owners

    @property
    def physical_ids(self) -> Sequence[PhysicalTableID]:
        """All that there are."""
        return sorted(self._owners)

    def of(self, physical_ids: Iterable[PhysicalTableID]) -> Sequence[ScanColumn]:
        """Each column as its newest definition has it."""
        newest: dict[ColumnID, tuple[TableInfo, ColumnInfo]] = {}
        tables = (event.table for i in sorted(physical_ids) for event in self._owners.get(i, ()))
        for table in filter(None, tables):
            newest.update((column.id, (table, column)) for column in stored_columns(table))
        return [
            scan_column(table, column, self._lineage.source_of(table.id))
            for table, column in newest.values()
        ]
