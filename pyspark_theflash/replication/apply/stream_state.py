"""State that the writer of any change stream has in the manifest, published together with rows.

progress   resolved_ts, oldest_ts, and the position in the source
schema     the schema history, written again whenever it has grown
scope      the tables to replicate
"""

from typing import Final, Protocol

from pyspark_theflash.base.types import TableID, TimeStamp
from pyspark_theflash.replication.apply.columns import StoredColumns
from pyspark_theflash.storage.engine.api import WriterEngine
from pyspark_theflash.storage.store.catalog import SCHEMA_KIND, feed_history, schema_records
from pyspark_theflash.storage.store.manifest import Record
from pyspark_theflash.storage.store.orphan import Orphan
from pyspark_theflash.storage.store.progress import PROGRESS_KIND, Progress
from pyspark_theflash.storage.store.scope import SCOPE_KIND, ScopedTables, TableScope, continued
from pyspark_theflash.tidb.codec.key import RawKey
from pyspark_theflash.tidb.schema.history import SchemaHistory
from pyspark_theflash.tidb.schema.meta_key import Outcome


class SchemaSource(Protocol):
    """Source of the schema history: a file, or a running cluster."""

    def read(self, after: SchemaHistory | None, at_least: TimeStamp | None) -> SchemaHistory:
        """Return the history `after` with newer events, or all of it for None.

        If the source can wait, it returns a history that ends at `at_least` or later.
        """

    def has_written(self, key: RawKey, start_ts: TimeStamp) -> bool | None:
        """Return whether a committed transaction wrote a record's key; None if unknown."""

    def had_row(self, key: RawKey, ts: TimeStamp) -> bool | None:
        """Return whether a record existed at `ts`; None if unknown."""

    def outcome(self, primary: RawKey, start_ts: TimeStamp) -> Outcome | None:
        """Return a transaction's outcome by its primary key; None if there is no TiKV to ask."""


class StreamState:
    """A writer's copies of its records: read once, then updated with each publication."""

    history: SchemaHistory
    columns: StoredColumns
    """All columns that rows have ever had, by physical table."""
    _new_schema: tuple[Record, ...]

    def __init__(
        self, engine: WriterEngine, schema: SchemaSource, scope: TableScope | None = None
    ) -> None:
        """Read the state of a store, and update its schema history from `schema`.

        Raises:
            SchemaConflictError: The store was written with another schema history.
            OptionError: The store was written with another scope.
        """
        view = engine.read([PROGRESS_KIND, SCHEMA_KIND, SCOPE_KIND])
        self._schema = schema
        self._stored_history = feed_history(view)
        stored_scope = TableScope.of(view)
        self._scope = continued(stored_scope, scope)
        is_new = stored_scope != self._scope
        self._new_scope: tuple[Record, ...] = (self._scope.to_record(),) if is_new else ()
        self._progress = Progress.of(view)
        self._staged_progress: Progress | None = None
        self.orphans: Final[dict[TimeStamp, Orphan]] = {}
        """Orphans by start_ts: those that are pending, and those decided by an operator."""
        self._set_history(schema.read(self._stored_history, None))

    # -- progress

    @property
    def resolved_ts(self) -> TimeStamp:
        """Newest readable timestamp of the store; 0 before the first publication."""
        return self._progress.resolved_ts if self._progress else TimeStamp(0)

    @property
    def position(self) -> str | None:
        """Position in the source to continue at; None is its beginning."""
        return self._progress.position if self._progress else None

    @property
    def _oldest_ts(self) -> TimeStamp:
        return self._progress.oldest_ts if self._progress else self.history.start_ts

    # -- schema

    @property
    def cluster(self) -> SchemaSource:
        """The schema source, which can look up rows if it is a running cluster."""
        return self._schema

    def reach(self, ts: TimeStamp) -> None:
        """Extend the history to `ts`, a timestamp that PD has allocated, if the source can."""
        if ts > self.history.end_ts:
            history = self._schema.read(self.history, ts)
            if history.events is self.history.events:
                self._continue(history)
            elif history.end_ts > self.history.end_ts:
                self._set_history(history)

    def replicates(self, table_id: TableID) -> bool:
        """Return whether a table is in the store's scope."""
        return self._tables.contains(table_id)

    @property
    def scope(self) -> TableScope:
        """The tables to replicate."""
        return self._scope

    def extend_scope(self, scope: TableScope) -> None:
        """Replicate more tables, from the next publication on."""
        self._scope, self._new_scope = scope, (scope.to_record(),)
        self._tables = ScopedTables(scope, self.history)

    def _set_history(self, history: SchemaHistory) -> None:
        self._tables = ScopedTables(self._scope, history)
        self.columns = StoredColumns(history)
        self._continue(history)

    def _continue(self, history: SchemaHistory) -> None:
        """Set the history to one with the same events, except by `_set_history`."""
        self.history = history
        is_stored = history is self._stored_history
        self._new_schema = () if is_stored else tuple(schema_records(history, self._stored_history))

    # -- publishing

    def begin_records(self) -> list[Record]:
        """Return the records with which the load of a new store begins, before its progress."""
        return [*self._new_schema, *self._new_scope]

    def progress_records(self, resolved_ts: TimeStamp, position: str | None) -> list[Record]:
        """Return the records to publish with rows, after which `resolved_ts` is readable.

        `published` adopts them.
        """
        reached = max(resolved_ts, self.resolved_ts, self._oldest_ts)
        self._staged_progress = Progress(self._oldest_ts, reached, position)
        return [self._staged_progress.to_record(), *self._new_schema, *self._new_scope]

    def published(self) -> None:
        """Adopt the records of the last `progress_records`, which are durable now."""
        if self._staged_progress is None:
            return
        self._progress, self._staged_progress = self._staged_progress, None
        self._stored_history = self.history
        self._new_schema, self._new_scope = (), ()

    # -- changes by upkeep (`upkeep.orphans.WriterMemory`)

    def is_open(self, start_ts: TimeStamp) -> bool:
        """Return whether a prewrite is pending without commit or rollback."""
        return False

    def decided(self, orphan: Orphan) -> None:
        """Adopt a decision about an orphan, which is durable now."""
        self.orphans[orphan.start_ts] = orphan

    def collected(self, progress: Progress, ledger_records: int) -> None:
        """Adopt the `oldest_ts` that a garbage collection published, and prune the ledger."""
        self._progress = progress
