"""Calls over a socket. A connection serves one call at a time; those not in use wait in a pool.

What can be asked again without harm is, once, where a pooled connection turns out to be dead: the
server may have been started anew. Anything else fails typed: `ServiceUnavailableError` where there
was no answer, `StreamCutError` where rows stopped before the server said that these were all.
"""

import contextlib
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

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
from pyspark_theflash.service.api.error import heard_error
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
)
from pyspark_theflash.service.wire.link import Link
from pyspark_theflash.service.wire.message import Error
from pyspark_theflash.service.wire.method import Method
from pyspark_theflash.service.wire.pieces import Pieces
from pyspark_theflash.service.wire.protobuf import decode, encode

CONNECT_MS: Final = 5_000
SEND_MS: Final = 30_000
GRACE_MS: Final = 2_000
"""How much later than its deadline a server may say that a call is too late."""
LONGEST_MS: Final = 86_400_000
_POOLED_MAX: Final = 16
_IPC_BYTES_MAX: Final = 1 << 30
"""More than a batch has."""
_BELIEVED_BYTES: Final = 16 << 20
"""What is allocated because a server says that so much comes; beyond, as it comes."""
_NOT_ARROW: Final = (pa.ArrowException, OSError)
"""What Arrow raises; what goes wrong with the connection is typed before Arrow sees it."""
_DRAIN_MS: Final = 1_000
_KEEP_ALIVE: Final = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}


class RemoteTransport:
    """To the server at `unix:PATH` or `HOST:PORT`. Connects when it is first used."""

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

    def call(self, method: Method, request: Any, timeout_ms: int) -> Any:  # noqa: ANN401
        def ask(connection: Connection) -> Any:  # noqa: ANN401
            try:
                return connection.call(method, request, timeout_ms)
            finally:
                self._give_back(connection)

        return self._asked(ask, may_ask_again=method.may_repeat)

    def scan(self, called: Method, request: Any, timeout_ms: int) -> Rows:  # noqa: ANN401
        def ask(connection: Connection) -> Rows:
            try:
                stream = _Stream(connection, called, request, timeout_ms)
            except BaseException:
                self._give_back(connection)
                raise

            def done() -> None:
                if stream.close():
                    self._give_back(connection)

            return Rows(stream.schema, stream.batches(done), done)

        rows: Rows = self._asked(ask, may_ask_again=called.may_repeat)
        return rows

    def write(
        self,
        called: Method,
        request: Any,  # noqa: ANN401
        tables: Sequence[pa.Table],
        timeout_ms: int,
    ) -> Any:  # noqa: ANN401
        check_size(sum(table.nbytes for table in tables), called)

        def ask(connection: Connection) -> Any:  # noqa: ANN401
            try:
                connection.begin(called, request, timeout_ms)
                connection.send_tables(tables)
                return connection.response(called)
            finally:
                self._give_back(connection)

        # It may be repeated, and is not: who has a dead connection has lost minutes, perhaps.
        return self._asked(ask, may_ask_again=False)

    def close(self) -> None:
        with self._mutex:
            pool, self._pool = self._pool, []
        for connection in pool:
            connection.close()

    def _asked(self, ask: Callable[["Connection"], Any], *, may_ask_again: bool) -> Any:  # noqa: ANN401
        """`ask` on a connection; on a new one if one of the pool turns out to be dead."""
        connection, is_pooled = self._taken()
        try:
            return ask(connection)
        except _DeadConnectionError as error:
            if not (is_pooled and may_ask_again):
                raise error.seen from error
        try:
            return ask(self._opened())
        except _DeadConnectionError as error:
            raise error.seen from error

    def _taken(self) -> tuple["Connection", bool]:
        """A connection, and whether it was there already."""
        with self._mutex:
            if self._pid != os.getpid():
                # A child of ours must not speak into its parent's connections.
                self._pool, self._pid = [], os.getpid()
            if self._pool:
                return self._pool.pop(), True
        return self._opened(), False

    def _opened(self) -> "Connection":
        return Connection(self._address, self._clock, self._token, self._tls)

    def _give_back(self, connection: "Connection") -> None:
        with self._mutex:
            if connection.is_usable and len(self._pool) < _POOLED_MAX:
                self._pool.append(connection)
                return
        connection.close()


