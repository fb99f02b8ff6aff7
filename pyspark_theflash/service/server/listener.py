"""A gRPC server with authentication, limits and typed errors: the base of Flight's and gRPC's.

The caller is authenticated before its message is read: all handlers are those of request streams,
which read a message only when they ask for it. A message above the size limit is rejected by its
length, a compressed one because it could expand to any size.

Each call has a thread. There are as many as `Limits.calls`, some for calls that are being rejected
and some for those whose authentication failed, which are delayed. A caller has a time limit for its
message and for each response that it receives.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Final, NoReturn, TypeAlias

from pyspark_theflash.base.clock import Clock
from pyspark_theflash.base.errors import (
    AuthenticationError,
    CallCancelledError,
    DeadlineExceededError,
    InternalError,
    OptionError,
    RoleError,
    ServiceUnavailableError,
)
from pyspark_theflash.base.tls import ServerTls
from pyspark_theflash.net.bind import check_names, check_safe
from pyspark_theflash.net.channel import grpc
from pyspark_theflash.net.inflow import NEW_FACTOR, Inflow, InflowGuard
from pyspark_theflash.net.listen import COMMON_OPTIONS, bind_server, server_credentials
from pyspark_theflash.service.api.call import CallContext, local_identity
from pyspark_theflash.service.api.error import encode_error
from pyspark_theflash.service.api.limits import SMALL_BYTES, Quota, Reserve
from pyspark_theflash.service.api.service import Service
from pyspark_theflash.service.api.token import Tokens, identity_of
from pyspark_theflash.service.server.control import Timeouts
from pyspark_theflash.service.server.failures import Failures
from pyspark_theflash.service.server.watch import Watch
from pyspark_theflash.service.wire.method import UNARY_BYTES_MAX, Method, Role
from pyspark_theflash.service.wire.protobuf import encode

_log = logging.getLogger(__name__)
_Answer: TypeAlias = Callable[[bytes, grpc.ServicerContext], Any]

_BEARER: Final = "Bearer "
_STOP_S: Final = 5.0
_TARPIT_MS_MAX: Final = 300
"""gRPC delays its own rejections, by up to a second, to slow down attackers."""
_REJECTING: Final = 16
"""Threads for calls that are being rejected."""
_DELAYED: Final = 16
"""Calls whose rejection is delayed at a time. Others are rejected at once, without the reason.

