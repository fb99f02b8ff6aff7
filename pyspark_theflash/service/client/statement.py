"""Statements of SQL that write: CREATE TABLE, DROP TABLE, INSERT, UPDATE and DELETE.

    write latch on the store ── no one else writes until the statement has ended
        read_ts: the `resolved_ts` of the API's tables
        the statement's query over a snapshot at read_ts, by DuckDB in a process of its own
        its rows ──► write ──► converted, checked and published at one timestamp, or not at all
                               (`replication/statement.py`)

The latch is renewed by a thread. If it ends nevertheless, the write is rejected: its commit checks
the latch, and that nothing has been written since read_ts.
"""

import json
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from pyspark_theflash.base.clock import Clock, SystemClock
from pyspark_theflash.base.errors import (
    ColumnNotFoundError,
    FeedConflictError,
    LatchLostError,
    SqlError,
    TableExistsError,
    TableNotFoundError,
    TheFlashError,
)
from pyspark_theflash.read.sql.lazy import quoted
from pyspark_theflash.read.sql.process import run_confined
from pyspark_theflash.read.sql.session import QueryLimits
from pyspark_theflash.read.sql.statement import (
    CreateTable,
    Delete,
    DropTable,
    Insert,
    Statement,
    Update,
    parse_statement,
    selection,
)
from pyspark_theflash.service.client.sql_tables import ServedTable, ServedTables
from pyspark_theflash.service.client.theflash import LONG_MS, NATIVE, TheFlash
from pyspark_theflash.service.wire import message
from pyspark_theflash.service.wire.message import Moment
from pyspark_theflash.storage.store.feed import SIDE_IDS_FROM, Feed
from pyspark_theflash.tidb.schema.create import new_table_info
from pyspark_theflash.tidb.schema.model import ROWID_NAME

WAIT_MS: Final = 60_000
_TTL_MS: Final = 30_000
_ROWS: Final = "theflash rows of "
"""The name under which a statement's query reads its own table, with `_tidb_rowid`."""


@dataclass(frozen=True, slots=True)
class Executed:
    """Result of a statement, which is durable.

    Attributes:
        rows: The number of rows inserted, updated or deleted; 0 for other statements.
        commit_ts: The timestamp from which the change can be read; None: nothing has changed.
    """

    rows: int
    commit_ts: int | None


def execute_sql(
    store: TheFlash,
    text: str,
    parameters: Sequence[object] = (),
    *,
    limits: QueryLimits | None = None,
    wait_ms: int = WAIT_MS,
    least_ts: Callable[[], int] = lambda: 0,
    clock: Clock | None = None,
) -> Executed:
    """Execute a statement that writes tables which are not replicated.

    Args:
        store: The store.
        text: CREATE TABLE, DROP TABLE, INSERT, UPDATE or DELETE; see `read.sql.statement`.
        parameters: The values of its `?`.
        limits: Limits of its query; None: the defaults.
        wait_ms: How long to wait for other writers.
        least_ts: Returns a lower bound of the commit timestamp, as PD's newest; 0: none.
        clock: The clock of limits.

    Returns:
        The number of rows, and the commit timestamp.

    Raises:
        MissingExtraError: DuckDB is not installed.
        SqlError, SqlMemoryError, SqlTimeoutError: The statement is invalid, or reached a limit.
        FeedConflictError: A stream writes the table.
        TableNotFoundError, ColumnNotFoundError, TableExistsError: Of the table that it names.
        ColumnValueError, DuplicateKeyError: A row is invalid. Nothing was written.
        LatchHeldError: Another writer has held the store for `wait_ms`.
        RoleError: The token is for reading.
    """
    statement = parse_statement(text)
    if statement is None:
        raise SqlError("expected CREATE TABLE, DROP TABLE, INSERT, UPDATE or DELETE")
    with _latched(store, wait_ms) as latch:
        run = _Execution(store, statement, parameters, limits or QueryLimits())
        return run.run(latch, least_ts, clock or SystemClock())


@contextmanager
def _latched(store: TheFlash, wait_ms: int) -> Iterator[message.Latch]:
    """Hold the write latch of the store."""
    # Statements of one caller wait for each other only under different names.
    name = f"SQL statement {uuid.uuid4().hex[:12]}"
    request = message.AcquireRequest("write", message.LatchScope(), _TTL_MS, wait_ms, name)
    latch = store.acquire_latch(request, timeout_ms=wait_ms + _TTL_MS)
    ended = threading.Event()

    def keep() -> None:
        while not ended.wait(_TTL_MS / 3000):
            # If it is lost, the write says so.
            with suppress(TheFlashError):
                store.renew_latch(latch)

    thread = threading.Thread(target=keep, name="latch of a statement", daemon=True)
    thread.start()
    try:
        yield latch
    finally:
        ended.set()
        thread.join()
        with suppress(LatchLostError):
            store.release_latch(latch)


