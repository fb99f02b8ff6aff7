"""Record and index keys of TiDB in TiKV.

    record key    't' int(table id) "_r" handle
    index key     't' int(table id) "_i" int(index id) datums
    TiKV key      memcomparable(raw key) desc(ts)

A handle is an `int` (8 bytes) or a common handle (9 or more bytes). `int` is a comparable integer.
`ts` is the commit_ts in column family write and the start_ts in default; keys in lock have no `ts`.
The table id is the physical one: the partition's id if the table is partitioned. See TiDB's
`tablecodec` and TiKV's `txn_types::Key`.
"""

from dataclasses import dataclass
from typing import Final, NewType

from pyspark_theflash.base.errors import CodecError
from pyspark_theflash.base.types import PhysicalTableID, TimeStamp
from pyspark_theflash.tidb.codec.bytes import decode_bytes
from pyspark_theflash.tidb.codec.number import decode_int, decode_uint_desc, encode_int

RawKey = NewType("RawKey", bytes)
"""A key as TiDB encodes it."""
MvccKey = NewType("MvccKey", bytes)
"""A key of TiKV's write or default column family: memcomparable, with a descending timestamp."""

_LAYER: Final = "key"
_TABLE, _RECORD = b"t", b"_r"
HANDLE_AT: Final = 1 + 8 + 2
"""Offset of the handle in a record key."""
_INT_HANDLE_BYTES: Final = 8


@dataclass(frozen=True, slots=True)
class RecordKey:
    """Decoded record key. The handle is an int, or the bytes of a common handle."""

    table_id: PhysicalTableID
    handle: int | bytes


def encode_record_key(table_id: PhysicalTableID, handle: int | bytes) -> RawKey:
    """Encode the key of a row. An unsigned handle is passed as the int64 with the same bits."""
    encoded = encode_int(handle) if isinstance(handle, int) else handle
    return RawKey(_TABLE + encode_int(table_id) + _RECORD + encoded)


def decode_record_key(key: RawKey) -> RecordKey:
    """Decode the key of a row. Raises `CodecError`: The bytes are not a record key."""
    if key[:1] != _TABLE or key[HANDLE_AT - 2 : HANDLE_AT] != _RECORD:
        raise CodecError(_LAYER, "not a record key", 0, key[:16].hex())
    table_id = PhysicalTableID(decode_int(key, 1))
    handle = key[HANDLE_AT:]
    if len(handle) < _INT_HANDLE_BYTES:
        raise CodecError(_LAYER, "the handle is too short", len(key), key[:16].hex())
    if len(handle) == _INT_HANDLE_BYTES:
        return RecordKey(table_id, decode_int(handle))
    return RecordKey(table_id, handle)


def decode_mvcc_key(key: MvccKey) -> tuple[RawKey, TimeStamp]:
    """Decode the key of a version into raw key and timestamp. Raises `CodecError`."""
    raw, end = decode_bytes(key)
    if len(key) != end + 8:
        raise CodecError(_LAYER, "no timestamp after the key", end, key[end : end + 16].hex())
    return RawKey(raw), TimeStamp(decode_uint_desc(key, end))


def table_of(key: RawKey) -> str:
    """Describe the owner of a key for messages, without data of the row."""
    if key[:1] == _TABLE and len(key) >= HANDLE_AT - 2:
        return f"table {decode_int(key, 1)}"
    return "a meta key" if key[:1] == b"m" else "a key of no table"
