"""The schema of a live cluster, read when needed."""

import threading
from collections.abc import Sequence

from pyspark_theflash.base.errors import NotCaughtUpError, SchemaOutdatedError
from pyspark_theflash.base.types import PhysicalTableID, TimeStamp
from pyspark_theflash.replication.apply.columns import StoredColumns
from pyspark_theflash.replication.apply.tables import PhysicalTables
from pyspark_theflash.storage.mvcc.project import ScanColumn
from pyspark_theflash.tidb.schema.tidb import TidbSchemaSource


class LiveSchema:
    """A `SchemaAt` over a cluster's keys. Used by several threads."""

    def __init__(self, source: TidbSchemaSource, begin: TimeStamp) -> None:
        self._source, self._mutex = source, threading.Lock()
        self.history = source.read(begin)
        self._tables = PhysicalTables(self.history)

    def __call__(self, ts: TimeStamp) -> PhysicalTables:
        with self._mutex:
            if self.history.end_ts < ts:
                try:
                    self.history = self._source.read(ts, self.history)
                except NotCaughtUpError as error:
                    raise SchemaOutdatedError("schema", ts) from error
                self._tables = PhysicalTables(self.history)
            return self._tables

    def columns_of(self, physical_id: PhysicalTableID) -> Sequence[ScanColumn]:
        """All columns that rows of a physical table have ever had."""
        return StoredColumns(self.history).of(physical_id)
