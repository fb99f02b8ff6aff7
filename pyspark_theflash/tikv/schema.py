"""The schema history of a store that TiKV feeds: read from the cluster, published with rows.

Rows are decoded under the definitions that were in force when they were committed, and snapshots
are read under those of their timestamp, so both ask for a history that reaches so far. What the
store does not have of it yet is published with the next rows.
"""

import threading
from typing import Protocol

from pyspark_theflash.base.errors import SchemaOutdatedError
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.storage.store.catalog import schema_records
from pyspark_theflash.storage.store.manifest import ManifestChange
from pyspark_theflash.tidb.schema.history import SchemaHistory
from pyspark_theflash.tikv.tables import PhysicalTables


class HistorySource(Protocol):
    """Where the history comes from: `replication.apply.state.SchemaSource` is one."""

    def read(self, after: SchemaHistory | None, at_least: TimeStamp | None) -> SchemaHistory:
        """The history of `after` continued, to `at_least` or later where it can be waited for."""


class SchemaKeeper:
    """The history up to now. Thread-safe; `change` and `published` are of the engine's thread."""

    def __init__(self, source: HistorySource, stored: SchemaHistory | None) -> None:
        """`stored`: what the store has. Raises what the source raises."""
        self._source, self._stored = source, stored
        self._mutex = threading.Lock()
        self._tables = PhysicalTables(source.read(stored, None))
        self._told: SchemaHistory | None = None

    @property
    def history(self) -> SchemaHistory:
        """As far as it has been read."""
        return self._tables.history

    def tables(self, at_least: TimeStamp) -> PhysicalTables:
        """The tables by a history that reaches a timestamp; a `SchemaAt`.

        Raises:
            SchemaOutdatedError: the source's ends before.
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
        """Return the records that the store does not have yet; an `Also`."""
        history = self._tables.history
        if history is self._stored:
            return ManifestChange()
        self._told = history
        return ManifestChange(schema_records(history, self._stored))

    def published(self) -> None:
        """The store has what `change` said last."""
        self._stored = self._told or self._stored
