"""Messages of PD and etcd, and the names of their gRPC methods."""

from dataclasses import dataclass
from typing import Final

from pyspark_theflash.base.errors import CodecError
from pyspark_theflash.base.types import LOGICAL_BITS, TimeStamp, from_physical_ms
from pyspark_theflash.tidb.protocol._generated.etcd import kv_pb2
from pyspark_theflash.tidb.protocol._generated.pd import pdpb_pb2
from pyspark_theflash.tidb.protocol.message import parse_message

GET_MEMBERS: Final = "/pdpb.PD/GetMembers"
GET_GC_SAFE_POINT: Final = "/pdpb.PD/GetGCSafePoint"
TSO: Final = "/pdpb.PD/Tso"
ETCD_RANGE: Final = "/etcdserverpb.KV/Range"
ETCD_PUT: Final = "/etcdserverpb.KV/Put"


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
    message = parse_message(pdpb_pb2.GetMembersResponse, data)
    _check("PD's members", message.header)
    return Members(message.header.cluster_id, tuple(message.leader.client_urls))


def encode_tso_request(cluster_id: int) -> bytes:
    """Encode a request for one timestamp."""
    header = pdpb_pb2.RequestHeader(cluster_id=cluster_id)
    return pdpb_pb2.TsoRequest(header=header, count=1).SerializeToString()


def decode_tso(data: bytes) -> TimeStamp:
    """Decode a timestamp. Raises `CodecError`, also if the response contains an error."""
    message = parse_message(pdpb_pb2.TsoResponse, data)
    _check("PD's timestamp", message.header)
    physical, logical = message.timestamp.physical, message.timestamp.logical
    in_range = 0 < physical < 1 << 64 - LOGICAL_BITS and 0 <= logical < 1 << LOGICAL_BITS
    if message.count != 1 or not in_range:
        reason = f"count={message.count} physical={physical} logical={logical} is no timestamp"
        raise CodecError("PD's timestamp", reason)
    return TimeStamp(from_physical_ms(physical) | logical)


def encode_safe_point_request(cluster_id: int) -> bytes:
    """Encode a request for the GC safe point."""
    header = pdpb_pb2.RequestHeader(cluster_id=cluster_id)
    return pdpb_pb2.GetGCSafePointRequest(header=header).SerializeToString()


def decode_safe_point(data: bytes) -> TimeStamp:
    """Decode the GC safe point. Raises `CodecError`, also if the response contains an error."""
    message = parse_message(pdpb_pb2.GetGCSafePointResponse, data)
    _check("PD's safe point", message.header)
    return TimeStamp(message.safe_point)


def _check(what: str, header: pdpb_pb2.ResponseHeader) -> None:
    if header.error.type:
        raise CodecError(what, f"error {header.error.type}: {header.error.message}")


# etcd.


def encode_put(key: str, value: bytes) -> bytes:
    """Encode a request to set a key, without a lease."""
    return kv_pb2.PutRequest(key=key.encode(), value=value).SerializeToString()


def encode_range(prefix: str, limit: int) -> bytes:
    """Encode a request for the keys with a prefix, whose last character must be ASCII."""
    key = prefix.encode()
    end = key[:-1] + bytes([key[-1] + 1])
    return kv_pb2.RangeRequest(key=key, range_end=end, limit=limit).SerializeToString()


def decode_range(data: bytes) -> dict[str, bytes]:
    """Decode keys and values. Raises `CodecError`, also if the keys exceed the limit."""
    message = parse_message(kv_pb2.RangeResponse, data)
    if message.more:
        raise CodecError("etcd's keys", f"more than {len(message.kvs)}")
    return {pair.key.decode("utf-8", "replace"): pair.value for pair in message.kvs}
