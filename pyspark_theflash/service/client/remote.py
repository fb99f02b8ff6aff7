"""Calls over a socket. A connection carries one call at a time; idle connections are pooled.

A call that may be repeated is repeated once, on a new connection, if a pooled connection turns out
to be closed, as after a restart of the server. Otherwise a call raises `ServiceUnavailableError` if
there was no response, and `StreamCutError` if rows ended before the server's END frame.
"""

import contextlib
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, TypeVar

import pyarrow as pa

from pyspark_theflash.base.clock import Clock
from pyspark_theflash.base.errors import (
    AuthenticationError,
    CodecError,
    DeadlineExceededError,
    OptionError,
    ProtocolError,
    ServiceUnavailableError,
    StreamCutError,
)
from pyspark_theflash.base.tls import TlsFiles, TlsMaterial, client_context
from pyspark_theflash.net.address import UNIX, is_host_port, split_host_port
from pyspark_theflash.service.api.error import decode_error
from pyspark_theflash.service.api.token import AccessToken
from pyspark_theflash.service.api.write import check_size
from pyspark_theflash.service.client.rows import Rows
from pyspark_theflash.service.wire.frame import (
    DATA_BYTES_MAX,
    GREETING_BYTES_MAX,
    PREFACE,
    RESPONSE_BYTES_MAX,
    End,
    FrameType,
    Header,
    Hello,
    Ready,
    Request,
    encode_frame,
)
from pyspark_theflash.service.wire.link import Link
from pyspark_theflash.service.wire.message import Error
from pyspark_theflash.service.wire.method import Method
from pyspark_theflash.service.wire.protobuf import decode, encode
from pyspark_theflash.service.wire.stream import StreamEncoder
from pyspark_theflash.service.wire.uncompressed import open_uncompressed

CONNECT_MS: Final = 5_000
SEND_MS: Final = 30_000
GRACE_MS: Final = 2_000
"""The time after a call's deadline for the server to report its own timeout error."""
LONGEST_MS: Final = 86_400_000
_POOLED_MAX: Final = 16
_IPC_BYTES_MAX: Final = 1 << 30
"""Larger than any batch."""
_ALLOCATED_BYTES_MAX: Final = 16 << 20
"""The largest buffer that is allocated for an announced size before the data has arrived."""
_ARROW_ERRORS: Final = (pa.ArrowException, OSError)
"""Errors of Arrow's reader. Errors of the connection are converted before Arrow sees them."""
_DRAIN_MS: Final = 1_000
_KEEP_ALIVE: Final = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}
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
        self._tls = None if tls is None else client_context(tls)
        self._mutex = threading.Lock()
        self._pool: list[Connection] = []
        self._pid = os.getpid()

    def call(
        self,
        called: Method,
        request: object,
        timeout_ms: int,
        tables: Sequence[pa.Table] | None = None,
    ) -> Any:  # noqa: ANN401
        if tables is not None:
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

    def _with_connection(self, act: Callable[["Connection"], _T], *, may_repeat: bool) -> _T:
        """Call `act` with a pooled connection, or with a new one."""
        connection = self._pooled()
        if connection is not None and may_repeat:
            with contextlib.suppress(_DeadConnectionError):
                return act(connection)
            connection = None
        try:
            return act(connection or self._opened())
        except _DeadConnectionError as error:
            raise error.cause from error

    def _pooled(self) -> "Connection | None":
        with self._mutex:
            if self._pid != os.getpid():
                # A forked process must not use the connections of its parent.
                self._pool, self._pid = [], os.getpid()
            return self._pool.pop() if self._pool else None

    def _opened(self) -> "Connection":
        return Connection(self._address, self._clock, self._token, self._tls)

    def _give_back(self, connection: "Connection") -> None:
        with self._mutex:
            if connection.is_usable and len(self._pool) < _POOLED_MAX:
                self._pool.append(connection)
                return
        connection.close()


class _DeadConnectionError(Exception):
    """The connection ended before any part of a response arrived; `cause` is the public error."""

    def __init__(self, cause: ServiceUnavailableError) -> None:
        super().__init__(cause)
        self.cause = cause


