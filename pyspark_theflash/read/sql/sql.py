"""One SQL query over tables of one moment.

    text ──► DuckDB parses it: one statement, reading?  which tables?
                 │
                 ▼
    Catalog.open(db, table) ──► SqlTable ──► LazyTable, and a view `db`.`table` over it
                 │
                 ▼
    DuckDB runs it, asks each LazyTable for the columns and rows it needs ──► Arrow batches

Only the tables named are opened; a statement that names none (SHOW ALL TABLES) gets all of them.
The SQL is DuckDB's, not TiDB's: texts compare by their bytes, whatever their collation is.

What fails raises; nothing is rounded, cut or wrapped silently that DuckDB does not define so. What
Arrow could show only as something else (BIT, BIGNUM, VARIANT, TIME WITH TIME ZONE) is refused.
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
    """The tables there are, all as of one moment."""

    def names(self) -> Sequence[tuple[str, str]]:
        """(database, table) of all."""

    def open(self, db: str, table: str) -> SqlTable:
        """A table by its name, in any case.

        Raises:
            TableNotFoundError: there is none.
            TheFlashError: it cannot be read.
        """


class SqlResult:
    """The rows of a query, once, as they are found. A context manager: leaving it ends the query.

    Iterating stops at Ctrl-C and at the deadline.
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
        """The rows, in the order asked for.

        Raises:
            SqlError, SqlMemoryError, SqlTimeoutError: the query failed.
            TheFlashError: reading a table failed; see `Snapshot.scan`.
        """
        return self._session.batches(self._reader)

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:  # noqa: ANN401 (PyCapsules)
        reader = pa.RecordBatchReader.from_batches(self.schema, iter(self))
        return reader.__arrow_c_stream__(requested_schema)

    def close(self) -> None:
        """End the query and let go of what it read. More than once is harmless."""
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
    """Begin a query. `parameters` are the values of its `?`.

    Raises:
        MissingExtraError: DuckDB is not installed.
        SqlError: it is no SQL, or DuckDB refuses it.
        UnsupportedError: it would do more than read, or its result has a type that Arrow lacks.
        TableNotFoundError: there is no such table.
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
    """Parse, open the tables, start."""
    check_statement(session.connection, text)
    known = {(db.lower(), table.lower()): (db, table) for db, table in catalog.names()}
    for db in sorted({db for db, _ in known.values()}):
        session.connection.execute(f"CREATE SCHEMA IF NOT EXISTS {quoted(db)}")
    for db, table in _wanted(named_tables(session.connection, text), known):
        opened = catalog.open(db, table)
        select = session.register(f"{db}.{table}", opened)
        session.connection.execute(f"CREATE VIEW {quoted(db)}.{quoted(table)} AS {select}")
    lock(session.connection)
    relation = session.connection.sql(text, params=list(parameters) or None)
    for name, tp in zip(relation.columns, relation.types, strict=True):
        if found := _REFUSED_TYPES.search(str(tp)):
            raise UnsupportedError(f"a result of type {found[0]}", f"column {name}")
    return relation.to_arrow_reader(BATCH_ROWS)


def _wanted(
    names: Sequence[tuple[str, ...]], known: dict[tuple[str, str], tuple[str, str]]
) -> Sequence[tuple[str, str]]:
    """The tables to open, as they are really called; one that is unknown, as it is called."""
    if not names:
        return list(known.values())
    # Of a name without a database DuckDB says what is wrong.
    pairs = [(parts[-2], parts[-1]) for parts in names if len(parts) > 1]
    pairs = [pair for pair in pairs if pair[0].lower() not in _SYSTEM_SCHEMAS]
    return list(dict.fromkeys(known.get((d.lower(), t.lower()), (d, t)) for d, t in pairs))
