"""SQL queries in a process of their own, whose limits hold.

DuckDB evaluates constants while it plans, ignoring its memory limit, interrupts and the deadline:
`repeat('x', 2000000000)` takes gigabytes and a minute. So a query with limits runs in a child
process (`worker.py`), which limits its memory (on Linux) and is killed at the deadline, at Ctrl-C,
or when its result is closed. The tables are read in this process, and their batches are sent.

    this process                                  the child
    request ────────── stdin (pickle) ──────────► its end is the end of the child
    Catalog.open ◄──── control: a line of JSON ── the tables that the query names
           schema ───────────────────────────────►
    SqlTable.read ◄─── control: a line of JSON ── each read of a table
           a socket with an IPC stream ──────────► "." after the stream: it is complete
    SqlResult ◄─────── result: an IPC stream ──── then a line of JSON: None, or the error
"""

import contextlib
import json
import pickle
import signal
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any, Final

import pyarrow as pa

from pyspark_theflash.base import errors
from pyspark_theflash.base.clock import Clock, SystemClock
from pyspark_theflash.base.errors import (
    InternalError,
    SqlError,
    SqlMemoryError,
    SqlTimeoutError,
    TheFlashError,
)
from pyspark_theflash.base.process import start_module
from pyspark_theflash.read.sql.lazy import SqlTable
from pyspark_theflash.read.sql.session import QueryLimits
from pyspark_theflash.read.sql.sql import Catalog, SqlResult

_WORKER: Final = "pyspark_theflash.read.sql.worker"
COMPLETE: Final = b"."
STREAM: Final = b"S"
"""The first byte of a result; without it, the line with the error follows."""
SIZE: Final = struct.Struct("<Q")
_OUT_OF_MEMORY: Final = (-signal.SIGKILL, -signal.SIGABRT)
"""Ends of a child for which no memory could be allocated."""


def run_confined(
    text: str,
    catalog: Catalog,
    parameters: Sequence[object],
    limits: QueryLimits,
    clock: Clock | None = None,
) -> SqlResult:
    """Start a query in a process of its own. Arguments and errors are those of `run_sql`.

    Raises:
        SqlMemoryError, SqlTimeoutError: A limit was reached.
    """
    with ExitStack() as undo:
        query = _QueryProcess(catalog, limits, clock or SystemClock(), undo)
        query.begin([text, catalog.names(), list(parameters), limits])
        schema, batches = query.result()
        return SqlResult(schema, batches, undo.pop_all())


