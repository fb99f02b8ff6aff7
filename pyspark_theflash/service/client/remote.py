"""Calls over a socket. A connection carries one call at a time; idle connections are pooled.

A call that may be repeated is repeated once, on a new connection, if a pooled connection turns out
to be closed, as after a restart of the server. Otherwise a call raises `ServiceUnavailableError` if
there was no response, and `StreamCutError` if rows ended before the server's END frame.
"""

import contextlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, TypeVar

import pyarrow as pa

from pyspark_theflash.base.clock import Clock
from pyspark_theflash.base.errors import (
    OptionError,
    ProtocolError,
    ServiceUnavailableError,
    StreamCutError,
)
from pyspark_theflash.base.tls import TlsFiles, TlsMaterial, client_contexts
from pyspark_theflash.net.address import UNIX, is_host_port
from pyspark_theflash.service.api.token import AccessToken
from pyspark_theflash.service.api.write import check_size
from pyspark_theflash.service.client.connection import (
    Connection,
    DeadConnectionError,
    GreetingCutError,
)
from pyspark_theflash.service.client.rows import Rows
from pyspark_theflash.service.wire.frame import (
    End,
)
from pyspark_theflash.service.wire.method import PUBLISH, Method
from pyspark_theflash.service.wire.uncompressed import open_uncompressed

_AGAIN_MS: Final = (20, 100, 500)
"""Pauses before further attempts to connect."""
_POOLED_MAX: Final = 16
_IPC_BYTES_MAX: Final = 1 << 30
"""Larger than any batch."""
_ALLOCATED_BYTES_MAX: Final = 16 << 20
"""The largest buffer that is allocated for an announced size before the data has arrived."""
_ARROW_ERRORS: Final = (pa.ArrowException, OSError)
"""Errors of Arrow's reader. Errors of the connection are converted before Arrow sees them."""
_T = TypeVar("_T")


class RemoteTransport:
    """A transport to the server at `unix:PATH` or `HOST:PORT`. Connects at the first call."""

    def __init__(
        self,
        address: str,
        *,
        clock: Clock,
        token: AccessToken | None = None,
        tls: TlsFiles | TlsMaterial | None = None,
    ) -> None:
        """Raises `OptionError`: the address or the certificates cannot be used."""
        if not (address.startswith(UNIX) and tls is None) and not is_host_port(address):
            form = "HOST:PORT" if tls is not None else "HOST:PORT or unix:PATH"
            raise OptionError("address", f"{address!r} is not of the form {form}")
        self._address, self._clock, self._token = address, clock, token
        self._tls = None if tls is None else client_contexts(tls)
        self._mutex = threading.Lock()
        self._pool: list[Connection] = []
        self._pid = os.getpid()

    def __str__(self) -> str:
        return self._address

    def call(
        self,
        called: Method,
        request: object,
        timeout_ms: int,
        tables: Iterable[pa.Table] | None = None,
    ) -> Any:  # noqa: ANN401
        # A publication may be in a file, and the server checks it.
        if tables is not None and called is not PUBLISH:
            check_size(sum(table.nbytes for table in tables), called)

        def exchange(connection: Connection) -> Any:  # noqa: ANN401
            try:
                connection.begin(called, request, timeout_ms)
                if tables is not None:
                    connection.send_tables(tables)
                return connection.response(called)
            finally:
                self._give_back(connection)

        return self._with_connection(exchange, may_repeat=called.may_repeat)

    def scan(self, called: Method, request: object, timeout_ms: int) -> Rows:
        def start(connection: Connection) -> Rows:
            try:
                stream = _Stream(connection, called, request, timeout_ms, self._give_back)
            except BaseException:
                self._give_back(connection)
                raise
            return Rows(stream.schema, stream.batches(), stream.close)

        return self._with_connection(start, may_repeat=called.may_repeat)

    def close(self) -> None:
        with self._mutex:
            pool, self._pool = self._pool, []
        for connection in pool:
            connection.close()

    def _with_connection(self, act: Callable[[Connection], _T], *, may_repeat: bool) -> _T:
        """Call `act` with a pooled connection, or with a new one."""
        connection = self._pooled()
        if connection is not None and may_repeat:
            with contextlib.suppress(DeadConnectionError):
                return act(connection)
            connection = None
        try:
            return act(connection or self._opened())
        except DeadConnectionError as error:
            raise error.cause from error

    def _pooled(self) -> Connection | None:
        with self._mutex:
            if self._pid != os.getpid():
                # A forked process must not use the connections of its parent.
                self._pool, self._pid = [], os.getpid()
            return self._pool.pop() if self._pool else None

    def _opened(self) -> Connection:
        """Connect, and again if the server hangs up during the greeting, before any request.

        A server does that to its oldest callers if too many that have no token connect.
        """
        for pause_ms in _AGAIN_MS:
            with contextlib.suppress(GreetingCutError):
                return self._connected()
            self._clock.sleep_ms(pause_ms)
        try:
            return self._connected()
        except GreetingCutError as error:
            raise ServiceUnavailableError(*error.args) from error

    def _connected(self) -> Connection:
        return Connection(self._address, self._clock, self._token, self._tls and self._tls())

    def _give_back(self, connection: "Connection") -> None:
        with self._mutex:
            if connection.is_usable and len(self._pool) < _POOLED_MAX:
                self._pool.append(connection)
                return
        connection.close()


