"""PD in process: members, timestamps, the GC safe point, and etcd's keys."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from google.protobuf.message import Message

from pyspark_theflash.net.channel import grpc
from pyspark_theflash.tidb.protocol._generated.etcd import kv_pb2
from pyspark_theflash.tidb.protocol._generated.pd import pdpb_pb2


class FakePD:
    """One member, the leader unless `leader` is another's URL. Started by `with`."""

    def __init__(self, cluster_id: int) -> None:
        self.cluster_id = cluster_id
        self.leader: str | None = None
        self.no_leader = False
        self.clock = (1_700_000_000_000, 7)
        self.safe_point = 5
        self.keys: dict[bytes, bytes] = {}
        self.calls: list[str] = []
        self.failures: list[grpc.StatusCode] = []
        self.header_error, self.header_error_type = "", 1

    def __enter__(self) -> "FakePD":
        self._server = grpc.server(ThreadPoolExecutor(4))
        for service, calls in self._services().items():
            handler = grpc.method_handlers_generic_handler(service, calls)
            self._server.add_generic_rpc_handlers((handler,))
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._server.stop(0).wait()

    def _services(self) -> dict[str, dict[str, grpc.RpcMethodHandler]]:
        return {
            "pdpb.PD": {
                "GetMembers": unary(self._members, pdpb_pb2.GetMembersRequest),
                "GetGCSafePoint": unary(self._safe_point, pdpb_pb2.GetGCSafePointRequest),
                "Tso": grpc.stream_stream_rpc_method_handler(
                    self._tso, pdpb_pb2.TsoRequest.FromString, _to_bytes
                ),
            },
            "etcdserverpb.KV": {
                "Put": unary(self._put, kv_pb2.PutRequest),
                "Range": unary(self._range, kv_pb2.RangeRequest),
            },
        }

    def _members(
        self, request: pdpb_pb2.GetMembersRequest, context: grpc.ServicerContext
    ) -> pdpb_pb2.GetMembersResponse:
        response = pdpb_pb2.GetMembersResponse(header=self._header())
        if not self.no_leader:
            url = self.leader or f"http://{self.address}"
            response.leader.CopyFrom(pdpb_pb2.Member(name="leader", client_urls=[url]))
        return response

    def _safe_point(
        self, request: pdpb_pb2.GetGCSafePointRequest, context: grpc.ServicerContext
    ) -> pdpb_pb2.GetGCSafePointResponse:
        self._called("GetGCSafePoint", request.header.cluster_id, context)
        return pdpb_pb2.GetGCSafePointResponse(header=self._header(), safe_point=self.safe_point)

    def _tso(
        self, requests: Iterator[pdpb_pb2.TsoRequest], context: grpc.ServicerContext
    ) -> Iterator[pdpb_pb2.TsoResponse]:
        for request in requests:
            self._called("Tso", request.header.cluster_id, context)
            physical, logical = self.clock = (self.clock[0], self.clock[1] + request.count)
            timestamp = pdpb_pb2.Timestamp(physical=physical, logical=logical)
            yield pdpb_pb2.TsoResponse(
                header=self._header(), count=request.count, timestamp=timestamp
            )

    def _put(self, request: kv_pb2.PutRequest, context: grpc.ServicerContext) -> kv_pb2.PutResponse:
        self._called("Put", self.cluster_id, context)
        self.keys[request.key] = request.value
        return kv_pb2.PutResponse()

    def _range(
        self, request: kv_pb2.RangeRequest, context: grpc.ServicerContext
    ) -> kv_pb2.RangeResponse:
        self._called("Range", self.cluster_id, context)
        keys = [key for key in sorted(self.keys) if request.key <= key < request.range_end]
        pairs = [kv_pb2.KeyValue(key=k, value=self.keys[k]) for k in keys[: request.limit]]
        return kv_pb2.RangeResponse(kvs=pairs, more=len(keys) > request.limit)

    def _header(self) -> pdpb_pb2.ResponseHeader:
        header = pdpb_pb2.ResponseHeader(cluster_id=self.cluster_id)
        if self.header_error:
            error = pdpb_pb2.Error(type=self.header_error_type, message=self.header_error)
            header.error.CopyFrom(error)
        return header

    def _called(self, name: str, cluster_id: int, context: grpc.ServicerContext) -> None:
        self.calls.append(name)
        if self.failures:
            context.abort(self.failures.pop(0), "as told")
        if cluster_id != self.cluster_id:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "mismatch cluster id")


def unary(call: object, request: type[Message]) -> grpc.RpcMethodHandler:
    """A handler of a unary call, whose answer is a message."""
    return grpc.unary_unary_rpc_method_handler(call, request.FromString, _to_bytes)


def _to_bytes(message: Message) -> bytes:
    return message.SerializeToString()