class _DeadConnectionError(Exception):
    """The connection ended before anything of an answer came; `seen` is what to raise of it."""

    def __init__(self, seen: ServiceUnavailableError) -> None:
        super().__init__(seen)
        self.seen = seen


class _RefusedError(Exception):
    """The server has answered before it had all rows, which is that it does not want them."""


class Connection:
    """One connection, greeted."""

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

    def call(self, method: Method, request: Any, timeout_ms: int) -> Any:  # noqa: ANN401
        """A call that is answered by one message."""
        self.begin(method, request, timeout_ms)
        return self.response(method)

    def response(self, method: Method) -> Any:  # noqa: ANN401
        """The one message that answers what was begun."""
        body = self._expected(FrameType.RESPONSE, RESPONSE_BYTES_MAX, is_first=True)
        self._expected(FrameType.END, GREETING_BYTES_MAX)
        self.is_usable = True
        try:
            return decode(method.response, body)
        except CodecError as error:
            raise self.broken(str(error)) from error

    def begin(self, method: Method, request: object, timeout_ms: int) -> None:
        """Send a call; the connection is its own until the answer has ended."""
        self._calls += 1
        self._method, self._timeout_ms = method.name, timeout_ms or LONGEST_MS
        self._cut = StreamCutError if method.gives_rows else ServiceUnavailableError
        self._deadline_ms = self._clock.boottime_ms() + self._timeout_ms + GRACE_MS
        body = Request(method.name, timeout_ms, encode(request)).to_bytes()
        self.is_usable = False
        try:
            self._link.send(Header(FrameType.REQUEST, self._calls, len(body)), body, SEND_MS)
        except (OSError, EOFError) as error:
            raise self._lost(error, is_first=True) from error

    def send_tables(self, tables: Sequence[pa.Table]) -> None:
        """The rows of a write, as long as the server does not say that they are of no use."""
        pieces = Pieces()
        batches = rows = size_bytes = 0
        try:
            for table in tables:
                with pa.ipc.new_stream(pa.PythonFile(pieces, mode="w"), table.schema) as writer:
                    for batch in table.to_batches():
                        writer.write_batch(batch)
                        batches, rows = batches + 1, rows + batch.num_rows
                        size_bytes += self._send_pieces(pieces)
                size_bytes += self._send_pieces(pieces)
            end = End(batches, rows, size_bytes).to_bytes()
            self._link.send(Header(FrameType.END, self._calls, len(end)), end, SEND_MS)
        except _RefusedError:
            with contextlib.suppress(OSError):
                self._link.send(Header(FrameType.CANCEL, self._calls, 0), b"", SEND_MS)
        except (OSError, EOFError) as error:
            if not self._link.has_input():
                raise self._lost(error) from error
            # It hung up, and has said why before.

    def _send_pieces(self, pieces: Pieces) -> int:
        if self._link.has_input():
            raise _RefusedError
        if self._deadline_ms - GRACE_MS <= self._clock.boottime_ms():
            self.cancel()
            raise DeadlineExceededError(self._method, self._timeout_ms)
        return self._link.send_data(self._calls, pieces.taken(), SEND_MS)

    def data(self, *, is_first: bool) -> int | End:
        """How many bytes the next DATA has, which are to be received; or the end of all."""
        header = self._header(DATA_BYTES_MAX, is_first=is_first)
        if header.type is FrameType.DATA:
            return header.length
        body = self._body(header)
        if header.type is not FrameType.END:
            raise self.broken(f"{header.type.name} in the middle of rows")
        self.is_usable = True
        try:
            return End.from_bytes(body)
        except CodecError as error:
            raise self.broken(str(error)) from error

    def receive_into(self, view: memoryview) -> None:
        """The next bytes of DATA."""
        try:
            self._link.receive_into(view, self._left_ms())
        except (OSError, EOFError) as error:
            raise self._lost(error) from error

    def cancel(self) -> None:
        """Give up the call and skip what is left of its answer; else, the connection ends."""
        deadline_ms = self._clock.boottime_ms() + _DRAIN_MS
        with contextlib.suppress(OSError, EOFError, CodecError):
            self._link.send(Header(FrameType.CANCEL, self._calls, 0), b"", _DRAIN_MS)
            while self._clock.boottime_ms() < deadline_ms:
                header, _ = self._link.frame(DATA_BYTES_MAX, _DRAIN_MS)
                if header.type in (FrameType.END, FrameType.ERROR):
                    self.is_usable = True
                    return

    def close(self) -> None:
        """End the connection."""
        self._link.close()

    def __del__(self) -> None:
        # Rows that were dropped before they were all taken.
        if hasattr(self, "_link"):
            self._link.close()

    def broken(self, reason: str) -> ProtocolError:
        """What to raise where the server says what it should not."""
        self.is_usable = False
        return ProtocolError(self.address, reason)

    # -- parts

    def _greet(self, token: AccessToken | None) -> None:
        try:
            with _unless_refused():
                self._link.send_raw(PREFACE, CONNECT_MS)
            hello = Hello.from_bytes(self._greeting(FrameType.HELLO))
            if hello.needs_token and token is None:
                raise AuthenticationError(self.address, "it wants a token, and none is given")
            proof = token.proof(hello.nonce) if hello.needs_token and token is not None else b""
            with _unless_refused():
                self._link.send(Header(FrameType.AUTH, 0, len(proof)), proof, CONNECT_MS)
            self.store_id = Ready.from_bytes(self._greeting(FrameType.READY)).store_id
        except CodecError as error:
            raise ProtocolError(self.address, str(error)) from error
        except ssl.SSLError as error:
            # TLS 1.3 tells a client only now what its certificate came to.
            raise AuthenticationError(self.address, f"TLS: {error.reason or error}") from error
        except (OSError, EOFError) as error:
            raise ServiceUnavailableError(self.address, str(error) or "it hangs up") from error

    def _greeting(self, wanted: FrameType) -> bytes:
        header, body = self._link.frame(GREETING_BYTES_MAX, CONNECT_MS)
        if header.type is FrameType.ERROR:
            raise heard_error(decode(Error, body), self.address)
        if header.type is not wanted:
            raise ProtocolError(self.address, f"{header.type.name} where {wanted.name} should be")
        return body

    def _expected(self, wanted: FrameType, length_max: int, *, is_first: bool = False) -> bytes:
        header = self._header(length_max, is_first=is_first)
        body = self._body(header)
        if header.type is not wanted:
            raise self.broken(f"{header.type.name} where {wanted.name} should be")
        return body

    def _header(self, length_max: int, *, is_first: bool = False) -> Header:
        try:
            header = self._link.header(length_max, self._left_ms())
        except (OSError, EOFError) as error:
            raise self._lost(error, is_first=is_first) from error
        except CodecError as error:
            raise self.broken(str(error)) from error
        # What is of no call is the server's last word.
        if header.call not in (self._calls, 0):
            raise self.broken(f"an answer to call {header.call} and not to {self._calls}")
        return header

    def _body(self, header: Header) -> bytes:
        """A frame's body; raises what an ERROR frame tells."""
        try:
            body = self._link.receive(header.length, self._left_ms())
            if header.type is not FrameType.ERROR:
                return body
            told = decode(Error, body)
        except (OSError, EOFError) as error:
            raise self._lost(error) from error
        except CodecError as error:
            raise self.broken(str(error)) from error
        # A call that failed leaves the connection as it was.
        self.is_usable = header.call == self._calls
        raise heard_error(told, self.address)

    def _left_ms(self) -> int:
        return max(self._deadline_ms - self._clock.boottime_ms(), 1)

    def _lost(self, error: Exception, *, is_first: bool = False) -> Exception:
        """What to raise where the connection ended, or nothing comes."""
        if isinstance(error, TimeoutError):
            return DeadlineExceededError(self._method, self._timeout_ms)
        reason = str(error) or "it hangs up"
        if is_first:
            return _DeadConnectionError(ServiceUnavailableError(self.address, reason))
        return self._cut(self.address, f"in the middle of an answer: {reason}")


