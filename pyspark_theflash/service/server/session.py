"""One connection: a handshake that authenticates the caller, then one call after another."""

import logging
import secrets
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any, Final

import pyarrow as pa

from pyspark_theflash.base.clock import Clock, Deadline
from pyspark_theflash.base.errors import (
    AuthenticationError,
    CallCancelledError,
    CodecError,
    InternalError,
    OptionError,
    ProtocolError,
    TheFlashError,
)
from pyspark_theflash.service.api.call import CallContext
from pyspark_theflash.service.api.error import encode_error
from pyspark_theflash.service.api.limits import SMALL_BYTES, Reserve
from pyspark_theflash.service.api.rows import Batches, RowStream
from pyspark_theflash.service.api.service import Service
from pyspark_theflash.service.api.token import Tokens, identity_of
from pyspark_theflash.service.api.write import Incoming, bytes_max_of, stream_count
from pyspark_theflash.service.server.control import Greeted, Timeouts
from pyspark_theflash.service.server.failures import Failures
from pyspark_theflash.service.wire.frame import (
    DATA_BYTES_MAX,
    GREETING_BYTES_MAX,
    NONCE_BYTES,
    PREFACE,
    RESPONSE_BYTES_MAX,
    End,
    FrameType,
    Hello,
    Ready,
    Request,
    check_preface,
    encode_frame,
)
from pyspark_theflash.service.wire.link import Link
from pyspark_theflash.service.wire.method import (
    METHODS,
    OPEN_WRITER,
    REQUEST_BYTES_MAX,
    Method,
    Role,
    method,
)
from pyspark_theflash.service.wire.protobuf import decode, encode
from pyspark_theflash.service.wire.stream import StreamEncoder

_log = logging.getLogger(__name__)
_LOST: Final = (OSError, EOFError)
"""Errors of a connection that has ended; `TimeoutError` is an `OSError`."""


