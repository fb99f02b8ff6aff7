"""SQL queries over the tables of a snapshot.

    text -> DuckDB parses it: is it one reading statement? which tables does it name?
                 |
                 v
    Catalog.open(db, table) -> SqlTable -> LazyTable, and a view `db`.`table` over it
                 |
                 v
    DuckDB runs it and asks each LazyTable for columns and rows -> Arrow batches

Only named tables are opened; a statement without table names (SHOW ALL TABLES) gets all of them.
The SQL is DuckDB's, not TiDB's: strings compare by bytes, regardless of their collation.

Errors raise; values are rounded, cut or wrapped only where DuckDB defines it so. Result types that
Arrow can only represent by another type (BIT, BIGNUM, VARIANT, TIME WITH TIME ZONE) are rejected.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Final, Protocol

import pyarrow as pa

from pyspark_theflash.base.clock import Clock, SystemClock
from pyspark_theflash.base.errors import UnsupportedError
from pyspark_theflash.read.sql.connection import QueryLimits, lock, quoted
from pyspark_theflash.read.sql.lazy import SqlTable
from pyspark_theflash.read.sql.session import BATCH_ROWS, SqlSession
from pyspark_theflash.read.sql.statement import check_statement, named_tables

_SYSTEM_SCHEMAS: Final = frozenset({"information_schema", "pg_catalog"})
_REFUSED_TYPES: Final = re.compile(r"\b(BIT|BIGNUM|VARIANT|TIME WITH TIME ZONE)\b")


class Catalog(Protocol):
    """The available tables, all at one timestamp."""

    def names(self) -> Sequence[tuple[str, str]]:
        """Return (database, table) of all tables."""

    def open(self, db: str, table: str) -> SqlTable:
        """Open a table by name, in any case.

        Raises:
            TableNotFoundError: There is no such table.
            TheFlashError: It cannot be read.
        """


class SqlResult:
    """Rows of a query, which can be read once. A context manager: leaving it ends the query.

    Iteration stops at Ctrl-C and at the deadline.
    """

    def __init__(
        self, session: SqlSession, reader: pa.RecordBatchReader, resources: ExitStack
    ) -> None:
        self._session, self._reader, self._resources = session, reader, resources

    @property
    def schema(self) -> pa.Schema:
        """The columns; names need not be unique."""
        schema: pa.Schema = self._reader.schema
        return schema

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        """Yield the rows, in the query's order.

        Raises:
            SqlError, SqlMemoryError, SqlTimeoutError: The query failed.
            TheFlashError: Reading a table failed; see `Snapshot.scan`.
        """
        return self._session.batches(self._reader)

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:  # noqa: ANN401 (PyCapsules)
        reader = pa.RecordBatchReader.from_batches(self.schema, iter(self))
        return reader.__arrow_c_stream__(requested_schema)

    def close(self) -> None:
        """End the query and release its tables. Repeated calls have no effect."""
        self._resources.close()

    def __enter__(self) -> "SqlResult":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def run_sql(
    text: str,
    catalog: Catalog,
    parameters: Sequence[object] = (),
    limits: QueryLimits | None = None,
    clock: Clock | None = None,
) -> SqlResult:
    """Start a query. `parameters` are the values of its `?`.

    Raises:
        MissingExtraError: DuckDB is not installed.
        SqlError: The text is not valid SQL, or DuckDB rejects it.
        UnsupportedError: The statement does more than read, or Arrow has no type for a result
            column.
        TableNotFoundError: There is no such table.
    """
    with ExitStack() as resources:
        session = resources.enter_context(
            SqlSession(limits or QueryLimits(), clock or SystemClock())
        )
        reader = session.call(lambda: _begin(session, text, catalog, parameters))
        return SqlResult(session, reader, resources.pop_all())


def _begin(
    session: SqlSession, text: str, catalog: Catalog, parameters: Sequence[object]
) -> pa.RecordBatchReader:
    """Parse the statement, open the tables, and start."""
    check_statement(session.connection, text)
    tables = {(db.lower(), table.lower()): (db, table) for db, table in catalog.names()}
    for db in sorted({db for db, _ in tables.values()}):
        session.connection.execute(f"CREATE SCHEMA IF NOT EXISTS {quoted(db)}")
    for db, table in _to_open(named_tables(session.connection, text), tables):
        opened = catalog.open(db, table)
        select = session.register(f"{db}.{table}", opened)
        session.connection.execute(f"CREATE VIEW {quoted(db)}.{quoted(table)} AS {select}")
    lock(session.connection)
    relation = session.connection.sql(text, params=list(parameters) or None)
    for name, tp in zip(relation.columns, relation.types, strict=True):
        if match := _REFUSED_TYPES.search(str(tp)):
            raise UnsupportedError(f"a result of type {match[0]}", f"column {name}")
    return relation.to_arrow_reader(BATCH_ROWS)


def _to_open(
    names: Sequence[tuple[str, ...]], tables: dict[tuple[str, str], tuple[str, str]]
) -> Sequence[tuple[str, str]]:
    """Return the tables to open, spelled as in the catalog if they are in it."""
    if not names:
        return list(tables.values())
    # DuckDB reports names without a database itself.
    pairs = [(parts[-2], parts[-1]) for parts in names if len(parts) > 1]
    pairs = [pair for pair in pairs if pair[0].lower() not in _SYSTEM_SCHEMAS]
    return list(dict.fromkeys(tables.get((d.lower(), t.lower()), (d, t)) for d, t in pairs))
