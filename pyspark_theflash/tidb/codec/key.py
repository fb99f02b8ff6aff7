"""Keys of TiDB in TiKV.

    record key    't' int(table id) "_r" handle       handle: int (8 bytes), or a common handle (9
    or more) index key     't' int(table id) "_i" int(index id) datums TiKV's key
    memcomparable(raw key)  desc(ts)    ts: commit_ts in write, start_ts in default, none in lock

`int` is comparable. A table id in a key is the physical one: a partition's, where a table has
partitions. As in TiDB's `tablecodec` and TiKV's `txn_types::Key`.
"""

from dataclasses import dataclass
from typing import Final, NewType

from pyspark_theflash.base.errors import CodecError
from pyspark_theflash.base.types import PhysicalTableID, TimeStamp
from pyspark_theflash.tidb.codec.bytes import decode_bytes, encode_bytes
from pyspark_theflash.tidb.codec.number import (
    decode_int,
    decode_uint_desc,
    encode_int,
    encode_uint_desc,
)

RawKey = NewType("RawKey", bytes)
"""A key as TiDB makes it."""
MvccKey = NewType("MvccKey", bytes)
"""A key of TiKV's write or default column family: memcomparable, with a timestamp, newest first."""

_LAYER: Final = "key"
_TABLE, _RECORD, _INDEX = b"t", b"_r", b"_i"
HANDLE_AT: Final = 1 + 8 + 2
_INT_HANDLE_BYTES: Final = 8


@dataclass(frozen=True, slots=True)
class RecordKey:
    """Where a row is. The handle is an int, or the bytes of a common handle."""

    table_id: PhysicalTableID
    handle: int | bytes


def encode_record_key(table_id: PhysicalTableID, handle: int | bytes) -> RawKey:
    """The key of a row. An unsigned handle is given as the int64 of the same bits."""
    encoded = encode_int(handle) if isinstance(handle, int) else handle
    return RawKey(_TABLE + encode_int(table_id) + _RECORD + encoded)


def decode_record_key(key: RawKey) -> RecordKey:
    """The inverse of `encode_record_key`.

    Raises:
        CodecError: it is not the key of a row.
    """
    if key[:1] != _TABLE or key[HANDLE_AT - 2 : HANDLE_AT] != _RECORD:
        raise CodecError(_LAYER, "not a record key", 0, key[:16].hex())
    table_id = PhysicalTableID(decode_int(key, 1))
    handle = key[HANDLE_AT:]
    if len(handle) < _INT_HANDLE_BYTES:
        raise CodecError(_LAYER, "the handle ends early", len(key), key[:16].hex())
    if len(handle) == _INT_HANDLE_BYTES:
        return RecordKey(table_id, decode_int(handle))
    return RecordKey(table_id, handle)


def encode_index_prefix(table_id: PhysicalTableID, index_id: int) -> RawKey:
    """What all keys of an index begin with; the indexed datums follow."""
    return RawKey(_TABLE + encode_int(table_id) + _INDEX + encode_int(index_id))


def encode_mvcc_key(key: RawKey, ts: TimeStamp) -> MvccKey:
    """One version of a key."""
    return MvccKey(encode_bytes(key) + encode_uint_desc(ts))


def decode_mvcc_key(key: MvccKey) -> tuple[RawKey, TimeStamp]:
    """The inverse of `encode_mvcc_key`.

    Raises:
        CodecError: the bytes are no such key.
    """
    raw, end = decode_bytes(key)
    if len(key) != end + 8:
        raise CodecError(_LAYER, "no timestamp behind the key", end, key[end : end + 16].hex())
    return RawKey(raw), TimeStamp(decode_uint_desc(key, end))


def table_of(key: RawKey) -> str:
    """Whose key it is, in words that tell nothing of a row."""
    if key[:1] == _TABLE and len(key) >= HANDLE_AT - 2:
        return f"table {decode_int(key, 1)}"
    return "a meta key" if key[:1] == b"m" else "a key of no table"