class _Execution:
    """One statement under its latch."""

    def __init__(
        self,
        store: TheFlash,
        statement: Statement,
        parameters: Sequence[object],
        limits: QueryLimits,
    ) -> None:
        self._store, self._statement = store, statement
        self._parameters, self._limits = parameters, limits
        feeds = {feed.feed: feed for feed in store.status().feeds}
        self._stream = feeds.get(Feed.STREAM.value)
        api = feeds.get(Feed.API.value)
        self._read_ts = 0 if api is None else api.resolved_ts
        self._name = f"{statement.db}.{statement.name}"

    def run(self, latch: message.Latch, least_ts: Callable[[], int], clock: Clock) -> Executed:
        existing = self._find()
        statement = self._statement
        schema: list[message.SchemaChange] = []
        rows: pa.Table | None = None
        kind = ""
        if isinstance(statement, CreateTable):
            if existing is not None and not statement.if_not_exists:
                raise TableExistsError(self._name)
            if existing is None:
                schema = [self._created(statement)]
        elif isinstance(statement, DropTable):
            if existing is None and not statement.if_exists:
                raise TableNotFoundError(self._name, self._read_ts)
            if existing is not None:
                schema = [message.SchemaChange(0, existing.db, existing.id)]
        elif existing is None:
            raise TableNotFoundError(self._name, self._read_ts)
        else:
            kind = type(statement).__name__.lower()
            rows = self._rows(statement, existing, clock)
        if not schema and not (rows is not None and rows.num_rows):
            return Executed(0, None)
        write = message.StatementWrite(kind, self._read_ts, least_ts())
        request = message.WriteRequest(
            (message.LatchRequest(latch.id, latch.token or 0),),
            (message.WriteTable(existing.id),) if existing is not None and kind else (),
            tuple(schema),
            statement=write,
        )
        done = self._store.write(request, [] if rows is None else [rows], timeout_ms=LONG_MS)
        return Executed(0 if rows is None else rows.num_rows, done.commit_ts)

    def _find(self) -> message.TableName | None:
        """Return the statement's table, if it exists. Raises `FeedConflictError`."""
        if not self._read_ts and self._stream is None:
            return None
        moment = Moment(self._read_ts or None)
        tables = {table.name.lower(): table for table in self._store.tables(moment).tables}
        existing = tables.get(self._name.lower())
        if existing is not None and self._stream is not None and existing.id < SIDE_IDS_FROM:
            position = (self._stream.position or "its beginning")[:80]
            reason = (
                f"is replicated by the store's stream (at {position}), so a statement would make "
                "it differ from TiDB: write it there, or create a table of your own"
            )
            raise FeedConflictError(existing.name, reason)
        return existing

    def _created(self, statement: CreateTable) -> message.SchemaChange:
        info = new_table_info(statement.name, statement.columns, statement.primary_key)
        return message.SchemaChange(0, statement.db, 0, json.dumps(info))

    def _rows(
        self, statement: Insert | Update | Delete, existing: message.TableName, clock: Clock
    ) -> pa.Table:
        """Run the statement's query; return the rows to write, with the columns' ids as names."""
        with self._snapshot() as moment:
            table = self._store.describe(existing.name, moment)
            tables = _StatementTables(self._store, moment, existing.db, table)
            columns = {column.name.lower(): column for column in table.columns}
            if isinstance(statement, Insert):
                named = statement.columns
                names = [c.name for c in table.columns] if named is None else list(named)
                ids = [f"c{_column(columns, name, table).id}" for name in names]
                query = statement.query
            else:
                keys = [c for c in table.columns if c.in_handle]
                ids = [f"k{c.id}" for c in keys] or ["k0"]
                if isinstance(statement, Update):
                    assigned = [name for name, _ in statement.assignments]
                    ids += [f"c{_column(columns, name, table).id}" for name in assigned]
                key_names = [c.name for c in keys] or [ROWID_NAME]
                query = selection(statement, tables.source, key_names)
            if len({*ids}) < len(ids):
                raise SqlError("a column is named twice")
            result = run_confined(query, tables, self._parameters, self._limits, clock)
            with result:
                if len(result.schema) != len(ids):
                    reason = f"{len(result.schema)} values for {len(ids)} columns"
                    raise SqlError(f"the statement gives {reason}")
                return pa.Table.from_batches(list(result), schema=result.schema).rename_columns(ids)

    @contextmanager
    def _snapshot(self) -> Iterator[Moment]:
        snapshot = self._store.snapshot(self._read_ts)
        try:
            yield Moment(handle=snapshot.handle)
        finally:
            self._store.release(snapshot)


def _column(columns: dict[str, message.Column], name: str, table: message.Table) -> message.Column:
    existing = columns.get(name.lower())
    if existing is None:
        raise ColumnNotFoundError(table.name, name, tuple(c.name for c in table.columns))
    return existing


class _StatementTables(ServedTables):
    """All tables of a snapshot, and the statement's own with `_tidb_rowid`."""

    def __init__(self, store: TheFlash, moment: Moment, db: str, table: message.Table) -> None:
        super().__init__(store, moment.handle, NATIVE)
        self._table, self._own = table, (db, _ROWS + table.name)

    @property
    def source(self) -> str:
        """The statement's own table in SQL."""
        return ".".join(map(quoted, self._own))

    def names(self) -> Sequence[tuple[str, str]]:
        return [*super().names(), self._own]

    def open(self, db: str, table: str) -> ServedTable:
        if (db, table) != self._own:
            return super().open(db, table)
        columns = [column.name for column in self._table.columns]
        if not any(column.in_handle for column in self._table.columns):
            columns.append(ROWID_NAME)
        return ServedTable(self._store, self._table.name, self._moment, NATIVE, columns)
