"""Messages of PD and etcd, and the names of their gRPC methods."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, TypeVar

from google.protobuf.message import Message

from pyspark_theflash.base.errors import CodecError
from pyspark_theflash.base.types import LOGICAL_BITS, TimeStamp, from_physical_ms
from pyspark_theflash.tidb.protocol._generated.etcd import kv_pb2
from pyspark_theflash.tidb.protocol._generated.pd import pdpb_pb2
from pyspark_theflash.tidb.protocol.message import parse_message

M = TypeVar("M", bound=Message)

GET_MEMBERS: Final = "/pdpb.PD/GetMembers"
GET_GC_SAFE_POINT: Final = "/pdpb.PD/GetGCSafePoint"
TSO: Final = "/pdpb.PD/Tso"
ETCD_RANGE: Final = "/etcdserverpb.KV/Range"
ETCD_PUT: Final = "/etcdserverpb.KV/Put"

SafePointRequest = pdpb_pb2.GetGCSafePointRequest


def encode_request(request: Message, cluster_id: int) -> bytes:
    """Encode a request with the cluster id in its header, which requests of etcd do not have."""
    if "header" in request.DESCRIPTOR.fields_by_name:
        request.header.cluster_id = cluster_id  # type: ignore[attr-defined]
    return request.SerializeToString()


def parse_response(kind: type[M], data: bytes, *, accepted_errors: Collection[int] = ()) -> M:
    """Parse a response of PD. Raises `CodecError`, also if it contains an error."""
    message = parse_message(kind, data)
    error = message.header.error  # type: ignore[attr-defined]
    if error.type and error.type not in accepted_errors:
        raise CodecError(kind.DESCRIPTOR.full_name, f"error {error.type}: {error.message}")
    return message


# PD.


@dataclass(frozen=True, slots=True)
class Members:
    """The cluster id and the client URLs of PD's leader; no URLs if there is no leader."""

    cluster_id: int
    leader_urls: tuple[str, ...]


def encode_members_request() -> bytes:
    """Encode a request for the members. It needs no cluster id; the response contains it."""
    return pdpb_pb2.GetMembersRequest().SerializeToString()


def decode_members(data: bytes) -> Members:
    """Decode the members. Raises `CodecError`, also if the response contains an error."""
    message = parse_response(pdpb_pb2.GetMembersResponse, data)
    return Members(message.header.cluster_id, tuple(message.leader.client_urls))


def encode_tso_request(cluster_id: int) -> bytes:
    """Encode a request for one timestamp."""
    return encode_request(pdpb_pb2.TsoRequest(count=1), cluster_id)


def decode_tso(data: bytes) -> TimeStamp:
    """Decode a timestamp. Raises `CodecError`, also if the response contains an error."""
    message = parse_response(pdpb_pb2.TsoResponse, data)
    physical, logical = message.timestamp.physical, message.timestamp.logical
    in_range = 0 < physical < 1 << 64 - LOGICAL_BITS and 0 <= logical < 1 << LOGICAL_BITS
    if message.count != 1 or not in_range:
        reason = f"count={message.count} physical={physical} logical={logical} is no timestamp"
        raise CodecError("PD's timestamp", reason)
    return TimeStamp(from_physical_ms(physical) | logical)


def decode_safe_point(data: bytes) -> TimeStamp:
    """Decode the GC safe point. Raises `CodecError`, also if the response contains an error."""
    return TimeStamp(parse_response(pdpb_pb2.GetGCSafePointResponse, data).safe_point)


# etcd.


def put_request(key: str, value: bytes) -> Message:
    """Return a request to set a key, without a lease."""
    return kv_pb2.PutRequest(key=key.encode(), value=value)


def range_request(prefix: str, limit: int) -> Message:
    """Return a request for the keys with a prefix, whose last character must be ASCII."""
    key = prefix.encode()
    end = key[:-1] + bytes([key[-1] + 1])
    return kv_pb2.RangeRequest(key=key, range_end=end, limit=limit)


def decode_range(data: bytes) -> dict[str, bytes]:
    """Decode keys and values. Raises `CodecError`, also if the keys exceed the limit."""
    message = parse_message(kv_pb2.RangeResponse, data)
    if message.more:
        raise CodecError("etcd's keys", f"more than {len(message.kvs)}")
    return {pair.key.decode("utf-8", "replace"): pair.value for pair in message.kvs}
