"""tipb's messages, as bytes, into values. Nothing else in this package knows generated stubs."""

from typing import Final

from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet

from pyspark_theflash.binlog.event import DdlInfo, Entity, EntityKind
from pyspark_theflash.errors import BinlogCorruptionError, CodecError, UnsupportedError
from pyspark_theflash.protocol._generated.tipb import binlog_pb2
from pyspark_theflash.types import TimeStamp

_UNSIGNED: Final = 2**64 - 1
_KINDS: Final = {kind.value: kind for kind in EntityKind}

TableMutation = binlog_pb2.TableMutation


def decode_entity(payload: bytes, file: str, offset: int) -> Entity:
    """The message in a frame. Raises `BinlogCorruptionError`, or `UnsupportedError` for a kind."""
    try:
        message = binlog_pb2.Binlog.FromString(payload)
    except DecodeError as error:
        raise BinlogCorruptionError(file, offset, f"not a binlog message: {error}") from error
    kind = _KINDS.get(message.tp)
    if kind is None or (not message.HasField("tp") and has_unknown_fields(message)):
        raise UnsupportedError(f"a binlog message of type {message.tp}", f"{file} at byte {offset}")
    # int64 in the message, unsigned everywhere else.
    start_ts, commit_ts = message.start_ts & _UNSIGNED, message.commit_ts & _UNSIGNED
    if not start_ts or (kind is EntityKind.COMMIT and commit_ts < start_ts):
        reason = f"impossible timestamps: start_ts={start_ts} commit_ts={commit_ts}"
        raise BinlogCorruptionError(file, offset, reason)
    return Entity(
        kind,
        TimeStamp(start_ts),
        TimeStamp(commit_ts),
        message.prewrite_value if kind is EntityKind.PREWRITE else b"",
        _ddl_info(message) if message.ddl_job_id > 0 else None,
        file,
        offset,
    )


def _ddl_info(message: binlog_pb2.Binlog) -> DdlInfo:
    query = message.ddl_query.decode(errors="replace")
    return DdlInfo(query, message.ddl_job_id, message.ddl_schema_state)


def decode_prewrite_value(payload: bytes) -> binlog_pb2.PrewriteValue:
    """Raises `CodecError` for bytes that are no such message."""
    try:
        return binlog_pb2.PrewriteValue.FromString(payload)
    except DecodeError as error:
        raise CodecError("prewrite value", f"not a message: {error}") from error


def has_unknown_fields(message: Message) -> bool:
    """Whether a message has fields, or values of an enum, that its definition lacks."""
    return len(UnknownFieldSet(message)) > 0
