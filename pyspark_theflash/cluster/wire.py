"""The messages of pump, PD and etcd, as bytes, from and into values; and the calls' names."""

from dataclasses import dataclass, field
from typing import Final, TypeVar

from google.protobuf.message import DecodeError, Message

from pyspark_theflash.base.errors import CodecError
from pyspark_theflash.base.types import LOGICAL_BITS, TimeStamp, from_physical_ms
from pyspark_theflash.tidb.protocol._generated.etcd import kv_pb2
from pyspark_theflash.tidb.protocol._generated.pd import pdpb_pb2
from pyspark_theflash.tidb.protocol._generated.tipb import pump_pb2

M = TypeVar("M", bound=Message)

PUMP_SERVICE: Final = "binlog.Pump"
PULL_BINLOGS: Final = "/binlog.Pump/PullBinlogs"
GET_MEMBERS: Final = "/pdpb.PD/GetMembers"
GET_GC_SAFE_POINT: Final = "/pdpb.PD/GetGCSafePoint"
TSO: Final = "/pdpb.PD/Tso"
ETCD_RANGE: Final = "/etcdserverpb.KV/Range"
ETCD_PUT: Final = "/etcdserverpb.KV/Put"


# Pump.


@dataclass(frozen=True, slots=True)
class WriteBinlogRequest:
    """A binlog on its way to a pump."""

    cluster_id: int
    payload: bytes = field(repr=False)

    def to_bytes(self) -> bytes:
        message = pump_pb2.WriteBinlogReq(clusterID=self.cluster_id, payload=self.payload)
        return message.SerializeToString()

    @classmethod
    def from_bytes(cls, data: bytes) -> "WriteBinlogRequest":
        """Raises `CodecError`."""
        message = _parse(pump_pb2.WriteBinlogReq, data)
        return cls(message.clusterID, message.payload)


def encode_write_response(errmsg: str) -> bytes:
    """`errmsg` is empty for a binlog that is durable."""
    return pump_pb2.WriteBinlogResp(errmsg=errmsg).SerializeToString()


def decode_write_response(data: bytes) -> str:
    """Raises `CodecError`."""
    return _parse(pump_pb2.WriteBinlogResp, data).errmsg


@dataclass(frozen=True, slots=True)
class PullRequest:
    """Asks a pump for all that is behind a place: 0 and 0 are the start."""

    cluster_id: int
    suffix: int
    offset: int

    def to_bytes(self) -> bytes:
        start = pump_pb2.Pos(suffix=self.suffix, offset=self.offset)
        message = pump_pb2.PullBinlogReq(clusterID=self.cluster_id, startFrom=start)
        return message.SerializeToString()

    @classmethod
    def from_bytes(cls, data: bytes) -> "PullRequest":
        """Raises `CodecError`."""
        message = _parse(pump_pb2.PullBinlogReq, data)
        return cls(message.clusterID, message.startFrom.suffix, message.startFrom.offset)


@dataclass(frozen=True, slots=True)
class PulledBinlog:
    """A binlog that a pump hands out, and the place behind it.

    `merged`: its stream is sorted by commit_ts, and commits have their prewrites in them.
    """

    suffix: int
    offset: int
    payload: bytes = field(repr=False)
    merged: bool

    def to_bytes(self) -> bytes:
        """As our own server sends them: not merged."""
        pos = pump_pb2.Pos(suffix=self.suffix, offset=self.offset)
        entity = pump_pb2.Entity(pos=pos, payload=self.payload)
        return pump_pb2.PullBinlogResp(entity=entity).SerializeToString()

    @classmethod
    def from_bytes(cls, data: bytes) -> "PulledBinlog":
        """Raises `CodecError`.

        The pump of tidb-binlog leaves `pos` empty; it goes on behind a commit_ts, given as offset.
        """
        entity = _parse(pump_pb2.PullBinlogResp, data).entity
        suffix, offset = entity.pos.suffix, entity.pos.offset
        if (suffix, offset) == (0, 0):
            return cls(0, entity.meta.commitTs, entity.payload, merged=True)
        return cls(suffix, offset, entity.payload, merged=False)


# PD.


@dataclass(frozen=True, slots=True)
class Members:
    """PD's cluster, and where its leader is; no urls while there is none."""

    cluster_id: int
    leader_urls: tuple[str, ...]


def encode_members_request() -> bytes:
    """Needs no cluster's id: the answer tells it."""
    return pdpb_pb2.GetMembersRequest().SerializeToString()


def decode_members(data: bytes) -> Members:
    """Raises `CodecError`, also for an answer that is an error: no member of a cluster."""
    message = _parse(pdpb_pb2.GetMembersResponse, data)
    _check("PD's members", message.header)
    return Members(message.header.cluster_id, tuple(message.leader.client_urls))


def encode_tso_request(cluster_id: int) -> bytes:
    """Asks for one timestamp."""
    header = pdpb_pb2.RequestHeader(cluster_id=cluster_id)
    return pdpb_pb2.TsoRequest(header=header, count=1).SerializeToString()


def decode_tso(data: bytes) -> TimeStamp:
    """Raises `CodecError`, also for an answer that is an error."""
    message = _parse(pdpb_pb2.TsoResponse, data)
    _check("PD's timestamp", message.header)
    physical, logical = message.timestamp.physical, message.timestamp.logical
    in_range = 0 < physical < 1 << 64 - LOGICAL_BITS and 0 <= logical < 1 << LOGICAL_BITS
    if message.count != 1 or not in_range:
        reason = f"count={message.count} physical={physical} logical={logical} is no timestamp"
        raise CodecError("PD's timestamp", reason)
    return TimeStamp(from_physical_ms(physical) | logical)


def encode_safe_point_request(cluster_id: int) -> bytes:
    """Asks up to where garbage may be collected."""
    header = pdpb_pb2.RequestHeader(cluster_id=cluster_id)
    return pdpb_pb2.GetGCSafePointRequest(header=header).SerializeToString()


def decode_safe_point(data: bytes) -> TimeStamp:
    """Raises `CodecError`, also for an answer that is an error."""
    message = _parse(pdpb_pb2.GetGCSafePointResponse, data)
    _check("PD's safe point", message.header)
    return TimeStamp(message.safe_point)


def _check(what: str, header: pdpb_pb2.ResponseHeader) -> None:
    if header.error.type:
        raise CodecError(what, f"error {header.error.type}: {header.error.message}")


# etcd.


def encode_put(key: str, value: bytes) -> bytes:
    """Sets a key, for as long as nobody changes it: there is no lease."""
    return kv_pb2.PutRequest(key=key.encode(), value=value).SerializeToString()


def encode_range(prefix: str, limit: int) -> bytes:
    """Asks for every key that begins with `prefix`, which ends in an ASCII character."""
    key = prefix.encode()
    end = key[:-1] + bytes([key[-1] + 1])
    return kv_pb2.RangeRequest(key=key, range_end=end, limit=limit).SerializeToString()


def decode_range(data: bytes) -> dict[str, bytes]:
    """Raises `CodecError`, also where there are more keys than were asked for."""
    message = _parse(kv_pb2.RangeResponse, data)
    if message.more:
        raise CodecError("etcd's keys", f"more than {len(message.kvs)}")
    return {pair.key.decode("utf-8", "replace"): pair.value for pair in message.kvs}


def _parse(kind: type[M], data: bytes) -> M:
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise CodecError(kind.DESCRIPTOR.full_name, f"not a message: {error}") from error