class _Stream:
    """The rows that answer one call."""

    def __init__(
        self, connection: Connection, called: Method, request: object, timeout_ms: int
    ) -> None:
        """Begin a call; the connection is the stream's until it ends."""
        self._connection, self._is_over = connection, False
        connection.begin(called, request, timeout_ms)
        self._source = _Source(connection)
        try:
            self._reader = pa.ipc.open_stream(pa.PythonFile(self._source, mode="r"))
        except _NOT_ARROW as error:
            raise self._not_arrow() from error
        self.schema = self._reader.schema

    def batches(self, done: Callable[[], None]) -> Iterator[pa.RecordBatch]:
        """The rows; raises unless they are what the server says they are. Ends with `done`."""
        count = rows = 0
        try:
            while (batch := self._next()) is not None:
                count, rows = count + 1, rows + batch.num_rows
                yield batch
            if self._source.has_data():
                raise self._not_arrow()
            end = self._source.end
            if end != End(count, rows, self._source.size_bytes):
                told = f"{end.rows if end else 0} rows were announced, and {rows} came"
                raise StreamCutError(self._connection.address, told)
        finally:
            done()

    def close(self) -> bool:
        """End the call if it has not ended; whether this is the first time."""
        if self._is_over:
            return False
        self._is_over = True
        if self._source.end is None and not self._connection.is_usable:
            self._connection.cancel()
        return True

    def _next(self) -> pa.RecordBatch | None:
        try:
            return self._reader.read_next_batch()
        except StopIteration:
            return None
        except _NOT_ARROW as error:
            raise self._not_arrow() from error

    def _not_arrow(self) -> ProtocolError:
        return self._connection.broken("what it sends is no Arrow stream")


