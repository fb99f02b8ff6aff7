"""DuckDB sessions: interruptible calls, tables, results and error translation."""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from types import TracebackType
from typing import Final, TypeVar

import pyarrow as pa

from pyspark_theflash.base.clock import Clock
from pyspark_theflash.base.errors import SqlError, SqlMemoryError, SqlOverflowError
from pyspark_theflash.read.sql.connection import QueryLimits, connect
from pyspark_theflash.read.sql.lazy import Failures, LazyTable, SqlTable, view_of
from pyspark_theflash.read.sql.worker import QueryThread

BATCH_ROWS: Final = 1 << 16
Answer = TypeVar("Answer")
_OF_THE_TEXT: Final = ("ParserException", "BinderException", "CatalogException", "SyntaxException")
"""Errors about the query text only. Others may contain values of rows, which are removed."""
_VALUE: Final = re.compile(r"'.*'|\".*\"|-?\d[\d.]*", re.DOTALL)


class SqlSession:
    """A confined DuckDB and the thread in which it runs. A context manager."""

    def __init__(self, limits: QueryLimits, clock: Clock) -> None:
        """Open DuckDB. Raises `MissingExtraError`: It is not installed."""
        self._limits = limits
        self._failures = Failures()
        with ExitStack() as resources:
            self.connection = connect(limits)
            resources.callback(self.connection.close)
            self._worker = QueryThread(self.connection.interrupt, limits.timeout_ms, clock)
            resources.callback(self._worker.close)
            self._resources = resources.pop_all()

    def register(self, name: str, table: SqlTable) -> str:
        """Register or replace a table; return the SELECT that reads it."""
        self.connection.register(name, LazyTable(table, self._failures))
        return view_of(table, name)

    def call(self, action: Callable[[], Answer]) -> Answer:
        """Run a function in the session's thread.

        Raises:
            SqlError, SqlMemoryError: DuckDB rejects the query, or fails.
            SqlTimeoutError: The time limit has passed.
            TheFlashError: A table could not be read.
        """
        import duckdb

        try:
            return self._worker.call(action)
        except (duckdb.Error, pa.ArrowException, OSError, RuntimeError) as error:
            if self._failures.first is not None:
                raise self._failures.first from None
            raise self._translated(error) from None

    def batches(self, reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
        """Yield the batches of a result, read in the session's thread. Raises like `call`."""

        def following() -> pa.RecordBatch | None:
            batch = next(reader, None)
            for column in () if batch is None else batch.columns:
                if pa.types.is_decimal(column.type):
                    # DuckDB exports HUGEINT, of up to 39 digits, as a decimal of 38.
                    column.validate(full=True)
            return batch

        while (batch := self.call(following)) is not None:
            yield batch

    def __enter__(self) -> "SqlSession":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._resources.close()

    def _translated(self, error: Exception) -> Exception:
        import duckdb

        if isinstance(error, duckdb.OutOfMemoryException):
            return SqlMemoryError(self._limits.memory_mb)
        if type(error).__name__ in _OF_THE_TEXT:
            return SqlError(str(error))
        text = _VALUE.sub("…", str(error).partition("\n")[0])
        is_overflow = isinstance(error, duckdb.OutOfRangeException)
        return SqlOverflowError(text) if is_overflow else SqlError(text)
