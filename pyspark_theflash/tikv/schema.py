"""The schema history of a store fed by TiKV: read from the cluster, published with rows.

Rows are decoded under the table definitions at their commit, and snapshots are read under those at
their timestamp. Both require a history up to that timestamp. The part of the history that is not
stored yet is published with the next rows.
"""

import threading

from pyspark_theflash.base.errors import SchemaOutdatedError
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.replication.apply.stream_state import SchemaSource
from pyspark_theflash.replication.apply.tables import PhysicalTables
from pyspark_theflash.storage.store.catalog import schema_records
from pyspark_theflash.storage.store.manifest import ManifestChange
from pyspark_theflash.tidb.schema.history import SchemaHistory


class SchemaKeeper:
    """The current history. Thread-safe, but the engine's thread calls `change` and `published`."""

    def __init__(self, source: SchemaSource, stored: SchemaHistory | None) -> None:
        """`stored` is the history in the store. Raises the errors of the source."""
        self._source, self._stored = source, stored
        self._mutex = threading.Lock()
        self._tables = PhysicalTables(source.read(stored, None))
        self._publishing: SchemaHistory | None = None

    @property
    def history(self) -> SchemaHistory:
        """The history read so far."""
        return self._tables.history

    def tables(self, at_least: TimeStamp) -> PhysicalTables:
        """Return the tables of a history that extends to a timestamp; a `SchemaAt`.

        Raises:
            SchemaOutdatedError: The source's history ends before the timestamp.
        """
        tables = self._tables
        if tables.history.end_ts >= at_least:
            return tables
        with self._mutex:
            before = self._tables.history
            if before.end_ts < at_least:
                history = self._source.read(before, at_least)
                if history is not before:
                    self._tables = PhysicalTables(history)
            if self._tables.history.end_ts < at_least:
                raise SchemaOutdatedError("schema", at_least)
            return self._tables

    def change(self) -> ManifestChange:
        """Return the records of the history that are not stored yet; an `ExtraRecords`."""
        history = self._tables.history
        if history is self._stored:
            return ManifestChange()
        self._publishing = history
        return ManifestChange(schema_records(history, self._stored))

    def published(self) -> None:
        """Note that the records last returned by `change` are stored."""
        self._stored = self._publishing or self._stored
