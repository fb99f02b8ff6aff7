"""Messages of the gRPC service of a pump, `binlog.Pump`, and the names of its methods."""

from dataclasses import dataclass, field
from typing import Final

from pyspark_theflash.tidb.protocol._generated.tipb import pump_pb2
from pyspark_theflash.tidb.protocol.message import parse_message

PUMP_SERVICE: Final = "binlog.Pump"
PULL_BINLOGS: Final = "/binlog.Pump/PullBinlogs"


@dataclass(frozen=True, slots=True)
class WriteBinlogRequest:
    """A request of TiDB to write a binlog."""

    cluster_id: int
    payload: bytes = field(repr=False)

    def to_bytes(self) -> bytes:
        message = pump_pb2.WriteBinlogReq(clusterID=self.cluster_id, payload=self.payload)
        return message.SerializeToString()

    @classmethod
    def from_bytes(cls, data: bytes) -> "WriteBinlogRequest":
        """Decode a request. Raises `CodecError`."""
        message = parse_message(pump_pb2.WriteBinlogReq, data)
        return cls(message.clusterID, message.payload)


def encode_write_response(errmsg: str) -> bytes:
    """Encode the response to a write; `errmsg` is empty if the binlog is durable."""
    return pump_pb2.WriteBinlogResp(errmsg=errmsg).SerializeToString()


def decode_write_response(data: bytes) -> str:
    """Decode the error message of a response. Raises `CodecError`."""
    return parse_message(pump_pb2.WriteBinlogResp, data).errmsg


@dataclass(frozen=True, slots=True)
class PullRequest:
    """A request to send all binlogs after a position; suffix 0 and offset 0 are the start."""

    cluster_id: int
    suffix: int
    offset: int

    def to_bytes(self) -> bytes:
        start = pump_pb2.Pos(suffix=self.suffix, offset=self.offset)
        message = pump_pb2.PullBinlogReq(clusterID=self.cluster_id, startFrom=start)
        return message.SerializeToString()

    @classmethod
    def from_bytes(cls, data: bytes) -> "PullRequest":
        """Decode a request. Raises `CodecError`."""
        message = parse_message(pump_pb2.PullBinlogReq, data)
        return cls(message.clusterID, message.startFrom.suffix, message.startFrom.offset)


@dataclass(frozen=True, slots=True)
class PulledBinlog:
    """A binlog that a pump sends, and the position after it.

    `merged`: The stream is sorted by commit_ts, and each commit contains its prewrite.
    """

    suffix: int
    offset: int
    payload: bytes = field(repr=False)
    merged: bool

    def to_bytes(self) -> bytes:
        """Encode as the pump of this package does: not merged."""
        pos = pump_pb2.Pos(suffix=self.suffix, offset=self.offset)
        entity = pump_pb2.Entity(pos=pos, payload=self.payload)
        return pump_pb2.PullBinlogResp(entity=entity).SerializeToString()

    @classmethod
    def from_bytes(cls, data: bytes) -> "PulledBinlog":
        """Decode a response. Raises `CodecError`.

        The pump of tidb-binlog leaves `pos` empty and resumes after a commit_ts, passed as offset.
        """
        entity = parse_message(pump_pb2.PullBinlogResp, data).entity
        suffix, offset = entity.pos.suffix, entity.pos.offset
        if (suffix, offset) == (0, 0):
            return cls(0, entity.meta.commitTs, entity.payload, merged=True)
        return cls(suffix, offset, entity.payload, merged=False)
