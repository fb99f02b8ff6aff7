"""The API over gRPC, the service `theflash.v1.TheFlash`.

It has all calls without rows; rows are transferred by frames and Arrow Flight. Each call has its
token as metadata `authorization: Bearer TOKEN`, and gRPC's deadline. A failed call has an `Error`
as trailing metadata `theflash-error-bin`, and a status:

    UNAUTHENTICATED        the token is missing or not valid, or the certificate is not allowed
    PERMISSION_DENIED      the token's role does not include the call
    DEADLINE_EXCEEDED      the caller's deadline has passed
    CANCELLED              the caller has cancelled the call
    UNAVAILABLE            the call may succeed later
    RESOURCE_EXHAUSTED     the message is too large, or there are too many calls
    INVALID_ARGUMENT       the message cannot be decoded
    FAILED_PRECONDITION    any other `TheFlashError`
    INTERNAL               any other error, which is a bug
"""

from typing import Any

from pyspark_theflash.base.errors import CodecError
from pyspark_theflash.net.channel import grpc
from pyspark_theflash.service.server.listener import Listener
from pyspark_theflash.service.wire.frame import RESPONSE_BYTES_MAX
from pyspark_theflash.service.wire.method import METHODS, Method
from pyspark_theflash.service.wire.protobuf import SERVICE, decode, encode


class RpcServer(Listener):
    """A server of the API over gRPC."""

    NAME = "gRPC"
    GRPC_SERVICE = SERVICE.full_name
    SEND_BYTES_MAX = RESPONSE_BYTES_MAX
    ERROR_KEY = "theflash-error-bin"
    ERROR_STATUS = grpc.StatusCode.FAILED_PRECONDITION
    STATUSES = ((CodecError, grpc.StatusCode.INVALID_ARGUMENT),)

    def handlers(self) -> dict[str, grpc.RpcMethodHandler]:
        return {m.name: self._handler(m) for m in METHODS.values() if m.is_unary}

    def _handler(self, called: Method) -> grpc.RpcMethodHandler:
        def answer(body: bytes, context: grpc.ServicerContext) -> bytes:
            call = self.call(called, context)
            request: Any = decode(called.request, body)
            return encode(self.service.answer(called, request, call))

        return self.unary(answer, called)
