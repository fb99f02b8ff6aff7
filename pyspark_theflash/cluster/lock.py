"""Lock records: values of TiKV's lock column family.

    u8 kind | compact bytes primary | uvarint start_ts | uvarint ttl_ms | tagged fields

    kind  P put   D delete   L lock only   S pessimistic   H shared by several transactions
    tags  v u8 size, short value        f u64 for_update_ts       t u64 transaction's size in keys
          c u64 min_commit_ts           a uvarint n, n keys: async commit, with its secondaries
          r uvarint n, n u64: start_ts of transactions rolled back on this key since the prewrite
          l u64, uvarint: last change   s uvarint source          F locked with conflict
          g u64 generation (pipelined)  h uvarint n, n lock records: holders of a shared lock
          i u8 flags of a shared lock

Fields have a fixed order, and an unknown tag ends the record: TiKV appends new fields at the end.
A shared lock has either the common header with an empty primary, or `H` followed immediately by
its tags (the format differs by TiKV version). Keys and primaries are raw, not memcomparable. See
TiKV's `txn_types::Lock`.

`Lock.blocks` determines whether a lock blocks a snapshot read. In percolator, only a put or a
delete whose start_ts is at or below the snapshot can change what the snapshot sees:

    kind L, S, H                   does not block: no data
    start_ts > snapshot_ts         does not block: commits above the snapshot
    min_commit_ts > snapshot_ts    does not block: commits above the snapshot; a reader has pushed
                                   min_commit_ts, or async commit has calculated it
    otherwise                      blocks: only the primary has the transaction's state
"""

from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from typing import Any, Final

from pyspark_theflash.base.errors import CodecError
from pyspark_theflash.base.types import MAX_TS, TimeStamp
from pyspark_theflash.cluster.record import SHARED_FIELDS, FieldReaders, RecordReader
from pyspark_theflash.tidb.codec.key import RawKey

_LAYER: Final = "lock record"
_NO_TS: Final = TimeStamp(0)
_SHARED_BY: Final = "h"
_SHARED_FLAGS: Final = "i"


class LockKind(Enum):
    """The kind of a lock; the value is its byte in the record."""

    PUT = ord("P")
    DELETE = ord("D")
    LOCK = ord("L")
    PESSIMISTIC = ord("S")
    SHARED = ord("H")


@dataclass(frozen=True, slots=True)
class Lock:
    """A lock record with its key. Absent fields are zero or empty.

    `short_value` is the row, if it is short; the row of a put without it is in the default column
    family at `start_ts`. Only the primary of an async-commit transaction has `secondaries`.
    `shared_by` are the locks of the holders of a shared lock.
    """

    key: RawKey
    kind: LockKind
    primary: RawKey
    start_ts: TimeStamp
    ttl_ms: int = 0
    short_value: bytes | None = field(default=None, repr=False)
    for_update_ts: TimeStamp = _NO_TS
    txn_size: int = 0
    min_commit_ts: TimeStamp = _NO_TS
    use_async_commit: bool = False
    secondaries: tuple[RawKey, ...] = ()
    rollback_ts: tuple[TimeStamp, ...] = ()
    last_change_ts: TimeStamp = _NO_TS
    last_change_versions: int = 0
    txn_source: int = 0
    is_locked_with_conflict: bool = False
    generation: int = 0
    shared_by: tuple["Lock", ...] = ()

    @property
    def has_data(self) -> bool:
        """Whether a commit creates a version of the row."""
        return self.kind in (LockKind.PUT, LockKind.DELETE)

    def blocks(self, snapshot_ts: TimeStamp) -> bool:
        """Return whether the lock must be resolved before a snapshot is read."""
        return self.has_data and max(self.start_ts, self.min_commit_ts) <= snapshot_ts


def decode_lock(key: RawKey, data: bytes) -> Lock:
    """Decode a value of the lock column family.

    Raises:
        CodecError: The bytes are not a lock record.
    """
    reader = RecordReader(_LAYER, data)
    kind = _kind(reader)
    if kind is LockKind.SHARED and reader.peek() in ("", _SHARED_BY, _SHARED_FLAGS):
        primary, start_ts, ttl_ms = b"", int(MAX_TS), 0
    else:
        primary, start_ts = reader.compact_bytes(), reader.uvarint()
        ttl_ms = 0 if reader.is_at_end else reader.uvarint()
    fields = reader.tagged_fields({**_FIELDS, _SHARED_BY: partial(_holders, key)})
    return Lock(key, kind, RawKey(primary), TimeStamp(start_ts), ttl_ms, **fields)


def _kind(reader: RecordReader) -> LockKind:
    code = reader.u8()
    try:
        return LockKind(code)
    except ValueError as error:
        raise CodecError(_LAYER, f"unknown lock kind {code:#04x}") from error


def _holders(key: RawKey, reader: RecordReader) -> dict[str, Any]:
    return {"shared_by": tuple(_holder(reader, key) for _ in range(reader.count()))}


def _holder(reader: RecordReader, key: RawKey) -> Lock:
    """Read the lock of one holder of a shared lock. It cannot be shared, so recursion ends."""
    record = reader.compact_bytes()
    if record[:1] == bytes([LockKind.SHARED.value]):
        raise reader.error("a shared lock within a shared lock")
    return decode_lock(key, record)


def _async_commit(reader: RecordReader) -> dict[str, Any]:
    keys = tuple(RawKey(reader.compact_bytes()) for _ in range(reader.count()))
    return {"use_async_commit": True, "secondaries": keys}


def _ignored(reader: RecordReader) -> dict[str, Any]:
    """Skip the flags of a shared lock: whether more holders may join."""
    reader.u8()
    return {}


_FIELDS: Final[FieldReaders] = {
    **SHARED_FIELDS,
    "f": lambda reader: {"for_update_ts": reader.u64()},
    "t": lambda reader: {"txn_size": reader.u64()},
    "c": lambda reader: {"min_commit_ts": reader.u64()},
    "a": _async_commit,
    "r": lambda reader: {"rollback_ts": tuple(reader.u64() for _ in range(reader.count()))},
    "s": lambda reader: {"txn_source": reader.uvarint()},
    "F": lambda _: {"is_locked_with_conflict": True},
    "g": lambda reader: {"generation": reader.u64()},
    _SHARED_FLAGS: _ignored,
}
