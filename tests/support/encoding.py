"""Encodings that only tests need: the package decodes these."""

from pyspark_theflash.base.types import PhysicalTableID, TimeStamp
from pyspark_theflash.tidb.codec.bytes import encode_bytes
from pyspark_theflash.tidb.codec.key import MvccKey, RawKey
from pyspark_theflash.tidb.codec.number import encode_int, encode_uint_desc, encode_uvarint


def encode_varint(value: int) -> bytes:
    """Encode a signed 64-bit integer as a varint."""
    return encode_uvarint((value << 1 ^ value >> 63) & (1 << 64) - 1)


def encode_index_prefix(table_id: PhysicalTableID, index_id: int) -> RawKey:
    """Return the common prefix of all keys of an index; the indexed datums follow it."""
    return RawKey(b"t" + encode_int(table_id) + b"_i" + encode_int(index_id))


def encode_mvcc_key(key: RawKey, ts: TimeStamp) -> MvccKey:
    """Encode the key of one version of a raw key."""
    return MvccKey(encode_bytes(key) + encode_uint_desc(ts))
