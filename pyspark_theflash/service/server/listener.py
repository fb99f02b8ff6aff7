"""A gRPC server with authentication, limits and typed errors: the base of Flight's and gRPC's.

The caller is authenticated before its message is read: a rejected call gets a handler of a request
stream that reads none of it. A message above the size limit is rejected by its length.
"""

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Final, NoReturn

from pyspark_theflash.base.clock import Clock
from pyspark_theflash.base.errors import (
    AuthenticationError,
    CallCancelledError,
    DeadlineExceededError,
    InternalError,
    OptionError,
    RoleError,
)
from pyspark_theflash.base.tls import ServerTls
from pyspark_theflash.net.bind import check_names, check_safe
from pyspark_theflash.net.channel import grpc
from pyspark_theflash.net.listen import bind_server
from pyspark_theflash.service.api.call import CallContext
from pyspark_theflash.service.api.error import encode_error
from pyspark_theflash.service.api.service import Service
from pyspark_theflash.service.api.token import Tokens, identity_of
from pyspark_theflash.service.wire.frame import REQUEST_BYTES_MAX
from pyspark_theflash.service.wire.method import METHODS, Method, Role
from pyspark_theflash.service.wire.protobuf import encode

_log = logging.getLogger(__name__)

CALLS_MAX: Final = 64
_BEARER: Final = "Bearer "
_STOP_S: Final = 5.0
_TARPIT_MS_MAX: Final = 300
"""gRPC delays its own rejections, by up to a second, to slow down attackers."""
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
    ) -> None:
        """Listen on `address`; calls are answered after `start`.

        Args:
            service: Answers the calls.
            address: `unix:PATH` or HOST:PORT.
            clock: The clock of deadlines.
            tokens: Callers' tokens; None: every caller is an admin.
            tls: The server's certificate; None: no TLS.
            allowed_names: Common names that callers' certificates may have; empty: any.

        Raises:
            OptionError: The address cannot be used, or not safely.
        """
        check_safe(address, has_tls=tls is not None, has_tokens=tokens is not None)
        check_names(allowed_names, tls)
        self.service, self._clock, self._tokens = service, clock, tokens
        self._allowed = frozenset(name.encode() for name in allowed_names)
        self._workers = ThreadPoolExecutor(CALLS_MAX, thread_name_prefix=self.NAME)
        self._server = grpc.server(
            self._workers,
            interceptors=(_Interceptor(self),),
            options=[
                ("grpc.max_receive_message_length", REQUEST_BYTES_MAX),
                ("grpc.max_send_message_length", self.SEND_BYTES_MAX),
                ("grpc.max_concurrent_streams", CALLS_MAX),
                ("grpc.so_reuseport", 0),
                ("grpc.http.tarpit_max_duration_ms", _TARPIT_MS_MAX),
            ],
            maximum_concurrent_rpcs=CALLS_MAX,
        )
        self.address = bind_server(self._server, address, _credentials(tls))
        """The listening address, with the actual port if `address` has port 0."""
        generic = grpc.method_handlers_generic_handler(self.GRPC_SERVICE, self.handlers())
        self._server.add_generic_rpc_handlers((generic,))

    def handlers(self) -> dict[str, grpc.RpcMethodHandler]:
        """Return the handlers of the gRPC service by method."""
        raise NotImplementedError

    def start(self) -> None:
        """Answer calls."""
        self._server.start()
        _log.info("serving %s: address=%s", self.NAME, self.address)

    def stop(self) -> None:
        """Reject new calls, wait up to 5 s for calls in progress, then end all."""
        self._server.stop(_STOP_S).wait()
        self._workers.shutdown(wait=False)

    def authenticate(self, context: grpc.ServicerContext) -> tuple[Role, str]:
        """Return the caller's role and identity. Raises `AuthenticationError`.

        The token is checked again here, since it may have been revoked while the message arrived.
        """
        names = context.auth_context().get("x509_common_name", ())
        if self._allowed and self._allowed.isdisjoint(names):
            raise AuthenticationError(self.address, "this certificate's name is not allowed")
        return self.caller(context.invocation_metadata())

    def call(self, called: Method, context: grpc.ServicerContext) -> CallContext:
        """Return the context of a call. Raises `AuthenticationError` and `RoleError`."""
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

    def caller(self, metadata: Any) -> tuple[Role, str]:  # noqa: ANN401
        """Return the role and identity of a token in metadata. Raises `AuthenticationError`."""
        if self._tokens is None:
            return Role.ADMIN, "this machine"
        header = dict(metadata).get("authorization", "")
        if not isinstance(header, str) or not header.startswith(_BEARER):
            raise AuthenticationError(self.address, "the call has no bearer token")
        try:
            stored = self._tokens.by_token(header.removeprefix(_BEARER))
            role = None if stored is None else self._tokens.role(stored)
        except OptionError as error:
            _log.error("tokens cannot be read: %s", error)
            raise AuthenticationError(self.address, "the server cannot read its tokens") from None
        if stored is None or role is None:
            raise AuthenticationError(self.address, "this token is not valid")
        return role, identity_of(stored)

    @contextmanager
    def reporting(self, context: grpc.ServicerContext) -> Iterator[None]:
        """Send any error of the block to the caller."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 (see above)
            self.abort(context, error)

    def abort(self, context: grpc.ServicerContext, error: Exception) -> NoReturn:
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


class _Interceptor(grpc.ServerInterceptor):  # type: ignore[misc] # grpc has no types
    """Rejects calls without a valid token of a sufficient role, before their messages are read."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener

    def intercept_service(self, continuation: Any, details: Any) -> Any:  # noqa: ANN401
        try:
            role, _ = self._listener.caller(details.invocation_metadata)
            name = details.method.rpartition("/")[2]
            if name in METHODS:  # Flight's own methods are not
                METHODS[name].check(role)
        except (AuthenticationError, RoleError) as error:
            abort = partial(self._listener.abort, error=error)
            return grpc.stream_unary_rpc_method_handler(lambda _, context: abort(context))
        return continuation(details)


def _credentials(tls: ServerTls | None) -> grpc.ServerCredentials | None:
    if tls is None:
        return None
    cert, key, ca = tls.read()
    return grpc.ssl_server_credentials([(key, cert)], ca, require_client_auth=ca is not None)
