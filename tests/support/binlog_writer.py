"""Binlog messages and files as TiDB and pump write them."""

import gzip
import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import google_crc32c

from pyspark_theflash.replication.source.event import DdlInfo
from pyspark_theflash.replication.source.frame import MAGIC
from pyspark_theflash.replication.source.prewrite import DELETE_ROW, INSERT, UPDATE
from pyspark_theflash.tidb.protocol._generated.tipb import binlog_pb2


def frame(payload: bytes) -> bytes:
    """One frame around a message."""
    crc = struct.pack("<I", google_crc32c.value(payload))
    return struct.pack("<IQ", MAGIC, len(payload)) + payload + crc


def frames(messages: Iterable[bytes]) -> bytes:
    """The content of a binlog file."""
    return b"".join(map(frame, messages))


def split_frames(content: bytes) -> list[bytes]:
    """The frames of a binlog file, whole: the inverse of joining them."""
    overhead, frames, at = len(frame(b"")), [], 0
    while at < len(content):
        end = at + overhead + int.from_bytes(content[at + 4 : at + 12], "little")
        frames.append(content[at:end])
        at = end
    return frames


def write_file(path: Path, messages: Iterable[bytes]) -> Path:
    """A binlog file, compressed if its name ends in `.gz`."""
    content = frames(messages)
    path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)
    return path


def prewrite(start_ts: int, value: bytes = b"", ddl: DdlInfo | None = None) -> bytes:
    """A prewrite message; `value` is a `prewrite_value`."""
    message = _message(binlog_pb2.Prewrite, start_ts, 0, ddl)
    message.prewrite_value = value
    return message.SerializeToString()


def commit(start_ts: int, commit_ts: int, ddl: DdlInfo | None = None) -> bytes:
    """A commit message."""
    return _message(binlog_pb2.Commit, start_ts, commit_ts, ddl).SerializeToString()


def merged(start_ts: int, commit_ts: int, value: bytes = b"", ddl: DdlInfo | None = None) -> bytes:
    """A commit as a pump sends it, with the content of its prewrite."""
    message = _message(binlog_pb2.Commit, start_ts, commit_ts, ddl)
    if ddl is None:
        message.prewrite_value = value
    return message.SerializeToString()


def rollback(start_ts: int) -> bytes:
    """A rollback message as TiDB sends it."""
    return _message(binlog_pb2.Rollback, start_ts, 0, None).SerializeToString()


def heartbeat(ts: int) -> bytes:
    """The heartbeat of an idle pump, up to a timestamp."""
    return _message(binlog_pb2.Rollback, ts, ts, None).SerializeToString()


def transaction(start_ts: int, commit_ts: int, value: bytes = b"") -> list[bytes]:
    """Prewrite and commit."""
    return [prewrite(start_ts, value), commit(start_ts, commit_ts)]


def prewrite_value(
    schema_version: int, changes: Mapping[int, Sequence[tuple[int, bytes]]]
) -> bytes:
    """Changes by table id, each (INSERT, UPDATE or DELETE_ROW, encoded row), in order."""
    value = binlog_pb2.PrewriteValue(schema_version=schema_version)
    for table_id, rows in changes.items():
        value.mutations.add(
            table_id=table_id,
            inserted_rows=[row for kind, row in rows if kind == INSERT],
            updated_rows=[row for kind, row in rows if kind == UPDATE],
            deleted_rows=[row for kind, row in rows if kind == DELETE_ROW],
            sequence=[kind for kind, _ in rows],
        )
    return value.SerializeToString()


def row_value(size_bytes: int) -> bytes:
    """Changes of one inserted row of a size."""
    return prewrite_value(1, {7: [(INSERT, b"v" * size_bytes)]})


def _message(
    kind: binlog_pb2.BinlogType, start_ts: int, commit_ts: int, ddl: DdlInfo | None
) -> binlog_pb2.Binlog:
    message = binlog_pb2.Binlog(tp=kind, start_ts=_signed(start_ts), commit_ts=_signed(commit_ts))
    if ddl is not None:
        message.ddl_query = ddl.query.encode()
        message.ddl_job_id, message.ddl_schema_state = ddl.job_id, ddl.schema_state
    return message


def _signed(ts: int) -> int:
    """The int64 of the same 64 bits."""
    return ts - (ts >> 63 << 64)
