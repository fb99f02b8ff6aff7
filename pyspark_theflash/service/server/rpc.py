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

from typing import Any

from pyspark_theflash.base.errors import CodecError
from pyspark_theflash.net.channel import grpc
from pyspark_theflash.service.server.listener import Listener
from pyspark_theflash.service.wire.frame import RESPONSE_BYTES_MAX
from pyspark_theflash.service.wire.method import METHODS, Method, Role, method
from pyspark_theflash.service.wire.protobuf import SERVICE, decode, encode


class RpcServer(Listener):
    """A service over gRPC at `unix:PATH` or `HOST:PORT`. Answers from `start` on."""

    NAME = "gRPC"
    GRPC_SERVICE = SERVICE.full_name
    SEND_BYTES_MAX = RESPONSE_BYTES_MAX
    ERROR_KEY = "theflash-error-bin"
    ERROR_STATUS = grpc.StatusCode.FAILED_PRECONDITION
    STATUSES = ((CodecError, grpc.StatusCode.INVALID_ARGUMENT),)

    def handlers(self) -> dict[str, grpc.RpcMethodHandler]:
        return {m.name: self._handler(m) for m in METHODS.values() if m.is_unary}

    def check_before(self, name: str, role: Role) -> None:
        if name in METHODS:
            method(name).check(role)

    def _handler(self, called: Method) -> grpc.RpcMethodHandler:
        def answer(body: bytes, context: grpc.ServicerContext) -> bytes:
            with self.telling(context):
                call = self.call(called, context)
                request: Any = decode(called.request, body)
                return encode(self.service.answer(called, request, call))

        return grpc.unary_unary_rpc_method_handler(answer)