class _Stream:
    """The rows of one call."""

    def __init__(
        self,
        connection: Connection,
        called: Method,
        request: object,
        timeout_ms: int,
        release: Callable[[Connection], None],
    ) -> None:
        """Begin a call. `release` is called with the connection when the stream is closed."""
        self._connection, self._release, self._is_closed = connection, release, False
        connection.begin(called, request, timeout_ms)
        self._source = _Source(connection)
        try:
            self._reader = open_uncompressed(self._source.read, connection.broken)
        except _ARROW_ERRORS as error:
            raise self._not_arrow() from error
        self.schema = self._reader.schema

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the batches, compare their counts with the server's END, and close the stream."""
        count = rows = 0
        try:
            while (batch := self._next()) is not None:
                count, rows = count + 1, rows + batch.num_rows
                yield batch
            if self._source.has_data():
                raise self._not_arrow()
            end = self._source.end
            if end != End(count, rows, self._source.size_bytes):
                reason = f"{end.rows if end else 0} rows were announced, {rows} were received"
                raise StreamCutError(self._connection.address, reason)
        finally:
            self.close()

    def close(self) -> None:
        """Cancel the call if it has not ended, and release the connection."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._source.end is None and not self._connection.is_usable:
            self._connection.cancel()
        self._release(self._connection)

    def _next(self) -> pa.RecordBatch | None:
        try:
            return self._reader.read_next_batch()
        except StopIteration:
            return None
        except _ARROW_ERRORS as error:
            raise self._not_arrow() from error

    def _not_arrow(self) -> ProtocolError:
        return self._connection.broken("the rows are not an Arrow stream")


class _Source:
    """The bytes of DATA frames, for Arrow.

    It does not refer to Arrow's reader: the reader refers to it, and a cycle would never be freed.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._left = self.size_bytes = 0
        self.end: End | None = None
        self._is_first = True

    def read(self, size_bytes: int) -> Any:  # noqa: ANN401 (a buffer)
        """Return the next bytes: `size_bytes`, or fewer at the end."""
        if not 0 <= size_bytes <= _IPC_BYTES_MAX:
            raise self._connection.broken("a batch is too large")
        buffer = pa.allocate_buffer(min(size_bytes, _ALLOCATED_BYTES_MAX))
        view = memoryview(buffer)
        filled = 0
        while filled < size_bytes and self.has_data():
            if filled == len(view):
                buffer = pa.allocate_buffer(min(size_bytes, 2 * filled))
                memoryview(buffer)[:filled] = view
                view = memoryview(buffer)
            part_bytes = min(self._left, len(view) - filled)
            self._connection.receive_into(view[filled : filled + part_bytes])
            filled += part_bytes
            self._left -= part_bytes
        return buffer if filled == size_bytes else buffer.slice(0, filled)

    def has_data(self) -> bool:
        """Whether there are more bytes; waits for the next frame."""
        while not self._left and self.end is None:
            data = self._connection.data(is_first=self._is_first)
            self._is_first = False
            if isinstance(data, End):
                self.end = data
            else:
                self._left = data
                self.size_bytes += data
        return bool(self._left)
