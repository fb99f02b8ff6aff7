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
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

import pyarrow as pa

from pyspark_theflash.clock import Clock, SystemClock
from pyspark_theflash.errors import SqlError, SqlMemoryError, UnsupportedError
from pyspark_theflash.query.connection import Limits, connect, lock, quoted
from pyspark_theflash.query.lazy import Failures, LazyTable, SqlTable, view_of
from pyspark_theflash.query.statement import check_statement, named_tables
from pyspark_theflash.query.worker import Worker

if TYPE_CHECKING:
    import duckdb

BATCH_ROWS: Final = 1 << 16
Answer = TypeVar("Answer")
_SYSTEM_SCHEMAS: Final = frozenset({"information_schema", "pg_catalog"})
_REFUSED_TYPES: Final = re.compile(r"\b(BIT|BIGNUM|VARIANT|TIME WITH TIME ZONE)\b")
_OF_THE_TEXT: Final = ("ParserException", "BinderException", "CatalogException", "SyntaxException")
"""Errors that speak of the query alone. Others may quote values of rows, so those are cut out."""
_VALUE: Final = re.compile(r"'.*'|\".*\"|-?\d[\d.]*", re.DOTALL)


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

    def __init__(self, run: "_Run", reader: pa.RecordBatchReader, resources: ExitStack) -> None:
        self._run, self._reader, self._resources = run, reader, resources

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
        while (batch := self._run.call(self._next)) is not None:
            yield batch

    def _next(self) -> pa.RecordBatch | None:
        try:
            batch = self._reader.read_next_batch()
        except StopIteration:
            return None
        for column in batch.columns:
            if pa.types.is_decimal(column.type):
                # DuckDB's HUGEINT, up to 39 digits, comes as a decimal of 38.
                column.validate(full=True)
        return batch

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
    limits: Limits | None = None,
    clock: Clock | None = None,
) -> SqlResult:
    """Begin a query. `parameters` are the values of its `?`.

    Raises:
        MissingExtraError: DuckDB is not installed.
        SqlError: it is no SQL, or DuckDB refuses it.
        UnsupportedError: it would do more than read, or its result has a type that Arrow lacks.
        TableNotFoundError: there is no such table.
    """
    limits = limits or Limits()
    with ExitStack() as resources:
        connection = connect(limits)
        resources.callback(connection.close)
        run = _Run(connection, limits, clock or SystemClock())
        resources.callback(run.close)
        reader = run.call(lambda: run.begin(text, catalog, parameters))
        return SqlResult(run, reader, resources.pop_all())


class _Run:
    """A connection with one query."""

    def __init__(
        self, connection: "duckdb.DuckDBPyConnection", limits: Limits, clock: Clock
    ) -> None:
        self._connection, self._limits = connection, limits
        self._failures = Failures()
        self._worker = Worker(connection.interrupt, limits.timeout_ms, clock)

    def call(self, action: Callable[[], Answer]) -> Answer:
        """Run something in the worker; DuckDB's errors become ours."""
        import duckdb

        try:
            return self._worker.call(action)
        except (duckdb.Error, pa.ArrowException, OSError, RuntimeError) as error:
            if self._failures.first is not None:
                raise self._failures.first from None
            raise self._translated(error) from None

    def close(self) -> None:
        self._worker.close()

    def begin(
        self, text: str, catalog: Catalog, parameters: Sequence[object]
    ) -> pa.RecordBatchReader:
        """Parse, open the tables, start."""
        check_statement(self._connection, text)
        self._add_tables(text, catalog)
        lock(self._connection)
        relation = self._connection.sql(text, params=list(parameters) or None)
        for name, tp in zip(relation.columns, relation.types, strict=True):
            if found := _REFUSED_TYPES.search(str(tp)):
                raise UnsupportedError(f"a result of type {found[0]}", f"column {name}")
        return relation.to_arrow_reader(BATCH_ROWS)

    def _add_tables(self, text: str, catalog: Catalog) -> None:
        known = {(db.lower(), table.lower()): (db, table) for db, table in catalog.names()}
        for db in sorted({db for db, _ in known.values()}):
            self._connection.execute(f"CREATE SCHEMA IF NOT EXISTS {quoted(db)}")
        for db, table in _wanted(named_tables(self._connection, text), known):
            opened = catalog.open(db, table)
            dataset = f"{db}.{table}"
            self._connection.register(dataset, LazyTable(opened, self._failures))
            view = f"{quoted(db)}.{quoted(table)}"
            self._connection.execute(f"CREATE VIEW {view} AS {view_of(opened, dataset)}")

    def _translated(self, error: Exception) -> Exception:
        import duckdb

        if isinstance(error, duckdb.OutOfMemoryException):
            return SqlMemoryError(self._limits.memory_mb)
        if type(error).__name__ in _OF_THE_TEXT:
            return SqlError(str(error))
        first_line = str(error).partition("\n")[0]
        return SqlError(_VALUE.sub("…", first_line))


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