class _Source:
    """The bytes of DATA, for Arrow to read as from a file. Holds no reader: Arrow holds this."""

    closed = False

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._left = self.size_bytes = 0
        self.end: End | None = None
        self._is_first = True

    def read(self, size_bytes: int = -1) -> Any:  # noqa: ANN401 (a buffer)
        """The next bytes, fewer only at the end."""
        if not 0 <= size_bytes <= _IPC_BYTES_MAX:
            raise self._connection.broken("a batch that is too large")
        buffer = pa.allocate_buffer(min(size_bytes, _BELIEVED_BYTES))
        view = memoryview(buffer)
        filled = 0
        while filled < size_bytes and self.has_data():
            if filled == len(view):
                buffer = pa.allocate_buffer(min(size_bytes, 2 * filled))
                memoryview(buffer)[:filled] = view
                view = memoryview(buffer)
            taken = min(self._left, len(view) - filled)
            self._connection.receive_into(view[filled : filled + taken])
            filled += taken
            self._left -= taken
        return buffer if filled == size_bytes else buffer.slice(0, filled)

    def has_data(self) -> bool:
        """Whether there are more bytes; waits for the next frame."""
        while not self._left and self.end is None:
            found = self._connection.data(is_first=self._is_first)
            self._is_first = False
            if isinstance(found, End):
                self.end = found
            else:
                self._left = found
                self.size_bytes += found
        return bool(self._left)


def _connected(address: str, tls: ssl.SSLContext | None) -> socket.socket:
    """Raises `ServiceUnavailableError`, or `AuthenticationError` for a certificate that is bad."""
    try:
        if address.startswith(UNIX):
            sock = socket.socket(socket.AF_UNIX)
            sock.settimeout(CONNECT_MS / 1000)
            try:
                sock.connect(str(Path(address.removeprefix(UNIX))))
            except BaseException:
                sock.close()
                raise
            return sock
        host, port = split_host_port(address)
        sock = socket.create_connection((host, port), CONNECT_MS / 1000)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _keep_alive(sock)
        return sock if tls is None else tls.wrap_socket(sock, server_hostname=host)
    except ssl.SSLCertVerificationError as error:
        reason = f"its certificate cannot be trusted: {error.verify_message}"
        raise AuthenticationError(address, reason) from error
    except ssl.SSLError as error:
        raise AuthenticationError(address, f"TLS: {error.reason or error}") from error
    except OSError as error:
        raise ServiceUnavailableError(address, error.strerror or str(error)) from error


def _keep_alive(sock: socket.socket) -> None:
    """Have the system find out that the other machine is gone, also while we wait for it."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEP_ALIVE.items():
        # Not every system has them all.
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _unless_refused() -> contextlib.suppress:
    """Whoever hangs up while we send may have said why before: it is read next."""
    return contextlib.suppress(BrokenPipeError, ConnectionResetError)
