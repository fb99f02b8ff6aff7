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
from typing import TYPE_CHECKING, Any, Final, Protocol

import pyarrow as pa

from pyspark_theflash.base.clock import Clock, SystemClock
from pyspark_theflash.base.errors import SqlError, UnsupportedError
from pyspark_theflash.read.sql.lazy import SqlTable, quoted
from pyspark_theflash.read.sql.session import BATCH_ROWS, QueryLimits, SqlSession, lock

if TYPE_CHECKING:
    import duckdb

_SYSTEM_SCHEMAS: Final = frozenset({"information_schema", "pg_catalog"})
_RESERVED: Final = _SYSTEM_SCHEMAS | {"memory", "system", "temp"}
"""Names of DuckDB's own schemas and databases. A replicated database of such a name is left out."""
_REFUSED_TYPES: Final = re.compile(r"\b(BIT|BIGNUM|VARIANT|TIME WITH TIME ZONE)\b")
_READING: Final = frozenset({"SELECT", "EXPLAIN"})
"""DESCRIBE, SHOW, SUMMARIZE, FROM, VALUES and TABLE are SELECTs to DuckDB."""
_NAME: Final = re.compile(r'"((?:[^"]|"")*)"(\.)?|([^".\s]+)(\.)?')


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
        self, schema: pa.Schema, batches: Iterator[pa.RecordBatch], resources: ExitStack
    ) -> None:
        self._schema, self._batches, self._resources = schema, batches, resources

    @property
    def schema(self) -> pa.Schema:
        """The columns; names need not be unique."""
        return self._schema

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        """Yield the rows, in the query's order.

        Raises:
            SqlError, SqlMemoryError, SqlTimeoutError: The query failed.
            TheFlashError: Reading a table failed; see `Snapshot.scan`.
        """
        return self._batches

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:  # noqa: ANN401 (PyCapsules)
        reader = pa.RecordBatchReader.from_batches(self.schema, iter(self))
        return reader.__arrow_c_stream__(requested_schema)

    def close(self) -> None:
        """End the query and release its tables. Repeated calls have no effect."""
        self._resources.close()

    def __enter__(self) -> "SqlResult":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def run_sql(
    text: str,
    catalog: Catalog,
    parameters: Sequence[object] = (),
    limits: QueryLimits | None = None,
    clock: Clock | None = None,
) -> SqlResult:
    """Start a query in this process. `parameters` are the values of its `?`.

    `limits` hold while DuckDB runs the query, not while it plans; see `process.py`.

    Raises:
        MissingExtraError: DuckDB is not installed.
        SqlError: The text is not valid SQL, or DuckDB rejects it.
        UnsupportedError: The statement does more than read, or Arrow has no type for a result
            column.
        TableNotFoundError: There is no such table.
    """
    session = SqlSession(limits or QueryLimits(), clock or SystemClock())
    return run_in(session, text, catalog, parameters)


def run_in(
    session: SqlSession, text: str, catalog: Catalog, parameters: Sequence[object]
) -> SqlResult:
    """Start a query in a session, which ends with the result. Raises like `run_sql`."""
    with ExitStack() as resources:
        resources.callback(session.close)
        reader = session.call(lambda: _begin(session, text, catalog, parameters))
        return SqlResult(reader.schema, session.batches(reader), resources.pop_all())


def _begin(
    session: SqlSession, text: str, catalog: Catalog, parameters: Sequence[object]
) -> pa.RecordBatchReader:
    """Parse the statement, open the tables, and start."""
    check_statement(session.connection, text)
    tables = {(db.lower(), table.lower()): (db, table) for db, table in catalog.names()}
    names = named_tables(session.connection, text)
    reserved = {pair for pair in tables if pair[0] in _RESERVED}
    for pair in _named_pairs(names):
        if (key := (pair[0].lower(), pair[1].lower())) in reserved:
            _check_own(session.connection, *tables[key])
    tables = {pair: tables[pair] for pair in tables if pair not in reserved}
    for db in sorted({db for db, _ in tables.values()}):
        session.connection.execute(f"CREATE SCHEMA IF NOT EXISTS {quoted(db)}")
    for db, table in _to_open(names, tables):
        opened = catalog.open(db, table)
        # Quoted, because names may contain periods.
        select = session.register(f"{quoted(db)}.{quoted(table)}", opened)
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
    pairs = [pair for pair in _named_pairs(names) if pair[0].lower() not in _SYSTEM_SCHEMAS]
    return list(dict.fromkeys(tables.get((d.lower(), t.lower()), (d, t)) for d, t in pairs))


def _named_pairs(names: Sequence[tuple[str, ...]]) -> list[tuple[str, str]]:
    """Return (database, table) of each name; DuckDB reports names without a database itself."""
    return [(parts[-2], parts[-1]) for parts in names if len(parts) > 1]


def _check_own(connection: "duckdb.DuckDBPyConnection", db: str, table: str) -> None:
    """Raise `UnsupportedError` unless DuckDB has a table of its own with this name."""
    import duckdb

    try:
        connection.execute(f"DESCRIBE {quoted(db)}.{quoted(table)}")
    except duckdb.Error:
        reason = "SQL over a database with the name of one of DuckDB's own"
        raise UnsupportedError(reason, f"{db}.{table}") from None


def check_statement(connection: "duckdb.DuckDBPyConnection", text: str) -> None:
    """Check that `text` is one statement that reads.

    Raises:
        SqlError: There is no statement, or several.
        UnsupportedError: The statement does more than read.
        duckdb.Error: The text is not valid SQL.
    """
    statements = connection.extract_statements(text)
    if len(statements) != 1:
        raise SqlError(f"expected one statement, got {len(statements)}")
    kind = statements[0].type.name
    if kind not in _READING:
        raise UnsupportedError(f"{kind}, or any statement that does more than read,", "SQL")


def named_tables(connection: "duckdb.DuckDBPyConnection", text: str) -> list[tuple[str, ...]]:
    """Return the tables of a statement: (table,), (db, table) or (catalog, db, table).

    Empty if there are none, and if DuckDB can determine them only when binding.
    """
    import duckdb

    try:
        # Not `duckdb.get_table_names`, which uses the default database. That is not confined and
        # would download an extension for a URL in the text.
        names = connection.get_table_names(text, qualified=True)
    except duckdb.Error:
        # For example a statement with parameters.
        return []
    return [_parts(name) for name in sorted(names)]


def _parts(name: str) -> tuple[str, ...]:
    """Split `db."odd name" AS alias` into db, odd name."""
    parts, at, goes_on = [], 0, True
    while goes_on and (match := _NAME.match(name, at)) is not None:
        between, dot, plain, plain_dot = match.groups()
        parts.append(plain or between.replace('""', '"'))
        at, goes_on = match.end(), bool(dot or plain_dot)
    return tuple(parts)
