"""The process of a SQL query with limits; see `process.py`.

python -m pyspark_theflash.read.sql.worker CONTROL RESULT      (the request on standard input)
"""

import json
import os
import pickle
import re
import resource
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Final

import pyarrow as pa

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.errors import SqlMemoryError, TheFlashError
from pyspark_theflash.read.sql.lazy import SqlTable
from pyspark_theflash.read.sql.process import COMPLETE, SIZE, STREAM
from pyspark_theflash.read.sql.session import QueryLimits, SqlSession
from pyspark_theflash.read.sql.sql import run_in

_MARGIN: Final = 128 << 20
"""Memory beside DuckDB's: batches in transfer, and its threads."""


class _Table:
    """A table of the other process; implements `SqlTable`."""

    def __init__(self, tables: "_Tables", number: int, schema: pa.Schema) -> None:
        self._tables, self._number, self.schema = tables, number, schema

    def read(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        with self._tables.rows(self._number, columns) as sock, sock.makefile("rb") as file:
            yield from pa.ipc.open_stream(file)
            if file.read(1) != COMPLETE:
                raise EOFError("the rows of a table were cut off")


class _Tables:
    """The tables of the other process; implements `Catalog`."""

    def __init__(self, control: socket.socket, names: Sequence[tuple[str, str]]) -> None:
        self._control, self._names = control, names
        self._mutex, self._opened = threading.Lock(), 0

    def names(self) -> Sequence[tuple[str, str]]:
        return self._names

    def open(self, db: str, table: str) -> SqlTable:
        with self._mutex:
            self._ask(db, table)
            (size,) = SIZE.unpack(self._receive(SIZE.size))
            schema = self._receive(size)
            if not schema:
                raise EOFError("a table cannot be opened")
            self._opened += 1
            return _Table(self, self._opened - 1, pa.ipc.read_schema(pa.py_buffer(schema)))

    def rows(self, number: int, columns: Sequence[str]) -> socket.socket:
        """Begin a read of a table, and return the socket of its rows."""
        with self._mutex:
            self._ask(number, list(columns))
            _, (fd,), _, _ = socket.recv_fds(self._control, 1, 1)
            return socket.socket(fileno=fd)

    def _ask(self, *request: object) -> None:
        self._control.sendall(json.dumps(request).encode() + b"\n")

    def _receive(self, size: int) -> bytes:
        return self._control.recv(size, socket.MSG_WAITALL) if size else b""


def main() -> int:
    """Run the query of the request; returns the exit status."""
    (size,) = SIZE.unpack(sys.stdin.buffer.read(SIZE.size))
    request = pickle.loads(sys.stdin.buffer.read(size))  # noqa: S301 (the process that started us)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    fds = map(int, sys.argv[1:3])
    control, result = (socket.socket(fileno=fd) for fd in fds)
    error = None
    with result.makefile("wb") as out:
        try:
            _run(control, request, out)
        except TheFlashError as caught:
            error = [type(caught).__name__, list(caught.args)]
        except MemoryError:
            error = [SqlMemoryError.__name__, [request[3].memory_mb]]
        except Exception as caught:  # noqa: BLE001 (its text may have values of rows)
            error = ["InternalError", [f"SQL failed with {type(caught).__name__}"]]
        with suppress(OSError):
            out.write(json.dumps(error, default=str).encode() + b"\n")
    return 0


def _run(control: socket.socket, request: list[Any], out: IO[bytes]) -> None:
    text, names, parameters, limits = request
    here = QueryLimits(limits.memory_mb, limits.threads)
    session = SqlSession(here, SystemClock())
    limit_memory(limits.memory_mb)
    with run_in(session, text, _Tables(control, names), parameters) as rows:
        out.write(STREAM)
        with pa.ipc.new_stream(out, rows.schema) as writer:
            for batch in rows:
                writer.write_batch(batch)
                out.flush()


def limit_memory(memory_mb: int) -> None:
    """Limit the memory that this process allocates from now on, where the system can."""
    with suppress(FileNotFoundError):
        status = Path("/proc/self/status").read_text("ascii")
        used = re.search(r"VmData:\s+(\d+) kB", status)
        if used is not None:
            most = (int(used[1]) << 10) + (memory_mb << 20) + _MARGIN
            resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