class _QueryProcess:
    """A child process and the threads that send tables to it."""

    def __init__(
        self, catalog: Catalog, limits: QueryLimits, clock: Clock, undo: ExitStack
    ) -> None:
        self._catalog, self._limits, self._clock = catalog, limits, clock
        self._begun_ms = clock.boottime_ms()
        self._failures: list[Exception] = []
        self._tables: list[SqlTable] = []
        self._threads: list[threading.Thread] = []
        # Threads end when the child has, because it has the other ends of their sockets.
        undo.callback(self._join)
        pairs = [socket.socketpair() for _ in range(2)]
        (self._control, control), (self._result, result) = pairs
        for own, _ in pairs:
            undo.callback(own.close)
        with control, result:
            fds = control.fileno(), result.fileno()
            self._process = start_module(
                _WORKER,
                *map(str, fds),
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                pass_fds=fds,
                # A Ctrl-C in a terminal is handled here.
                start_new_session=True,
            )
        undo.callback(self._end)

    def begin(self, request: list[object]) -> None:
        """Send the request."""
        body, stdin = pickle.dumps(request), self._process.stdin
        # A child that has ended already is detected by its missing result.
        with contextlib.suppress(OSError):
            if stdin is not None:  # it is a pipe
                stdin.write(SIZE.pack(len(body)) + body)
                stdin.flush()
        self._start(self._answer)

    def result(self) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
        """Return schema and batches of the result. Raises the query's error."""
        source = _ResultFile(self)
        if (first := source.read(1)) != STREAM:
            self._check(source, first)
        try:
            reader = pa.ipc.open_stream(pa.PythonFile(source, "r"))
        except (pa.ArrowException, OSError, EOFError):
            self._check(source)
            raise
        return reader.schema, self._batches(source, reader)

    def receive(self, size: int) -> bytes:
        """Receive up to `size` bytes of the result; empty: the child has ended.

        Raises:
            SqlTimeoutError: The deadline has passed.
        """
        timeout_ms = self._limits.timeout_ms
        if timeout_ms is not None:
            left_ms = self._begun_ms + timeout_ms - self._clock.boottime_ms()
            self._result.settimeout(max(left_ms, 1) / 1000)
        try:
            return self._result.recv(size)
        except TimeoutError:
            raise SqlTimeoutError(timeout_ms or 0) from None
        except ConnectionError:
            return b""

    def _batches(
        self, source: "_ResultFile", reader: pa.RecordBatchReader
    ) -> Iterator[pa.RecordBatch]:
        try:
            yield from reader
        except (pa.ArrowException, OSError, EOFError):
            # The child has ended in the middle, or sends something else.
            self._check(source)
            raise
        self._check(source)

    def _check(self, source: "_ResultFile", begun: bytes = b"") -> None:
        """Raise the query's error, if there is one; `begun` is the begin of its line."""
        line = begun + source.rest()
        if self._failures:
            raise self._failures[0]
        if not line.endswith(b"\n"):
            status = self._process.wait()
            if status in _OUT_OF_MEMORY:
                raise SqlMemoryError(self._limits.memory_mb)
            raise SqlError(f"the process of the query ended with status {status}")
        error = json.loads(line)
        if error is not None:
            name, arguments = error
            kind = getattr(errors, name, None)
            if isinstance(kind, type) and issubclass(kind, TheFlashError):
                raise kind(*arguments)
            raise InternalError(f"SQL failed with {name}")

    def _answer(self) -> None:
        """Answer the child's requests for tables and their rows until it ends.

        After an error, the child waits for no further answer.
        """
        with contextlib.suppress(OSError), self._control.makefile("rb") as lines:
            try:
                for line in lines:
                    self._answer_one(json.loads(line))
            except ConnectionError:
                pass  # the child has ended
            except OSError as error:
                self._failures.append(SqlError(f"tables cannot be sent to its process: {error}"))
            except Exception as error:  # noqa: BLE001 (raised by `_check`)
                self._failures.append(error)
            self._control.shutdown(socket.SHUT_RDWR)

    def _answer_one(self, request: Any) -> None:  # noqa: ANN401 (JSON)
        if isinstance(request[0], str):
            schema = self._open(*request)
            self._control.sendall(SIZE.pack(len(schema)) + schema)
            return
        number, columns = request
        own, other = socket.socketpair()
        with other:
            self._start(self._send, self._tables[number], columns, own)
            socket.send_fds(self._control, [COMPLETE], [other.fileno()])

    def _open(self, db: str, table: str) -> bytes:
        """Open a table and return its schema; empty: it failed."""
        try:
            opened = self._catalog.open(db, table)
        except Exception as error:  # noqa: BLE001 (raised by `_check`)
            self._failures.append(error)
            return b""
        self._tables.append(opened)
        return bytes(opened.schema.serialize())

    def _send(self, table: SqlTable, columns: list[str], sock: socket.socket) -> None:
        """Send the rows of a table as an IPC stream."""
        schema = pa.schema([table.schema.field(name) for name in columns])
        with sock:
            try:
                with sock.makefile("wb") as file, pa.ipc.new_stream(file, schema) as writer:
                    for batch in table.read(columns):
                        writer.write_batch(batch)
                sock.sendall(COMPLETE)
            except ConnectionError:
                pass  # the child has ended, or reads no more rows
            except Exception as error:  # noqa: BLE001 (raised by `_check`)
                self._failures.append(error)

    def _start(self, function: Any, *arguments: object) -> None:  # noqa: ANN401
        thread = threading.Thread(target=function, args=arguments, name="sql", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _end(self) -> None:
        """Kill the child."""
        self._process.kill()
        self._process.wait()
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()

    def _join(self) -> None:
        for thread in self._threads:
            thread.join()


class _ResultFile:
    """The result's bytes as a file for pyarrow."""

    closed = False

    def __init__(self, query: _QueryProcess) -> None:
        self._query = query

    def read(self, size: int) -> bytes:
        """Read exactly `size` bytes, or fewer at the end."""
        data = bytearray()
        while len(data) < size and (part := self._query.receive(size - len(data))):
            data += part
        return bytes(data)

    def rest(self) -> bytes:
        """Read up to the end."""
        data = bytearray()
        while part := self._query.receive(1 << 16):
            data += part
        return bytes(data)

    def close(self) -> None:
        """Do nothing: the socket belongs to the query."""
