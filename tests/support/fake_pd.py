"""PD in process: members, timestamps, the GC safe point, and etcd's keys."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from google.protobuf.message import Message

from pyspark_theflash.base.tls import TlsFiles
from pyspark_theflash.net.channel import grpc
from pyspark_theflash.tidb.protocol._generated.etcd import kv_pb2
from pyspark_theflash.tidb.protocol._generated.pd import pdpb_pb2
from tests.support.tls import bind


class FakePD:
    """One member, the leader unless `leader` is another's URL. Started by `with`."""

    def __init__(self, cluster_id: int, tls: TlsFiles | None = None) -> None:
        self.tls = tls
        self.cluster_id = cluster_id
        self.leader: str | None = None
        self.no_leader = False
        self.clock = (1_700_000_000_000, 7)
        self.safe_point = 5
        self.keys: dict[bytes, bytes] = {}
        self.revision = 1
        self.compacted = 0
        self._events: list[kv_pb2.Event] = []
        self._changed = threading.Condition()
        self._is_stopped = False
        self.calls: list[str] = []
        self.failures: list[grpc.StatusCode] = []
        self.header_error, self.header_error_type = "", 1

    def __enter__(self) -> "FakePD":
        self._server = grpc.server(ThreadPoolExecutor(4))
        for service, calls in self._services().items():
            handler = grpc.method_handlers_generic_handler(service, calls)
            self._server.add_generic_rpc_handlers((handler,))
        self.address = bind(self._server, self.tls)
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        with self._changed:
            self._is_stopped = True
            self._changed.notify_all()
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
            "etcdserverpb.Watch": {
                "Watch": grpc.stream_stream_rpc_method_handler(
                    self._watch, kv_pb2.WatchRequest.FromString, _to_bytes
                ),
            },
        }

    def _members(
        self, request: pdpb_pb2.GetMembersRequest, context: grpc.ServicerContext
    ) -> pdpb_pb2.GetMembersResponse:
        response = pdpb_pb2.GetMembersResponse(header=self._header())
        if not self.no_leader:
            url = self.leader or f"{'https' if self.tls else 'http'}://{self.address}"
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
        self.set_key(request.key, request.value)
        return kv_pb2.PutResponse()

    def set_key(self, key: bytes, value: bytes | None = b"") -> None:
        """Set a key, or remove it with None."""
        with self._changed:
            self.revision += 1
            pair = kv_pb2.KeyValue(key=key, mod_revision=self.revision)
            if value is None:
                del self.keys[key]
            else:
                self.keys[key] = value
            kind = kv_pb2.Event.PUT if value is not None else kv_pb2.Event.DELETE
            self._events.append(kv_pb2.Event(type=kind, kv=pair))
            self._changed.notify_all()

    def _watch(
        self, requests: Iterator[kv_pb2.WatchRequest], context: grpc.ServicerContext
    ) -> Iterator[kv_pb2.WatchResponse]:
        request = next(requests).create_request
        self._called("Watch", self.cluster_id, context)
        yield kv_pb2.WatchResponse(header=self._revision(), created=True)
        sent = request.start_revision - 1
        if sent < self.compacted:
            yield kv_pb2.WatchResponse(canceled=True, compact_revision=self.compacted)
            return
        with self._changed:
            while not self._is_stopped and context.is_active():
                events = [e for e in self._events if e.kv.mod_revision > sent]
                matching = [e for e in events if request.key <= e.kv.key < request.range_end]
                if matching:
                    yield kv_pb2.WatchResponse(header=self._revision(), events=matching)
                if self.revision > sent:
                    # As etcd after ten minutes without changes of the keys.
                    yield kv_pb2.WatchResponse(header=self._revision())
                sent = self.revision
                self._changed.wait(0.05)

    def _revision(self) -> kv_pb2.ResponseHeader:
        return kv_pb2.ResponseHeader(revision=self.revision)

    def _range(
        self, request: kv_pb2.RangeRequest, context: grpc.ServicerContext
    ) -> kv_pb2.RangeResponse:
        self._called("Range", self.cluster_id, context)
        keys = [key for key in sorted(self.keys) if request.key <= key < request.range_end]
        pairs = [kv_pb2.KeyValue(key=k, value=self.keys[k]) for k in keys[: request.limit]]
        return kv_pb2.RangeResponse(
            header=self._revision(), kvs=pairs, more=len(keys) > request.limit
        )

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