class Connection:
    """An authenticated connection.

    Attributes:
        is_usable: Whether another call may begin.
    """

    def __init__(
        self, address: str, clock: Clock, token: AccessToken | None, tls: ssl.SSLContext | None
    ) -> None:
        self.address, self._clock = address, clock
        self._calls = 0
        self.is_usable = False
        self._link = Link(_connected(address, tls), clock)
        try:
            self._greet(token)
        except BaseException:
            self._link.close()
            raise
        self.is_usable = True

    def begin(self, called: Method, request: object, timeout_ms: int) -> None:
        """Send a request; the connection is not usable until the response has ended."""
        self._calls += 1
        self._method, self._timeout_ms = called.name, timeout_ms or LONGEST_MS
        self._cut = StreamCutError if called.gives_rows else ServiceUnavailableError
        self._deadline_ms = self._clock.boottime_ms() + self._timeout_ms + GRACE_MS
        body = Request(called.name, timeout_ms, encode(request)).to_bytes()
        self.is_usable = False
        with self._typed_errors(is_first=True):
            self._send(FrameType.REQUEST, body)

    def send_tables(self, tables: Sequence[pa.Table]) -> None:
        """Send the rows of a write, until the server rejects them."""
        encoder = StreamEncoder()
        try:
            for table in tables:
                for parts in encoder.encode(table.schema, table.to_batches()):
                    if self._link.has_input():
                        # A response before the end of the rows is an error.
                        self._send(FrameType.CANCEL)
                        return
                    if self._deadline_ms - GRACE_MS <= self._clock.boottime_ms():
                        self.cancel()
                        raise DeadlineExceededError(self._method, self._timeout_ms)
                    self._link.send_data(self._calls, parts, SEND_MS)
            self._send(FrameType.END, encoder.end().to_bytes())
        except (OSError, EOFError) as error:
            # The server may have sent the reason before it closed the connection.
            if not self._link.has_input():
                raise self._lost(error) from error

    def response(self, called: Method) -> Any:  # noqa: ANN401
        """Receive the response of a call without rows."""
        body = self._expected(FrameType.RESPONSE, RESPONSE_BYTES_MAX, is_first=True)
        self._expected(FrameType.END, GREETING_BYTES_MAX)
        self.is_usable = True
        with self._typed_errors():
            return decode(called.response, body)

    def data(self, *, is_first: bool) -> int | End:
        """Receive the next header of DATA and return the size of its body, or return the END."""
        header = self._header(DATA_BYTES_MAX, is_first=is_first)
        if header.type is FrameType.DATA:
            return header.length
        body = self._body(header)
        if header.type is not FrameType.END:
            raise self.broken(f"{header.type.name} in the middle of rows")
        self.is_usable = True
        with self._typed_errors():
            return End.from_bytes(body)

    def receive_into(self, view: memoryview) -> None:
        """Fill `view` with the next bytes of DATA."""
        with self._typed_errors():
            self._link.receive_into(view, self._left_ms())

    def cancel(self) -> None:
        """Cancel the call and skip the rest of its response.

        The connection is usable again if the response ends within a second.
        """
        deadline_ms = self._clock.boottime_ms() + _DRAIN_MS
        with contextlib.suppress(OSError, EOFError, CodecError):
            self._link.send(encode_frame(FrameType.CANCEL, self._calls), _DRAIN_MS)
            while self._clock.boottime_ms() < deadline_ms:
                header, _ = self._link.receive_frame(DATA_BYTES_MAX, _DRAIN_MS)
                if header.type in (FrameType.END, FrameType.ERROR):
                    self.is_usable = True
                    return

    def close(self) -> None:
        """Close the connection."""
        self._link.close()

    def __del__(self) -> None:
        # Rows that were dropped before all of them were read.
        if hasattr(self, "_link"):
            self._link.close()

    def broken(self, reason: str) -> ProtocolError:
        """Return the error for a violation of the protocol, and give up the connection."""
        self.is_usable = False
        return ProtocolError(self.address, reason)

    def _greet(self, token: AccessToken | None) -> None:
        # A server that closes the connection while the client sends may have sent an ERROR before.
        closed_early = contextlib.suppress(BrokenPipeError, ConnectionResetError)
        try:
            with closed_early:
                self._link.send([PREFACE], CONNECT_MS)
            hello = Hello.from_bytes(self._greeting(FrameType.HELLO))
            proof = b""
            if hello.needs_token:
                if token is None:
                    raise AuthenticationError(self.address, "the server requires a token")
                proof = token.proof(hello.nonce)
            with closed_early:
                self._link.send(encode_frame(FrameType.AUTH, 0, proof), CONNECT_MS)
            Ready.from_bytes(self._greeting(FrameType.READY))
        except CodecError as error:
            raise ProtocolError(self.address, str(error)) from error
        except ssl.SSLError as error:
            # In TLS 1.3, a client learns only now that the server rejected its certificate.
            raise AuthenticationError(self.address, f"TLS: {error.reason or error}") from error
        except (OSError, EOFError) as error:
            reason = str(error) or "the server closed the connection"
            raise ServiceUnavailableError(self.address, reason) from error

    def _greeting(self, expected: FrameType) -> bytes:
        header, body = self._link.receive_frame(GREETING_BYTES_MAX, CONNECT_MS)
        if header.type is FrameType.ERROR:
            raise decode_error(decode(Error, body), self.address)
        if header.type is not expected:
            reason = f"{header.type.name} where {expected.name} is expected"
            raise ProtocolError(self.address, reason)
        return body

    def _send(self, type_: FrameType, body: bytes = b"") -> None:
        self._link.send(encode_frame(type_, self._calls, body), SEND_MS)

    def _expected(self, expected: FrameType, length_max: int, *, is_first: bool = False) -> bytes:
        header = self._header(length_max, is_first=is_first)
        body = self._body(header)
        if header.type is not expected:
            raise self.broken(f"{header.type.name} where {expected.name} is expected")
        return body

    def _header(self, length_max: int, *, is_first: bool = False) -> Header:
        with self._typed_errors(is_first=is_first):
            header = self._link.receive_header(length_max, self._left_ms())
        # Errors of the connection, after which the server closes it, have call 0.
        if header.call not in (self._calls, 0):
            raise self.broken(f"a response to call {header.call} instead of {self._calls}")
        return header

    def _body(self, header: Header) -> bytes:
        """Receive a frame's body; raises the error that an ERROR frame contains."""
        with self._typed_errors():
            body = self._link.receive(header.length, self._left_ms())
            if header.type is not FrameType.ERROR:
                return body
            error = decode(Error, body)
        # A connection remains usable after a failed call.
        self.is_usable = header.call == self._calls
        raise decode_error(error, self.address)

    def _left_ms(self) -> int:
        return max(self._deadline_ms - self._clock.boottime_ms(), 1)

    @contextlib.contextmanager
    def _typed_errors(self, *, is_first: bool = False) -> Iterator[None]:
        """Convert errors of the socket and of frames to the errors that a call raises."""
        try:
            yield
        except (OSError, EOFError) as error:
            raise self._lost(error, is_first=is_first) from error
        except CodecError as error:
            raise self.broken(str(error)) from error

    def _lost(self, error: Exception, *, is_first: bool = False) -> Exception:
        """Return the error for a connection that ended or timed out."""
        if isinstance(error, TimeoutError):
            return DeadlineExceededError(self._method, self._timeout_ms)
        reason = str(error) or "the server closed the connection"
        if is_first:
            return _DeadConnectionError(ServiceUnavailableError(self.address, reason))
        return self._cut(self.address, f"in the middle of a response: {reason}")


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


def _connected(address: str, tls: ssl.SSLContext | None) -> socket.socket:
    """Connect to a server.

    Raises:
        ServiceUnavailableError: The server cannot be reached.
        AuthenticationError: The TLS handshake failed.
    """
    try:
        if address.startswith(UNIX):
            sock = socket.socket(socket.AF_UNIX)
            sock.settimeout(CONNECT_MS / 1000)
            try:
                sock.connect(address.removeprefix(UNIX))
            except BaseException:
                sock.close()
                raise
            return sock
        host, port = split_host_port(address)
        sock = socket.create_connection((host, port), CONNECT_MS / 1000)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Detects that the other machine is gone, also during a long call.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEP_ALIVE.items():
            if hasattr(socket, name):  # depends on the system
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        return sock if tls is None else tls.wrap_socket(sock, server_hostname=host)
    except ssl.SSLCertVerificationError as error:
        reason = f"its certificate cannot be trusted: {error.verify_message}"
        raise AuthenticationError(address, reason) from error
    except ssl.SSLError as error:
        raise AuthenticationError(address, f"TLS: {error.reason or error}") from error
    except OSError as error:
        raise ServiceUnavailableError(address, error.strerror or str(error)) from error
