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
ETCD_WATCH: Final = "/etcdserverpb.Watch/Watch"

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
    return kv_pb2.RangeRequest(key=key, range_end=_end_of(key), limit=limit)


def decode_range(data: bytes) -> dict[str, bytes]:
    """Decode keys and values. Raises `CodecError`, also if the keys exceed the limit."""
    return decode_revision(data)[1]


def decode_revision(data: bytes) -> tuple[int, dict[str, bytes]]:
    """Decode etcd's revision, and keys and values as `decode_range`."""
    message = parse_message(kv_pb2.RangeResponse, data)
    if message.more:
        raise CodecError("etcd's keys", f"more than {len(message.kvs)}")
    pairs = {pair.key.decode("utf-8", "replace"): pair.value for pair in message.kvs}
    return message.header.revision, pairs


@dataclass(frozen=True, slots=True)
class KeyChanges:
    """Changes of etcd's keys up to a revision: whether each was set, or else removed.

    `revision` is None if the response has no changes and no statement about them. `compacted` is
    the oldest revision that etcd still has, if the requested one is older.
    """

    revision: int | None
    changes: tuple[tuple[str, bool], ...] = ()
    compacted: int | None = None


def encode_watch_request(prefix: str, revision: int) -> bytes:
    """Encode a request for the changes from a revision on of the keys with a prefix."""
    key = prefix.encode()
    create = kv_pb2.WatchCreateRequest(
        key=key, range_end=_end_of(key), start_revision=revision, progress_notify=True
    )
    return kv_pb2.WatchRequest(create_request=create).SerializeToString()


def decode_key_changes(data: bytes) -> KeyChanges:
    """Decode a response of a watch. Raises `CodecError`, also if etcd ended the watch."""
    message = parse_message(kv_pb2.WatchResponse, data)
    if message.compact_revision:
        return KeyChanges(None, compacted=message.compact_revision)
    if message.canceled:
        raise CodecError("etcd's watch", f"it was ended: {message.cancel_reason[:200]}")
    if message.created:
        return KeyChanges(None)
    if not message.events:
        return KeyChanges(message.header.revision)
    changes = tuple(
        (event.kv.key.decode("utf-8", "replace"), event.type == kv_pb2.Event.PUT)
        for event in message.events
    )
    return KeyChanges(max(event.kv.mod_revision for event in message.events), changes)


def _end_of(prefix: bytes) -> bytes:
    """Return the end of the range of keys with a prefix."""
    return prefix[:-1] + bytes([prefix[-1] + 1])