class ConnectionSession:
    """A connection, after its TLS handshake if there is one."""

    def __init__(
        self,
        link: Link,
        service: Service,
        tokens: Tokens | None,
        *,
        clock: Clock,
        address: str,
        timeouts: Timeouts,
        peer: str = "",
        greeted: Greeted | None = None,
        admit: Callable[[Greeted], None] = lambda _: None,
        failures: Failures | None = None,
        origin: str = "",
        linger_ms: Callable[[], int] | None = None,
    ) -> None:
        """Serve a connection; see `run`.

        Args:
            link: The connection.
            service: Answers the calls.
            tokens: Callers' tokens; None: every caller is an admin.
            clock: The clock of timeouts.
            address: The server's address, for error messages.
            timeouts: Time limits for the caller.
            peer: The caller's identity if it has no token.
            greeted: The connection's state, if its handshake was made before.
            admit: Called when the caller is authenticated; raises if there are too many callers.
            failures: Logs failed authentications.
            origin: The caller's address, for the log.
            linger_ms: Called after each call; returns how long to wait for the next one before the
                connection returns to the router. None: the connection stays here.
        """
        self._peer = peer
        self._link, self._service, self._tokens = link, service, tokens
        self._clock, self._address, self._timeouts = clock, address, timeouts
        self._greeted, self._admit, self._linger_ms = greeted, admit, linger_ms
        self._failures, self._origin = failures or Failures(clock), origin
        self._call = 0
        self._is_json = False
        self._rows_ended, self._end = False, End()
        self._latch_id = ""
        """The write latch of a stream's writer that uses this connection."""
        self.is_busy = False
        """Whether a call is in progress."""

    def run(self) -> Greeted | None:
        """Answer calls, and close the socket at the end.

        Returns:
            The state to continue with another descriptor of the connection; None if it has ended.
        """
        try:
            return self._run()
        finally:
            if self._latch_id:
                self._service.writer_gone(self._latch_id)

    def _run(self) -> Greeted | None:
        try:
            if self._greeted is None:
                self._greet_or_wait()
            while not self._is_idle():
                self._answer_next()
        except _LOST:
            self._link.close()
        except TheFlashError as error:
            # The start of the next frame, or the caller, is unknown now.
            self._reject(error)
        else:
            self._link.close()
            return self._greeted
        return None

    def _is_idle(self) -> bool:
        if self._latch_id or self._linger_ms is None:
            return False
        return not self._link.has_input(self._linger_ms())

    def _greet_or_wait(self) -> None:
        """Authenticate the caller; a failure is logged, and its error is delayed."""
        try:
            self._greet()
        except AuthenticationError as error:
            self._failures.note(self._origin, error)
            self._link.wait(self._timeouts.failure_ms)
            raise

    def _greet(self) -> None:
        wait_ms = self._timeouts.greeting_ms
        check_preface(self._link.receive(len(PREFACE), wait_ms))
        nonce = secrets.token_bytes(NONCE_BYTES)
        hello = Hello(self._tokens is not None, nonce).to_bytes()
        self._link.send(encode_frame(FrameType.HELLO, 0, hello), wait_ms)
        header, proof = self._link.receive_frame(GREETING_BYTES_MAX, wait_ms)
        if header.type is not FrameType.AUTH:
            raise ProtocolError(self._address, f"{header.type.name} where AUTH is expected")
        stored = None
        if self._tokens is not None:
            stored = self._with_tokens(lambda tokens: tokens.by_proof(nonce, proof))
            if stored is None:
                raise AuthenticationError(self._address, "this token is not valid")
        role = self._role(stored)
        greeted = Greeted(stored, role is Role.ADMIN)
        self._admit(greeted)
        self._greeted = greeted
        ready = Ready(role, self._service.store_id).to_bytes()
        self._link.send(encode_frame(FrameType.READY, 0, ready), wait_ms)

    def _role(self, stored: bytes | None) -> Role:
        """Return the current role of a token, which may be revoked during a connection."""
        if self._tokens is None:
            return Role.ADMIN
        role: Role | None = self._with_tokens(lambda tokens: tokens.role(stored or b""))
        if role is None:
            raise AuthenticationError(self._address, "this token was revoked")
        return role

    def _stored(self) -> bytes | None:
        return None if self._greeted is None else self._greeted.stored

    def _identity(self) -> str:
        stored = self._stored()
        return self._peer if stored is None else identity_of(stored)

    def _with_tokens(self, act: Any) -> Any:  # noqa: ANN401 (the result of `act`)
        try:
            return act(self._tokens)
        except OptionError as error:
            _log.error("tokens cannot be read: %s", error)
            raise AuthenticationError(self._address, "the server cannot read its tokens") from None

    def _answer_next(self) -> None:
        """Answer one call. Raises one of `_LOST` if the caller has closed the connection."""
        header = self._link.receive_header(REQUEST_BYTES_MAX, self._timeouts.idle_ms)
        if header.type is FrameType.CANCEL:
            self._link.skip(header.length, self._timeouts.frame_ms)
            return  # its call has ended already
        if header.type is not FrameType.REQUEST:
            raise ProtocolError(self._address, f"{header.type.name} where REQUEST is expected")
        self._call, self._is_json = header.call, header.is_json
        self._rows_ended, self._end = False, End()
        self.is_busy = True
        try:
            wait_ms = self._timeouts.frame_ms
            request, left_bytes = Request.read(header, lambda n: self._link.receive(n, wait_ms))
            role = self._role(self._stored())
            call = CallContext(
                request.method,
                request.timeout_ms,
                self._clock,
                self._is_cancelled,
                role=role,
                identity=self._identity(),
            )
            with self._memory(call) as reserve:
                self._answer(call, left_bytes, reserve)
        finally:
            self.is_busy = False

    def _answer(self, call: CallContext, size_bytes: int, reserve: Reserve) -> None:
        try:
            called = self._checked(call, size_bytes)
            body = self._link.receive(size_bytes, self._timeouts.frame_ms, reserve)
            value: Any = decode(called.request, body, as_json=self._is_json)
            del body
            if called.takes_rows:
                answer = self._with_rows(called, value, call)
            elif called.gives_rows:
                self._stream(called, value, call)
                return
            else:
                with _own_failures():
                    answer = self._service.answer(called, value, call)
            if called is OPEN_WRITER:
                self._latch_id = value.latch.id
            self._respond(encode(answer, as_json=self._is_json), reserve)
        except _LOST:
            raise
        except Exception as error:  # all errors are sent to the caller
            self._send_error(error)
            if isinstance(error, ProtocolError):
                raise
            refused = METHODS.get(call.method)
            if refused is not None and refused.takes_rows and not self._rows_ended:
                self._skip_rows(refused)

    def _checked(self, call: CallContext, size_bytes: int) -> Method:
        """Check a call by its name, its role and its size; skip its request if it is rejected."""
        try:
            called = method(call.method)
            called.check(call.role)
            if size_bytes > called.bytes_max:
                reason = f"has {size_bytes} bytes; at most {called.bytes_max} are allowed"
                raise OptionError(called.request.__name__, reason)
        except TheFlashError:
            self._link.skip(size_bytes, self._timeouts.frame_ms)
            raise
        return called

    @contextmanager
    def _memory(self, call: CallContext) -> Iterator[Reserve]:
        """Yield a function that counts bytes in memory for a caller, until the block ends."""
        quota, is_admin = self._service.usage.memory, call.role is Role.ADMIN
        reserved = 0

        def reserve(size_bytes: int) -> None:
            nonlocal reserved
            quota.acquire(call.identity, size_bytes, is_admin=is_admin)
            reserved += size_bytes

        try:
            yield reserve
        finally:
            quota.release(call.identity, reserved)

    def _with_rows(self, called: Method, request: Any, call: CallContext) -> Any:  # noqa: ANN401
        """Receive all rows of a call, then answer it."""
        with _own_failures():
            incoming = Incoming(self._service.path, called)
        with incoming:
            while self._add_data(incoming, call):
                pass
            with _own_failures():
                tables, batches = incoming.tables(stream_count(request))
                received = End(batches, sum(map(len, tables)), incoming.size_bytes)
                if received != self._end:
                    raise CodecError("end", "differs from the rows that were received")
                return self._service.answer(called, request, call, tables)

    def _add_data(self, incoming: Incoming, call: CallContext) -> bool:
        """Receive the next bytes of rows; returns False after the last."""
        wait_ms = min(self._timeouts.send_ms, call.left_ms())
        with self._memory(call) as reserve:
            try:
                header = self._link.receive_header(DATA_BYTES_MAX, wait_ms)
                body = self._link.receive(header.length, wait_ms, reserve)
            except TimeoutError:
                call.left_ms()  # raises if the deadline is the reason
                raise
            if header.type is FrameType.DATA and header.call == self._call:
                with _own_failures():
                    incoming.add(body)
                return True
        if header.call != self._call:
            raise ProtocolError(self._address, "rows of another call")
        self._rows_ended = header.type in (FrameType.END, FrameType.CANCEL)
        if header.type is FrameType.CANCEL:
            raise CallCancelledError(call.method)
        if header.type is not FrameType.END:
            raise ProtocolError(self._address, f"{header.type.name} in the middle of rows")
        self._end = End.from_bytes(body)
        return False

    def _skip_rows(self, called: Method) -> None:
        """Skip rows that the caller sent before it received the error."""
        deadline = Deadline(self._clock, self._timeouts.frame_ms)
        left_bytes = bytes_max_of(called)
        while left_bytes > 0 and deadline.left_ms():
            header = self._link.receive_header(DATA_BYTES_MAX, self._timeouts.frame_ms)
            self._link.skip(header.length, self._timeouts.frame_ms)
            if header.type in (FrameType.END, FrameType.CANCEL):
                return
            if header.type is not FrameType.DATA or header.call != self._call:
                break
            left_bytes -= header.length
        raise ProtocolError(self._address, "rows are sent after an error")

    def _respond(self, body: bytes, reserve: Reserve) -> None:
        if len(body) > RESPONSE_BYTES_MAX:
            reason = f"the response has {len(body)} bytes; at most {RESPONSE_BYTES_MAX} are allowed"
            raise OptionError("request", reason)
        if len(body) > SMALL_BYTES:
            reserve(len(body))
        end = self._frame(FrameType.END, End().to_bytes())
        self._link.send(self._frame(FrameType.RESPONSE, body) + end, self._timeouts.send_ms)

    def _stream(self, called: Method, request: Any, call: CallContext) -> None:  # noqa: ANN401
        """Send rows as an Arrow IPC stream. A full socket blocks until the caller reads."""
        encoder = StreamEncoder()
        with self._service.usage.scans.used(call.identity, is_admin=call.role is Role.ADMIN):
            with _own_failures():
                rows: RowStream = self._service.answer(called, request, call)
            with closing(rows.batches) as batches:
                for parts in encoder.encode(rows.schema, _own(batches)):
                    self._link.send_data(self._call, parts, self._timeouts.rows_ms)
                    call.check()
        end = self._frame(FrameType.END, encoder.end().to_bytes())
        self._link.send(end, self._timeouts.rows_ms)

    def _is_cancelled(self) -> bool:
        """Whether the caller has sent CANCEL. Raises one of `_LOST` if the connection has ended."""
        if not self._link.has_input():
            return False
        header, _ = self._link.receive_frame(0, self._timeouts.frame_ms)
        if header.type is not FrameType.CANCEL:
            raise ProtocolError(self._address, f"{header.type.name} in the middle of a call")
        return header.call == self._call

    def _send_error(self, error: Exception) -> None:
        if isinstance(error, CallCancelledError):
            _log.debug("cancelled: %s", error)
        body = encode(encode_error(error), as_json=self._is_json)
        self._link.send(self._frame(FrameType.ERROR, body), self._timeouts.send_ms)

    def _reject(self, error: TheFlashError) -> None:
        """Send an error and close the connection."""
        reason = (
            ProtocolError(self._address, str(error)) if isinstance(error, CodecError) else error
        )
        _log.info("connection rejected: %s", reason)
        try:
            self._send_error(reason)
        except _LOST:
            self._link.close()
        else:
            self._link.close_gently()

    def _frame(self, type_: FrameType, body: bytes) -> list[bytes | memoryview]:
        return encode_frame(type_, self._call, body, is_json=self._is_json)


@contextmanager
def _own_failures() -> Iterator[None]:
    """Convert errors of the server's system, which must not be taken for a lost connection."""
    try:
        yield
    except OSError as error:
        _log.error("a call failed", exc_info=error)
        raise InternalError(f"the server failed with {type(error).__name__}") from error


def _own(batches: Batches) -> Iterator[pa.RecordBatch]:
    with _own_failures():
        yield from batches
