"""Lock records: what a transaction that is not through yet has put on a key.

    u8 kind | compact bytes primary | uvarint start_ts | uvarint ttl_ms | tagged fields

    kind  P put   D delete   L lock only   S pessimistic   H shared by several transactions
    tags  v u8 size, short value        f u64 for_update_ts       t u64 transaction's size in keys
          c u64 min_commit_ts           a uvarint n, n keys: async commit, with its secondaries
          r uvarint n, n u64: start_ts of transactions rolled back on this key meanwhile
          l u64, uvarint: last change   s uvarint source          F locked with conflict
          g u64 generation (pipelined)  h uvarint n, n lock records: who shares the lock
          i u8 flags of a shared lock

Fields come in a fixed order, and an unknown tag ends the record: TiKV appends new ones at the end.
A shared lock is either like the others, with an empty primary, or `H` followed by its tags at once
(TiKV has changed it). Keys and primaries are TiDB's own, not memcomparable ones. As in TiKV's
`txn_types::Lock`.

Which locks keep a snapshot from being read is `Lock.blocks`. Of a percolator transaction only a put
or a delete can change what a snapshot sees, and only one that began at or below it:

    kind L, S, H                       no data: never in the way
    start_ts > snapshot_ts             commits above the snapshot
    min_commit_ts > snapshot_ts        commits above the snapshot: a reader has pushed it, or async
                                       commit calculated it
    else                               nobody but the transaction's primary knows
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from pyspark_theflash.base.errors import CodecError
from pyspark_theflash.base.types import MAX_TS, TimeStamp
from pyspark_theflash.cluster.record import RecordReader
from pyspark_theflash.tidb.codec.key import RawKey

_LAYER: Final = "lock record"
_NO_TS: Final = TimeStamp(0)
_SHORT_VALUE: Final = ord("v")
_FOR_UPDATE_TS: Final = ord("f")
_TXN_SIZE: Final = ord("t")
_MIN_COMMIT_TS: Final = ord("c")
_ASYNC_COMMIT: Final = ord("a")
_ROLLBACK_TS: Final = ord("r")
_LAST_CHANGE: Final = ord("l")
_TXN_SOURCE: Final = ord("s")
_WITH_CONFLICT: Final = ord("F")
_GENERATION: Final = ord("g")
_SHARED_BY: Final = ord("h")
_SHARED_FLAGS: Final = ord("i")


class LockKind(Enum):
    """The kind of change that a lock announces; the value is the byte on the wire."""

    PUT = ord("P")
    DELETE = ord("D")
    LOCK = ord("L")
    PESSIMISTIC = ord("S")
    SHARED = ord("H")


@dataclass(frozen=True, slots=True)
class Lock:
    """A lock record and the key that it is on. Zero and empty fields are not there.

    `short_value` is the row where it is short enough to be kept here; a put without one has it in
    the default column family at `start_ts`. `secondaries` are only told by an async-commit
    transaction's primary. `shared_by` are the locks that make up a shared one.
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
        """Whether committing it makes a version of the row."""
        return self.kind in (LockKind.PUT, LockKind.DELETE)

    def blocks(self, snapshot_ts: TimeStamp) -> bool:
        """Whether a snapshot cannot be read before it is known what has become of this lock."""
        return self.has_data and max(self.start_ts, self.min_commit_ts) <= snapshot_ts


def decode_lock(key: RawKey, data: bytes) -> Lock:
    """The lock that a value of the lock column family says.

    Raises:
        CodecError: the bytes are no lock record.
    """
    reader = RecordReader(_LAYER, data)
    kind = _kind(reader)
    if kind is LockKind.SHARED and reader.peek() in (-1, _SHARED_BY, _SHARED_FLAGS):
        primary, start_ts, ttl_ms = b"", int(MAX_TS), 0
    else:
        primary, start_ts = reader.compact_bytes(), reader.uvarint()
        ttl_ms = 0 if reader.is_at_end else reader.uvarint()
    fields: dict[str, object] = {}
    while not reader.is_at_end and (found := _tagged(reader, key)) is not None:
        fields.update(found)
    head = (key, kind, RawKey(primary), TimeStamp(start_ts), ttl_ms)
    return Lock(*head, **fields)  # type: ignore[arg-type]


def _kind(reader: RecordReader) -> LockKind:
    code = reader.u8()
    try:
        return LockKind(code)
    except ValueError as error:
        raise CodecError(_LAYER, f"no lock is of kind {code:#04x}") from error


def _tagged(reader: RecordReader, key: RawKey) -> dict[str, object] | None:
    """The field that comes next, by its name in `Lock`; None for an unknown one."""
    tag = reader.u8()
    if tag == _SHORT_VALUE:
        return {"short_value": reader.take(reader.u8())}
    if tag in _NUMBERS:
        return {_NUMBERS[tag]: reader.u64()}
    if tag == _ASYNC_COMMIT:
        keys = tuple(reader.compact_bytes() for _ in range(reader.count()))
        return {"use_async_commit": True, "secondaries": keys}
    if tag == _ROLLBACK_TS:
        return {"rollback_ts": tuple(reader.u64() for _ in range(reader.count()))}
    if tag == _LAST_CHANGE:
        return {"last_change_ts": reader.u64(), "last_change_versions": reader.uvarint()}
    if tag == _TXN_SOURCE:
        return {"txn_source": reader.uvarint()}
    if tag == _WITH_CONFLICT:
        return {"is_locked_with_conflict": True}
    if tag == _SHARED_BY:
        return {"shared_by": tuple(_holder(reader, key) for _ in range(reader.count()))}
    if tag == _SHARED_FLAGS:
        reader.u8()  # whether others may still join, which no reader asks
        return {}
    return None


def _holder(reader: RecordReader, key: RawKey) -> Lock:
    """One of those who share a lock. They hold no shared lock in turn, so this ends."""
    record = reader.compact_bytes()
    if record[:1] == bytes([LockKind.SHARED.value]):
        raise reader.error("a shared lock within a shared lock")
    return decode_lock(key, record)


_NUMBERS: Final = {
    _FOR_UPDATE_TS: "for_update_ts",
    _TXN_SIZE: "txn_size",
    _MIN_COMMIT_TS: "min_commit_ts",
    _GENERATION: "generation",
}
