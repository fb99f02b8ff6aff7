"""tidb-binlog's pump, as seen by a client that pulls from it.

It sorts by commit_ts, inserts prewrites into their commits, continues after the commit_ts that is
passed as an offset, and describes in `meta` what it sends.
"""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from pyspark_theflash.net.channel import grpc
from pyspark_theflash.tidb.protocol._generated.tipb import binlog_pb2, pump_pb2


@dataclass
class FakePump:
    """Started by `with`. `requests` are received ones; `fail_next` ends pulls after a message."""

    cluster_id: int
    messages: list[bytes]
    requests: list[pump_pb2.PullBinlogReq] = field(default_factory=list)
    fail_next: int = 0
    address: str = ""

    def __enter__(self) -> "FakePump":
        self._stopping = threading.Event()
        self._server = grpc.server(ThreadPoolExecutor(4))
        handler = grpc.unary_stream_rpc_method_handler(
            self._pull,
            request_deserializer=pump_pb2.PullBinlogReq.FromString,
            response_serializer=pump_pb2.PullBinlogResp.SerializeToString,
        )
        service = grpc.method_handlers_generic_handler("binlog.Pump", {"PullBinlogs": handler})
        self._server.add_generic_rpc_handlers((service,))
        port = self._server.add_insecure_port(self.address or "127.0.0.1:0")
        self.address = f"127.0.0.1:{port}"
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._server.stop(0).wait()

    def _pull(
        self, request: pump_pb2.PullBinlogReq, context: grpc.ServicerContext
    ) -> Iterator[pump_pb2.PullBinlogResp]:
        self.requests.append(request)
        if request.clusterID != self.cluster_id:
            context.abort(grpc.StatusCode.UNKNOWN, "cluster ID are mismatch")
        last = request.startFrom.offset
        while not self._stopping.wait(0.01):
            for response in self._behind(last):
                yield response
                last = response.entity.meta.commitTs
                if self.fail_next:
                    self.fail_next -= 1
                    context.abort(grpc.StatusCode.UNAVAILABLE, "as told")

    def _behind(self, last: int) -> list[pump_pb2.PullBinlogResp]:
        decoded = [(binlog_pb2.Binlog.FromString(message), message) for message in self.messages]
        return [
            pump_pb2.PullBinlogResp(
                entity=pump_pb2.Entity(
                    pos=pump_pb2.Pos(),
                    meta=pump_pb2.Meta(startTs=binlog.start_ts, commitTs=binlog.commit_ts),
                    payload=message,
                )
            )
            for binlog, message in sorted(decoded, key=lambda pair: pair[0].commit_ts)
            if binlog.commit_ts > last
        ]
