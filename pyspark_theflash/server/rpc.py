"""The API over gRPC, for callers in any language that has it: `theflash.v1.TheFlash`.

Every method that is answered by one message; rows come over frames or Arrow Flight. Tokens come as
`authorization: Bearer TOKEN` with each call, the deadline is gRPC's own. A failed call has an
`Error` as its trailing metadata `theflash-error-bin`, and a status:

    UNAUTHENTICATED, PERMISSION_DENIED   no token that is known, or certificate; not the role
    DEADLINE_EXCEEDED, CANCELLED         of the caller's own making
    UNAVAILABLE                          may succeed later
    RESOURCE_EXHAUSTED                   too large a message, or too many calls at once
    FAILED_PRECONDITION                  any other error of ours; INTERNAL: a bug of ours

Who calls is asked before anything of the message is taken in.
"""

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Final, NoReturn

from pyspark_theflash.api.call import Call
from pyspark_theflash.api.error import told_error
from pyspark_theflash.api.frame import REQUEST_BYTES_MAX, RESPONSE_BYTES_MAX
from pyspark_theflash.api.method import METHODS, Method, Role, method
from pyspark_theflash.api.service import Service
from pyspark_theflash.api.token import Tokens, identity_of
from pyspark_theflash.api.wire import SERVICE, decode, encode
from pyspark_theflash.client.address import UNIX
from pyspark_theflash.client.channel import grpc
from pyspark_theflash.clock import Clock
from pyspark_theflash.errors import (
    AuthenticationError,
    CallCancelledError,
    CodecError,
    DeadlineExceededError,
    InternalError,
    OptionError,
    RoleError,
)
from pyspark_theflash.server.bind import check_safe
from pyspark_theflash.server.listen import bind_server
from pyspark_theflash.tls import ServerTls

_log = logging.getLogger(__name__)

ERROR_KEY: Final = "theflash-error-bin"
CALLS_MAX: Final = 64
_NAME: Final = "the gRPC server"
_BEARER: Final = "Bearer "
_STOP_S: Final = 5.0
_METADATA_BYTES_MAX: Final = 6_000
"""gRPC takes 8 KiB of metadata by default."""
_DETAILS_CHARS_MAX: Final = 500
_KINDS: Final = (
    (AuthenticationError, grpc.StatusCode.UNAUTHENTICATED),
    (RoleError, grpc.StatusCode.PERMISSION_DENIED),
    (CallCancelledError, grpc.StatusCode.CANCELLED),
    (DeadlineExceededError, grpc.StatusCode.DEADLINE_EXCEEDED),
    (CodecError, grpc.StatusCode.INVALID_ARGUMENT),
    (InternalError, grpc.StatusCode.INTERNAL),
)


class RpcServer:
    """A service over gRPC at `unix:PATH` or `HOST:PORT`."""

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
        """Listen on `address`, and answer from `start` on. See `SocketServer`.

        Raises:
            OptionError: the address cannot be used, or not safely.
        """
        check_safe(address, has_tls=tls is not None, has_tokens=tokens is not None)
        if allowed_names and (tls is None or tls.ca is None):
            raise OptionError("allow", "names are in callers' certificates: give --ca")
        self._service, self._clock, self._tokens = service, clock, tokens
        self._allowed = frozenset(name.encode() for name in allowed_names)
        self._workers = ThreadPoolExecutor(CALLS_MAX, thread_name_prefix="rpc")
        self._server = grpc.server(
            self._workers,
            interceptors=(_Door(tokens),),
            options=[
                ("grpc.max_receive_message_length", REQUEST_BYTES_MAX),
                ("grpc.max_send_message_length", RESPONSE_BYTES_MAX),
                ("grpc.max_concurrent_streams", CALLS_MAX),
                ("grpc.so_reuseport", 0),
            ],
            maximum_concurrent_rpcs=CALLS_MAX,
        )
        handlers = {m.name: self._handler(m) for m in METHODS.values() if m.is_unary}
        generic = grpc.method_handlers_generic_handler(SERVICE.full_name, handlers)
        self._server.add_generic_rpc_handlers((generic,))
        self.address = bind_server(self._server, address, _credentials(tls))
        """Where it listens, with the port that port 0 became."""
        self._peer = "this machine" if address.startswith(UNIX) else "a caller"

    def start(self) -> None:
        """Begin to answer."""
        self._server.start()
        _log.info("serving gRPC: address=%s", self.address)

    def stop(self) -> None:
        """Take no more calls, let those that have begun end for a while, then end all."""
        self._server.stop(_STOP_S).wait()
        self._workers.shutdown(wait=False)

    def _handler(self, called: Method) -> grpc.RpcMethodHandler:
        def answer(body: bytes, context: grpc.ServicerContext) -> bytes:
            try:
                self._check_name(context)
                role, identity = self._caller(context)
                call = Call(
                    called.name,
                    _timeout_ms(context),
                    self._clock,
                    lambda: not context.is_active(),
                    role=role,
                    identity=identity,
                )
                request: Any = decode(called.request, body)
                told = getattr(self._service, called.attribute)(request, call)
                return encode(told)
            except Exception as error:  # noqa: BLE001 (the caller is told, whatever it is)
                _abort(context, error)

        return grpc.unary_unary_rpc_method_handler(answer)

    def _caller(self, context: grpc.ServicerContext) -> tuple[Role, str]:
        """Once more: a token may have been taken back while the message came."""
        if self._tokens is None:
            return Role.ADMIN, self._peer
        return _known(self._tokens, dict(context.invocation_metadata()))

    def _check_name(self, context: grpc.ServicerContext) -> None:
        names = context.auth_context().get("x509_common_name", ())
        if self._allowed and self._allowed.isdisjoint(names):
            raise AuthenticationError(self.address, "this certificate's name may not call")


