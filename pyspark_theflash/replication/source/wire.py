"""Decode and encode tipb's binlog messages; the only user of their generated code here."""

from dataclasses import replace
from typing import Final

from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet

from pyspark_theflash.base.errors import BinlogCorruptionError, CodecError, UnsupportedError
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.replication.source.event import NO_KEY, DdlInfo, Entity, EntityKind
from pyspark_theflash.tidb.codec.key import RawKey
from pyspark_theflash.tidb.protocol._generated.tipb import binlog_pb2

_UNSIGNED: Final = 2**64 - 1
_KINDS: Final = {kind.value: kind for kind in EntityKind}

TableMutation = binlog_pb2.TableMutation
PrewriteValue = binlog_pb2.PrewriteValue


def decode_entities(
    payload: bytes, file: str, offset: int, *, merged: bool = False
) -> tuple[Entity, ...]:
    """Decode a message into one entity, or into a prewrite and its commit.

    TiDB sends prewrite and commit as separate messages. tidb-binlog's pump merges them for its
    clients into a commit that contains the prewrite's changes and DDL job.

    With `merged`, every commit contains its prewrite; otherwise one with a `prewrite_value` does.

    Raises `BinlogCorruptionError`, or `UnsupportedError` for an unknown type of message.
    """
    try:
        message = binlog_pb2.Binlog.FromString(payload)
    except DecodeError as error:
        raise BinlogCorruptionError(file, offset, f"not a binlog message: {error}") from error
    kind = _KINDS.get(message.tp)
    if kind is None or (not message.HasField("tp") and has_unknown_fields(message)):
        raise UnsupportedError(f"a binlog message of type {message.tp}", f"{file} at byte {offset}")
    # The fields are int64, but hold unsigned timestamps.
    start_ts, commit_ts = message.start_ts & _UNSIGNED, message.commit_ts & _UNSIGNED
    if not start_ts or (kind is EntityKind.COMMIT and commit_ts < start_ts):
        reason = f"invalid timestamps: start_ts={start_ts} commit_ts={commit_ts}"
        raise BinlogCorruptionError(file, offset, reason)
    ddl = _ddl_info(message) if message.ddl_job_id > 0 else None
    is_prewrite = kind is EntityKind.PREWRITE
    changes = message.prewrite_value if is_prewrite else b""
    primary = RawKey(message.prewrite_key) if is_prewrite else NO_KEY
    entity = Entity(
        kind, TimeStamp(start_ts), TimeStamp(commit_ts), changes, ddl, file, offset, primary
    )
    if kind is not EntityKind.COMMIT or commit_ts == start_ts:
        return (entity,)
    if not merged and not message.HasField("prewrite_value"):
        return (entity,)
    return _prewrite_of(entity, message), entity


def _prewrite_of(commit: Entity, message: binlog_pb2.Binlog) -> Entity:
    return replace(
        commit,
        kind=EntityKind.PREWRITE,
        commit_ts=TimeStamp(0),
        payload=message.prewrite_value,
        primary=RawKey(message.prewrite_key),
    )


def is_probe(payload: bytes) -> bool:
    """Return whether this is a message without content, TiDB's check that a pump works."""
    try:
        message = binlog_pb2.Binlog.FromString(payload)
    except DecodeError:
        return False
    stamped = message.start_ts or message.commit_ts
    content = stamped or message.prewrite_value or message.ddl_job_id
    return not (content or has_unknown_fields(message))


def encode_heartbeat(ts: TimeStamp) -> bytes:
    """Encode a heartbeat: a commit without changes, with `ts` as start_ts and commit_ts."""
    signed = ts - (ts >> 63 << 64)
    message = binlog_pb2.Binlog(tp=binlog_pb2.Commit, start_ts=signed, commit_ts=signed)
    return message.SerializeToString()


def _ddl_info(message: binlog_pb2.Binlog) -> DdlInfo:
    query = message.ddl_query.decode(errors="replace")
    return DdlInfo(query, message.ddl_job_id, message.ddl_schema_state)


def decode_prewrite_value(payload: bytes) -> binlog_pb2.PrewriteValue:
    """Decode a `prewrite_value`; raise `CodecError` if the bytes are not such a message."""
    try:
        return binlog_pb2.PrewriteValue.FromString(payload)
    except DecodeError as error:
        raise CodecError("prewrite value", f"not a message: {error}") from error


def has_unknown_fields(message: Message) -> bool:
    """Return whether a message has fields or enum values that are not in its definition."""
    return len(UnknownFieldSet(message)) > 0
