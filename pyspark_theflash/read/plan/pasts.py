"""Stored columns of a table in each of its physical tables."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from pyspark_theflash.base.types import PhysicalTableID, TimeStamp
from pyspark_theflash.storage.mvcc.project import ScanColumn, scan_column
from pyspark_theflash.storage.store.coverage import Coverage
from pyspark_theflash.tidb.schema.history import SchemaHistory
from pyspark_theflash.tidb.schema.model import ColumnInfo, TableInfo
from pyspark_theflash.tidb.schema.owners import Owners


class Pasts:
    """Former owners of physical tables up to a snapshot."""

    def __init__(self, history: SchemaHistory, coverage: Coverage, ts: TimeStamp) -> None:
        self._owners, self._coverage, self._ts = Owners(history), coverage, ts

    def columns(
        self, table: TableInfo, infos: Sequence[ColumnInfo]
    ) -> tuple[tuple[ScanColumn, ...], Mapping[PhysicalTableID, tuple[ScanColumn, ...]]]:
        """Return how to read columns, and separately for physical tables with another past.

        Raises:
            UnsupportedError: The expression of a virtual column is not supported.
        """
        usual = self._owners.past_of(table, self._ts)
        exchanged = {}
        for physical_id in table.physical_ids:
            past = self._owners.past(table, physical_id, self._ts)
            if past.moved_from or any(owner.id != table.id for owner in past.tables):
                past = replace(past, has_base=self._coverage.is_loaded(past.tables[0]))
                exchanged[physical_id] = tuple(scan_column(table, c, past) for c in infos)
        return tuple(scan_column(table, c, usual) for c in infos), exchanged
