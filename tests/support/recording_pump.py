"""A minimal pump for TiDB, which accepts and records every binlog message.

    WriteBinlogReq    1: cluster id (varint)   2: payload (bytes), a tipb.Binlog message
    WriteBinlogResp   1: errmsg

An empty response means that the message was accepted.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Final

import grpc

from pyspark_theflash.tidb.codec.number import decode_uvarint

_BYTES: Final = 2
_PAYLOAD: Final = 2


class RecordingPump:
    """Serves on a unix socket from construction until `stop`."""

    def __init__(self, path: Path) -> None:
        self.path: Final = path
        self.payloads: Final[list[bytes]] = []
        self._server = grpc.server(ThreadPoolExecutor(4))
        write = grpc.unary_unary_rpc_method_handler(self._write)
        handler = grpc.method_handlers_generic_handler("binlog.Pump", {"WriteBinlog": write})
        self._server.add_generic_rpc_handlers((handler,))
        self._server.add_insecure_port(f"unix:{path}")
        self._server.start()

    def __enter__(self) -> "RecordingPump":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop serving; `payloads` has the messages, in order of arrival."""
        self._server.stop(grace=None).wait()

    def _write(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self.payloads.append(_payload(request))
        return b""


def _payload(request: bytes) -> bytes:
    payload, at = b"", 0
    while at < len(request):
        tag, at = decode_uvarint(request, at)
        value, at = decode_uvarint(request, at)
        if tag & 7 == _BYTES:
            if tag >> 3 == _PAYLOAD:
                payload = request[at : at + value]
            at += value
    return payload