Their connections are blocked as long as a delay: calls are rejected without looking at the token.
"""
_QUEUED: Final = 4
"""Calls for each thread above which gRPC rejects them."""
_SPARE: Final = 2
"""Connections of gRPC, which do not take a thread, for each of `Limits`."""
_METADATA_BYTES_MAX: Final = 6_000
"""gRPC accepts 8 KiB of metadata by default."""
_DETAILS_CHARS_MAX: Final = 500
_STATUSES: Final[tuple[tuple[type[Exception], Any], ...]] = (
    (AuthenticationError, grpc.StatusCode.UNAUTHENTICATED),
    (RoleError, grpc.StatusCode.PERMISSION_DENIED),
    (CallCancelledError, grpc.StatusCode.CANCELLED),
    (DeadlineExceededError, grpc.StatusCode.DEADLINE_EXCEEDED),
    (InternalError, grpc.StatusCode.INTERNAL),
)


class Listener:
    """A gRPC server of a `Service`; subclasses define the methods and the encoding of errors.

    Attributes:
        NAME: The protocol's name, for the log.
        GRPC_SERVICE: The gRPC service that `handlers` belong to.
        SEND_BYTES_MAX: The size limit of a response; -1: none.
        ERROR_KEY: The key of the trailing metadata that has the encoded `Error`.
        ERROR_STATUS: The status of errors that `STATUSES` does not contain.
        STATUSES: Classes of errors and their statuses, before those that all servers have.
        METADATA: Further trailing metadata of errors.
    """

    NAME: ClassVar[str]
    GRPC_SERVICE: ClassVar[str]
    SEND_BYTES_MAX: ClassVar[int]
    ERROR_KEY: ClassVar[str]
    ERROR_STATUS: ClassVar[grpc.StatusCode]
    STATUSES: ClassVar[tuple[tuple[type[Exception], Any], ...]] = ()
    METADATA: ClassVar[tuple[tuple[str, str], ...]] = ()

    def __init__(
        self,
        service: Service,
        address: str,
        *,
        clock: Clock,
        tokens: Tokens | None = None,
        tls: ServerTls | None = None,
        allowed_names: tuple[str, ...] = (),
        timeouts: Timeouts | None = None,
    ) -> None:
        """Listen on `address`; calls are answered after `start`.

        Args:
            service: Answers the calls.
            address: `unix:PATH` or HOST:PORT.
            clock: The clock of deadlines.
            tokens: Callers' tokens; None: every caller is an admin.
            tls: The server's certificate; None: no TLS.
            allowed_names: Common names that callers' certificates may have; empty: any.
            timeouts: Time limits for callers; None: the defaults.

        Raises:
            OptionError: The address cannot be used, or not safely.
        """
        check_safe(address, has_tls=tls is not None, has_tokens=tokens is not None)
        check_names(allowed_names, tls)
        self.service, self._clock, self._tokens = service, clock, tokens
        self._allowed = frozenset(name.encode() for name in allowed_names)
        self._timeouts, limits = timeouts or Timeouts(), service.usage.limits
        self._calls = Quota(address, "calls", limits.calls, limits.calls_per_identity)
        numbers = limits.connections, limits.connections_per_identity
        self._connections = Quota(address, "connections", *numbers)
        self._watch, self._failures = Watch(clock), Failures(clock)
        self._delayed = threading.BoundedSemaphore(_DELAYED)
        threads = limits.calls + _REJECTING + _DELAYED
        connections = limits.pending + limits.connections
        self._workers = ThreadPoolExecutor(threads, thread_name_prefix=self.NAME)
        self._server = grpc.server(
            self._workers,
            options=[
                ("grpc.max_receive_message_length", UNARY_BYTES_MAX),
                ("grpc.max_send_message_length", self.SEND_BYTES_MAX),
                ("grpc.max_concurrent_streams", limits.calls),
                ("grpc.max_allowed_incoming_connections", NEW_FACTOR * _SPARE * connections),
                ("grpc.server_handshake_timeout_ms", self._timeouts.greeting_ms),
                ("grpc.max_connection_idle_ms", self._timeouts.pending_ms),
                ("grpc.http2.settings_timeout", self._timeouts.pending_ms),
                *COMMON_OPTIONS,
                ("grpc.http.tarpit_max_duration_ms", _TARPIT_MS_MAX),
            ],
            maximum_concurrent_rpcs=_QUEUED * threads,
        )
        self.address = bind_server(
            self._server, address, None if tls is None else server_credentials(tls)
        )
        """The listening address, with the actual port if `address` has port 0."""
        self._inflow = Inflow(UNARY_BYTES_MAX, _SPARE * limits.pending)
        self._guard = InflowGuard(self.address, self._inflow)
        generic = grpc.method_handlers_generic_handler(self.GRPC_SERVICE, self.handlers())
        self._server.add_generic_rpc_handlers((generic,))

    def handlers(self) -> dict[str, grpc.RpcMethodHandler]:
        """Return the handlers of the gRPC service by method."""
        raise NotImplementedError

    def start(self) -> None:
        """Answer calls."""
        self._server.start()
        self._watch.start()
        self._guard.start()
        _log.info("serving %s: address=%s", self.NAME, self.address)

    def stop(self) -> None:
        """Reject new calls, wait up to 5 s for calls in progress, then end all."""
        self._guard.drain()
        self._server.stop(_STOP_S).wait()
        self._watch.stop()
        self._guard.stop()
        self._workers.shutdown(wait=False)

    def unary(self, answer: _Answer, called: Method | None = None) -> grpc.RpcMethodHandler:
        """Return the handler of a method with one response.

        Args:
            answer: Returns the response to a message; its errors are sent to the caller.
            called: The method, whose role is checked before the message is read, if it is known.
        """

        def behave(requests: Iterator[bytes], context: grpc.ServicerContext) -> Any:  # noqa: ANN401
            with self._served(requests, context, called) as (body, reserve):
                response = answer(body, context)
                reserve(len(response))
                return response

        return grpc.stream_unary_rpc_method_handler(behave)

    def stream(self, answer: _Answer) -> grpc.RpcMethodHandler:
        """Return the handler of a method with several responses, which `answer` yields."""

        def behave(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
            with (
                self._served(requests, context, None) as (body, _),
                closing(answer(body, context)) as responses,
            ):
                for response in responses:
                    with self._watch.within(context, self._timeouts.rows_ms):
                        yield response

        return grpc.stream_stream_rpc_method_handler(behave)

    @contextmanager
    def _served(
        self, requests: Iterator[bytes], context: grpc.ServicerContext, called: Method | None
    ) -> Iterator[tuple[bytes, Reserve]]:
        """Authenticate a caller, and yield its message; errors of the block are sent to it.

        Yields also a function that counts the bytes of a response.
        """
        try:
            role, identity = self._authenticated(context)
            if called is not None:
                called.check(role)
            is_admin = role is Role.ADMIN
            self._inflow.admit(
                context.peer(), partial(self._connections.acquired, identity, is_admin=is_admin)
            )
            with self._slot(context, identity, is_admin=is_admin) as reserve:
                body = self._message(requests, context, identity)
                reserve(len(body))
                yield body, reserve
        except Exception as error:  # noqa: BLE001 (all are sent to the caller)
            self._abort(context, error)

    @contextmanager
    def _slot(
        self, context: grpc.ServicerContext, identity: str, *, is_admin: bool
    ) -> Iterator[Reserve]:
        """Count a call, and its bytes, until its block has ended and its caller has the response.

        Yields a function that counts more bytes.
        """
        release, memory = (
            self._calls.acquired(identity, is_admin=is_admin),
            self.service.usage.memory,
        )
        ends, reserved = [1, 2], 0

        def reserve(size_bytes: int) -> None:
            nonlocal reserved
            if size_bytes > SMALL_BYTES:
                memory.acquire(identity, size_bytes, is_admin=is_admin)
                reserved += size_bytes

        def end() -> None:
            # The second of the two ends releases the slot; `pop` is atomic.
            if ends.pop() == 1:
                release()
                memory.release(identity, reserved)

        is_active = context.add_callback(end)
        try:
            yield reserve
        finally:
            end()
            if not is_active:
                end()

    def _message(
        self, requests: Iterator[bytes], context: grpc.ServicerContext, identity: str
    ) -> bytes:
        """Receive the message of a call. Raises `CallCancelledError`: it does not arrive."""
        with (
            self._inflow.receiving(context.peer(), identity),
            self._watch.within(context, self._timeouts.frame_ms),
        ):
            try:
                return next(requests)
            except (StopIteration, grpc.RpcError):
                raise CallCancelledError("a call without a message") from None

    def _authenticated(self, context: grpc.ServicerContext) -> tuple[Role, str]:
        """Authenticate; an error is logged and delayed.

        Raises:
            AuthenticationError: The authentication failed.
            ServiceUnavailableError: It failed, or was not tried, because too many have failed.
        """
        if self._failures.is_blocked(context.peer()):
            raise self._overloaded()
        try:
            return self.authenticate(context)
        except AuthenticationError as error:
            self._inflow.reject(context.peer())
            self._failures.note(context.peer(), error)
            if not self._delayed.acquire(blocking=False):
                self._failures.block(context.peer(), self._timeouts.failure_ms)
                raise self._overloaded() from None
            is_over = threading.Event()
            if context.add_callback(is_over.set):
                is_over.wait(self._timeouts.failure_ms / 1000)
            self._delayed.release()
            raise

    def _overloaded(self) -> ServiceUnavailableError:
        reason = "too many calls fail to authenticate, also of this connection: try again later"
        return ServiceUnavailableError(self.address, reason)

    def authenticate(self, context: grpc.ServicerContext) -> tuple[Role, str]:
        """Return the caller's role and identity. Raises `AuthenticationError`."""
        names = context.auth_context().get("x509_common_name", ())
        if self._allowed and self._allowed.isdisjoint(names):
            raise AuthenticationError(self.address, "this certificate's name is not allowed")
        return self._caller(context.invocation_metadata())

    def call(self, called: Method, context: grpc.ServicerContext) -> CallContext:
        """Return the context of a call. Raises `AuthenticationError` and `RoleError`.

        The token is checked again here, since it may have been revoked while the message arrived.
        """
        role, identity = self.authenticate(context)
        called.check(role)
        left_s = context.time_remaining()
        return CallContext(
            called.name,
            0 if left_s is None else max(int(left_s * 1000), 1),
            self._clock,
            lambda: not context.is_active(),
            role=role,
            identity=identity,
        )

    def _caller(self, metadata: Any) -> tuple[Role, str]:  # noqa: ANN401
        """Return the role and identity of a token in metadata. Raises `AuthenticationError`."""
        if self._tokens is None:
            return Role.ADMIN, local_identity()
        header = dict(metadata).get("authorization", "")
        if not isinstance(header, str) or not header.startswith(_BEARER):
            raise AuthenticationError(self.address, "the call has no bearer token")
        try:
            caller = self._tokens.by_token(header.removeprefix(_BEARER))
        except OptionError as error:
            _log.error("tokens cannot be read: %s", error)
            raise AuthenticationError(self.address, "the server cannot read its tokens") from None
        if caller is None:
            raise AuthenticationError(self.address, "this token is not valid")
        stored, role = caller
        return role, identity_of(stored)

    def _abort(self, context: grpc.ServicerContext, error: Exception) -> NoReturn:
        """End a call with an error; the text is shortened if the metadata is too large."""
        error_message = encode_error(error)
        body = encode(error_message)
        if len(body) > _METADATA_BYTES_MAX:
            text = error_message.text[:_DETAILS_CHARS_MAX]
            body = encode(replace(error_message, text=text, arguments="[]"))
        default = grpc.StatusCode.UNAVAILABLE if error_message.retryable else self.ERROR_STATUS
        if error_message.name == InternalError.__name__:
            default = grpc.StatusCode.INTERNAL
        statuses = (*self.STATUSES, *_STATUSES)
        status = next((status for kind, status in statuses if isinstance(error, kind)), default)
        context.set_trailing_metadata(((self.ERROR_KEY, body), *self.METADATA))
        details = f"{error_message.name}: {error_message.text}"
        context.abort(status, details[:_DETAILS_CHARS_MAX])
        raise error  # not reached: `context.abort` raises
