"""The API over gRPC, for callers in any language that has it: `theflash.v1.TheFlash`.

Every method that is answered by one message; rows come over frames or Arrow Flight. Tokens come as
`authorization: Bearer TOKEN` with each call, the deadline is gRPC's own. A failed call has an
`Error` as its trailing metadata `theflash-error-bin`, and a status:

    UNAUTHENTICATED, PERMISSION_DENIED   no token that is known, or certificate; not the role
    DEADLINE_EXCEEDED, CANCELLED         of the caller's own making
    UNAVAILABLE                          may succeed later
    RESOURCE_EXHAUSTED                   too large a message, or too many calls at once
    INVALID_ARGUMENT                     a message that is none
    FAILED_PRECONDITION                  any other error of ours; INTERNAL: a bug of ours
"""

from typing import Any, Final

from pyspark_theflash.base.clock import Clock
from pyspark_theflash.base.errors import CodecError
from pyspark_theflash.base.tls import ServerTls
from pyspark_theflash.net.channel import grpc
from pyspark_theflash.service.api.service import Service
from pyspark_theflash.service.api.token import Tokens
from pyspark_theflash.service.server.listener import Dialect, Listener
from pyspark_theflash.service.wire.frame import RESPONSE_BYTES_MAX
from pyspark_theflash.service.wire.method import METHODS, Method, Role, method
from pyspark_theflash.service.wire.protobuf import SERVICE, decode, encode

ERROR_KEY: Final = "theflash-error-bin"
_DIALECT: Final = Dialect(
    "gRPC",
    ERROR_KEY,
    grpc.StatusCode.FAILED_PRECONDITION,
    ((CodecError, grpc.StatusCode.INVALID_ARGUMENT),),
)


class RpcServer(Listener):
    """A service over gRPC at `unix:PATH` or `HOST:PORT`. Answers from `start` on."""

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
        """Raises `OptionError`: the address cannot be used, or not safely."""
        super().__init__(
            service,
            address,
            _DIALECT,
            clock=clock,
            tokens=tokens,
            tls=tls,
            allowed_names=allowed_names,
            send_bytes_max=RESPONSE_BYTES_MAX,
        )
        handlers = {m.name: self._handler(m) for m in METHODS.values() if m.is_unary}
        self.offer(SERVICE.full_name, handlers)

    def check_before(self, name: str, role: Role) -> None:
        if name in METHODS:
            method(name).check(role)

    def _handler(self, called: Method) -> grpc.RpcMethodHandler:
        def answer(body: bytes, context: grpc.ServicerContext) -> bytes:
            with self.telling(context):
                call = self.call(called.name, context)
                request: Any = decode(called.request, body)
                return encode(getattr(self.service, called.attribute)(request, call))

        return grpc.unary_unary_rpc_method_handler(answer)