class _Door(grpc.ServerInterceptor):  # type: ignore[misc] # grpc has no types
    """Lets those in who show a token that is good for what they ask.

    Others get a handler of a stream of requests, none of which it takes.
    """

    def __init__(self, tokens: Tokens | None) -> None:
        self._tokens = tokens

    def intercept_service(self, continuation: Any, details: Any) -> Any:  # noqa: ANN401
        if self._tokens is None:
            return continuation(details)
        try:
            role, _ = _known(self._tokens, dict(details.invocation_metadata))
            name = details.method.rpartition("/")[2]
            if name in METHODS:
                method(name).check(role)
        except (AuthenticationError, RoleError) as error:
            refused = error  # `error` is gone when the handler is called

            def refuse(_: object, context: grpc.ServicerContext) -> None:
                _abort(context, refused)

            return grpc.stream_unary_rpc_method_handler(refuse)
        return continuation(details)


def _known(tokens: Tokens, metadata: dict[str, Any]) -> tuple[Role, str]:
    """Who calls: the role, and what tells its token apart. Raises `AuthenticationError`."""
    said = metadata.get("authorization", "")
    if not isinstance(said, str) or not said.startswith(_BEARER):
        raise AuthenticationError(_NAME, "there is no bearer token")
    try:
        stored = tokens.by_token(said.removeprefix(_BEARER))
        role = None if stored is None else tokens.role(stored)
    except OptionError as error:
        _log.error("tokens cannot be read: %s", error)
        raise AuthenticationError(_NAME, "it cannot read its tokens") from None
    if stored is None or role is None:
        raise AuthenticationError(_NAME, "it does not know this token")
    return role, identity_of(stored)


def _timeout_ms(context: grpc.ServicerContext) -> int:
    left_s = context.time_remaining()
    return 0 if left_s is None else max(int(left_s * 1000), 1)


def _abort(context: grpc.ServicerContext, error: Exception) -> NoReturn:
    told = told_error(error)
    body = encode(told)
    if len(body) > _METADATA_BYTES_MAX:
        body = encode(replace(told, text=told.text[:_DETAILS_CHARS_MAX], arguments="[]"))
    known = (status for ours, status in _KINDS if isinstance(error, ours))
    other = grpc.StatusCode.FAILED_PRECONDITION
    if told.name == InternalError.__name__:
        other = grpc.StatusCode.INTERNAL
    elif told.retryable:
        other = grpc.StatusCode.UNAVAILABLE
    context.set_trailing_metadata(((ERROR_KEY, body),))
    context.abort(next(known, other), f"{told.name}: {told.text}"[:_DETAILS_CHARS_MAX])
    raise error  # not reached: `abort` raises


def _credentials(tls: ServerTls | None) -> grpc.ServerCredentials | None:
    if tls is None:
        return None
    cert, key, ca = tls.read()
    return grpc.ssl_server_credentials([(key, cert)], ca, require_client_auth=ca is not None)
