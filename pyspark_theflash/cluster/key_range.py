"""Ranges of memcomparable keys, and their conversion to ranges of handles of one table.

The bounds of regions are memcomparable keys that need not be keys of rows: a table prefix `t{id}`,
the end of a table, or a truncated handle. The engine addresses rows by handle only.
"""

from dataclasses import dataclass
from typing import Final

from pyspark_theflash.base.errors import CodecError
from pyspark_theflash.base.types import PhysicalTableID
from pyspark_theflash.cluster.located import RawKeyRange
from pyspark_theflash.storage.engine.api import Handle
from pyspark_theflash.tidb.codec.bytes import decode_bytes, encode_bytes
from pyspark_theflash.tidb.codec.key import HANDLE_AT, decode_record_key, encode_record_key

_INT_HANDLE_BYTES: Final = 8


@dataclass(frozen=True, slots=True)
class EncodedKeyRange:
    """Memcomparable keys in [start, end). An empty `end` means no upper bound."""

    start: bytes
    end: bytes

    def contains(self, key: bytes) -> bool:
        """Return whether a key is in the range."""
        return self.start <= key and (not self.end or key < self.end)

    def within(self, other: "EncodedKeyRange") -> "EncodedKeyRange | None":
        """Return the intersection of two ranges; None if it is empty."""
        start = max(self.start, other.start)
        ends = [end for end in (self.end, other.end) if end]
        end = min(ends) if ends else b""
        return None if end and start >= end else EncodedKeyRange(start, end)


def record_range(physical_id: PhysicalTableID) -> EncodedKeyRange:
    """Return the range of all row keys of a physical table."""
    keys = RawKeyRange.of_prefix(encode_record_key(physical_id, b""))
    return EncodedKeyRange(encode_bytes(keys.start), encode_bytes(keys.end))


def handle_bounds(
    physical_id: PhysicalTableID, keys: EncodedKeyRange, *, is_common: bool
) -> tuple[Handle | None, Handle | None] | None:
    """Convert a range of keys to bounds [start, end) of handles of a physical table.

    Returns None if the range contains no row key of the table. A bound that is None is unlimited.

    Raises:
        CodecError: A bound is not a memcomparable key.
    """
    shared = keys.within(record_range(physical_id))
    if shared is None:
        return None
    records = record_range(physical_id)
    start = None if shared.start == records.start else _handle(shared.start, is_common=is_common)
    end = None if shared.end == records.end else _handle(shared.end, is_common=is_common)
    if not is_common and start is not None and start == _BEYOND:
        return None
    return start, None if end == _BEYOND else end


_BEYOND: Final = 1 << 63
"""Greater than every integer handle."""


def _handle(key: bytes, *, is_common: bool) -> Handle:
    """Return the smallest handle whose key is at or above a key in a table's records."""
    raw, key_end = decode_bytes(key)
    if key_end != len(key):
        raise CodecError("region bound", "bytes after the key", key_end)
    encoded = raw[HANDLE_AT:]
    if is_common:
        return encoded
    padded = encoded[:_INT_HANDLE_BYTES].ljust(_INT_HANDLE_BYTES, b"\0")
    handle = decode_record_key(encode_record_key(PhysicalTableID(0), padded)).handle
    if not isinstance(handle, int):
        return handle
    return handle + (len(encoded) > _INT_HANDLE_BYTES)
