"""DuckDB sessions: confined databases, interruptible calls, and error translation.

A database is in memory and has no access to files, network, extensions, Python variables or
secrets. Memory and threads are bounded, and no statement can change the configuration. Nothing is
spilled to disk: a query that needs more memory fails.

DuckDB does not handle signals, so it runs in a thread of its own, while the calling thread handles
Ctrl-C and the deadline.
"""

import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeVar

import pyarrow as pa

from pyspark_theflash.base.clock import Clock, Deadline
from pyspark_theflash.base.errors import (
    MissingExtraError,
    SqlError,
    SqlMemoryError,
    SqlOverflowError,
    SqlTimeoutError,
)
from pyspark_theflash.read.sql.lazy import LazyTable, SqlTable, view_of

if TYPE_CHECKING:
    import duckdb

_MAX_THREADS: Final = 4
_AGAIN_S: Final = 0.05
BATCH_ROWS: Final = 1 << 14
Answer = TypeVar("Answer")
_OF_THE_TEXT: Final = ("ParserException", "BinderException", "CatalogException", "SyntaxException")
"""Errors about the query text only. Others may contain values of rows, which are removed."""
_OUT_OF_MEMORY: Final = "Out of Memory Error"
_VALUE: Final = re.compile(r"'.*'|\".*\"|-?\d[\d.]*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class QueryLimits:
    """Limits of a query. `timeout_ms` None: no limit."""

    memory_mb: int = 1024
    threads: int = field(default_factory=lambda: min(os.cpu_count() or 1, _MAX_THREADS))
    timeout_ms: int | None = None


def connect(limits: QueryLimits) -> "duckdb.DuckDBPyConnection":
    """Open a new database. Call `lock` before executing an untrusted statement.

    Raises:
        MissingExtraError: DuckDB is not installed.
    """
    try:
        import duckdb
    except ImportError as error:
        raise MissingExtraError("duckdb", "sql") from error
    connection = duckdb.connect(
        ":memory:",
        config={
            "enable_external_access": "false",
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "allow_community_extensions": "false",
            "allow_persistent_secrets": "false",
            "python_enable_replacements": "false",
            "temp_directory": "",
            "preserve_insertion_order": "false",
            "memory_limit": f"{limits.memory_mb}MiB",
            "threads": str(limits.threads),
        },
    )
    connection.execute("SET disabled_filesystems = 'LocalFileSystem'")
    # The time zone of TIMESTAMPs in text forms and Spark sessions, and in the types of results.
    connection.execute("SET TimeZone = 'UTC'")
    return connection


def lock(connection: "duckdb.DuckDBPyConnection") -> None:
    """Forbid changes of settings and writes from here on."""
    connection.execute("SET lock_configuration = true")
    connection.execute("BEGIN TRANSACTION READ ONLY")


class QueryThread:
    """One thread. `interrupt` must end the current call soon, with an error."""

    def __init__(self, interrupt: Callable[[], None], timeout_ms: int | None, clock: Clock) -> None:
        """Start the time limit, which is for all calls together."""
        self._interrupt = interrupt
        self._deadline = None if timeout_ms is None else Deadline(clock, timeout_ms)
        self._pool = ThreadPoolExecutor(1, "theflash-sql")

    def call(self, action: Callable[[], Answer]) -> Answer:
        """Return the result of `action`. Raises `SqlTimeoutError`: The time limit has passed."""
        future = self._pool.submit(action)
        deadline = self._deadline
        try:
            return future.result(None if deadline is None else deadline.left_ms() / 1000)
        except FutureTimeoutError:
            raise SqlTimeoutError(deadline.timeout_ms if deadline else 0) from None
        finally:
            # Also on Ctrl-C: the engine must be idle afterwards. An interrupt before the call has
            # started has no effect, so it is repeated.
            while not future.done():
                self._interrupt()
                wait([future], _AGAIN_S)

    def close(self) -> None:
        """End the thread."""
        self._pool.shutdown()


class SqlSession:
    """A confined DuckDB and the thread in which it runs."""

    def __init__(self, limits: QueryLimits, clock: Clock) -> None:
        """Open DuckDB. Raises `MissingExtraError`: It is not installed."""
        self._limits = limits
        self._failures: list[Exception] = []
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
            if self._failures:
                raise self._failures[0] from None
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

    def close(self) -> None:
        """End the thread and close the database."""
        self._resources.close()

    def _translated(self, error: Exception) -> Exception:
        import duckdb

        # Arrow streams pass on only the text.
        is_full = isinstance(error, duckdb.OutOfMemoryException)
        if is_full or str(error).startswith(_OUT_OF_MEMORY):
            return SqlMemoryError(self._limits.memory_mb)
        if type(error).__name__ in _OF_THE_TEXT:
            return SqlError(str(error))
        text = _VALUE.sub("…", str(error).partition("\n")[0])
        is_overflow = isinstance(error, duckdb.OutOfRangeException)
        return SqlOverflowError(text) if is_overflow else SqlError(text)
