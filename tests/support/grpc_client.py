"""TheFlash API over gRPC, spoken with nothing but grpcio and the generated messages."""

from typing import Any

from pyspark_theflash.base.errors import DeadlineExceededError, UnsupportedError
from pyspark_theflash.base.tls import TlsFiles
from pyspark_theflash.net.channel import grpc, open_channel
from pyspark_theflash.service.api.error import decode_error
from pyspark_theflash.service.client.rows import Rows
from pyspark_theflash.service.server.rpc import RpcServer
from pyspark_theflash.service.wire.message import Error
from pyspark_theflash.service.wire.method import Method
from pyspark_theflash.service.wire.protobuf import SERVICE, decode, encode


class GrpcTransport:
    """A `service.client.transport.Transport`."""

    def __init__(self, address: str, token: str | None, tls: TlsFiles | None = None) -> None:
        self.address = address
        self.channel = open_channel(address, tls, max_message_bytes=64 << 20)
        self.metadata = [] if token is None else [("authorization", f"Bearer {token}")]

    def call(self, called: Method, request: Any, timeout_ms: int, tables: object = None) -> Any:
        if tables is not None:
            raise UnsupportedError("rows to write", "gRPC")
        try:
            return decode(called.response, self.raw(called.name, encode(request), timeout_ms))
        except grpc.RpcError as error:
            raise self._heard(error, timeout_ms) from error

    def raw(self, name: str, body: bytes, timeout_ms: int) -> bytes:
        """A call without any encoding."""
        ask = self.channel.unary_unary(f"/{SERVICE.full_name}/{name}")
        answer: bytes = ask(body, timeout=(timeout_ms or 60_000) / 1000, metadata=self.metadata)
        return answer

    def scan(self, called: Method, request: Any, timeout_ms: int) -> Rows:
        raise UnsupportedError("rows", "gRPC")

    def close(self) -> None:
        self.channel.close()

    def _heard(self, error: Any, timeout_ms: int) -> Exception:
        encoded = dict(error.trailing_metadata() or ()).get(RpcServer.ERROR_KEY)
        if encoded is not None:
            return decode_error(decode(Error, encoded), self.address)
        if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            return DeadlineExceededError("a call over gRPC", timeout_ms)
        raise error
