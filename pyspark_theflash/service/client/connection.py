"""A client's connection: it is authenticated, then carries one call after another."""

import contextlib
import socket
import ssl
import struct
from collections.abc import Iterable, Iterator
from typing import Any, Final

import pyarrow as pa

from pyspark_theflash.base.clock import Clock, Deadline
from pyspark_theflash.base.errors import (
    AuthenticationError,
    CodecError,
    DeadlineExceededError,
    ProtocolError,
    ServiceUnavailableError,
    StreamCutError,
)
from pyspark_theflash.net.address import UNIX, split_host_port
from pyspark_theflash.service.api.error import decode_error
from pyspark_theflash.service.api.token import AccessToken
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

CONNECT_MS: Final = 5_000
_CONNECT_TIMEVAL: Final = struct.pack("@ll", CONNECT_MS // 1000, 0)
SEND_MS: Final = 30_000
GRACE_MS: Final = 2_000
"""The time after a call's deadline for the server to report its own timeout error."""
LONGEST_MS: Final = 86_400_000
_CUT: Final = (EOFError, ConnectionResetError, BrokenPipeError, ssl.SSLEOFError)
_DRAIN_MS: Final = 1_000
_KEEP_ALIVE: Final = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}


class DeadConnectionError(Exception):
    """The connection ended before any part of a response arrived; `cause` is the public error."""

    def __init__(self, cause: ServiceUnavailableError) -> None:
        super().__init__(cause)
        self.cause = cause


class GreetingCutError(ServiceUnavailableError):
    """The server has closed the connection before it has accepted or rejected the caller."""


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
        self._deadline = Deadline(self._clock, self._timeout_ms + GRACE_MS)
        body = Request(called.name, timeout_ms, encode(request)).to_bytes()
        self.is_usable = False
        with self._typed_errors(is_first=True):
            self._send(FrameType.REQUEST, body)

    def send_tables(self, tables: Iterable[pa.Table]) -> None:
        """Send the rows of a write, until the server rejects them."""
        encoder = StreamEncoder()
        try:
            for table in tables:
                for parts in encoder.encode(table.schema, table.to_batches()):
                    if self._link.has_input():
                        # A response before the end of the rows is an error.
                        self._send(FrameType.CANCEL)
                        return
                    if self._deadline.left_ms() <= GRACE_MS:
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
        deadline = Deadline(self._clock, _DRAIN_MS)
        with contextlib.suppress(OSError, EOFError, CodecError):
            self._link.send(encode_frame(FrameType.CANCEL, self._calls), _DRAIN_MS)
            while deadline.left_ms():
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
        except _CUT as error:
            reason = str(error) or "the server closed the connection"
            raise GreetingCutError(self.address, reason) from error
        except ssl.SSLError as error:
            # In TLS 1.3, a client learns only now that the server rejected its certificate.
            raise AuthenticationError(self.address, f"TLS: {error.reason or error}") from error
        except OSError as error:
            raise ServiceUnavailableError(self.address, str(error)) from error

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
        return max(self._deadline.left_ms(), 1)

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
            return DeadConnectionError(ServiceUnavailableError(self.address, reason))
        return self._cut(self.address, f"in the middle of a response: {reason}")


def _connected(address: str, tls: ssl.SSLContext | None) -> socket.socket:
    """Connect to a server.

    Raises:
        ServiceUnavailableError: The server cannot be reached.
        AuthenticationError: The TLS handshake failed.
    """
    try:
        if address.startswith(UNIX):
            sock = socket.socket(socket.AF_UNIX)
            # With a timeout of Python, it fails at once if too many wait for the server.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _CONNECT_TIMEVAL)
            try:
                sock.connect(address.removeprefix(UNIX))
                sock.settimeout(CONNECT_MS / 1000)
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
    except _CUT as error:
        raise GreetingCutError(address, str(error)) from error
    except ssl.SSLError as error:
        raise AuthenticationError(address, f"TLS: {error.reason or error}") from error
    except OSError as error:
        raise ServiceUnavailableError(address, error.strerror or str(error)) from error
