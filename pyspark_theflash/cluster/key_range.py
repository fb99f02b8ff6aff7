"""Ranges of keys, and what they are as handles of one table.

Regions are bounded by memcomparable keys, which need not be keys of rows: `t{id}`, a table's end,
or a handle cut short. The engine knows handles only.
"""

from dataclasses import dataclass
from typing import Final

from pyspark_theflash.base.errors import CodecError
from pyspark_theflash.base.types import PhysicalTableID
from pyspark_theflash.storage.engine.api import Handle
from pyspark_theflash.tidb.codec.bytes import decode_bytes, encode_bytes
from pyspark_theflash.tidb.codec.key import HANDLE_AT, decode_record_key, encode_record_key

_INT_HANDLE_BYTES: Final = 8


@dataclass(frozen=True, slots=True)
class EncodedKeyRange:
    """Memcomparable keys from `start` to before `end`, which is behind all keys if it is empty."""

    start: bytes
    end: bytes

    def contains(self, key: bytes) -> bool:
        """Whether a key is in the range."""
        return self.start <= key and (not self.end or key < self.end)

    def within(self, other: "EncodedKeyRange") -> "EncodedKeyRange | None":
        """Return the common part of both; None where there is none."""
        start = max(self.start, other.start)
        ends = [end for end in (self.end, other.end) if end]
        end = min(ends) if ends else b""
        return None if end and start >= end else EncodedKeyRange(start, end)


def record_range(physical_id: PhysicalTableID) -> EncodedKeyRange:
    """The keys of all rows of a physical table."""
    prefix = encode_record_key(physical_id, b"")
    end = prefix[:-1] + bytes([prefix[-1] + 1])
    return EncodedKeyRange(encode_bytes(prefix), encode_bytes(end))


def handle_bounds(
    physical_id: PhysicalTableID, keys: EncodedKeyRange, *, is_common: bool
) -> tuple[Handle | None, Handle | None] | None:
    """The handles of a physical table in a range, None for no bound; None where there are none.

    Raises:
        CodecError: a bound is not memcomparable.
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
"""Above every integer handle."""


def _handle(key: bytes, *, is_common: bool) -> Handle:
    """The smallest handle whose key is not below a key within a table's records."""
    raw, behind = decode_bytes(key)
    if behind != len(key):
        raise CodecError("region bound", "bytes behind the key", behind)
    part = raw[HANDLE_AT:]
    if is_common:
        return part
    padded = part[:_INT_HANDLE_BYTES].ljust(_INT_HANDLE_BYTES, b"\0")
    handle = decode_record_key(encode_record_key(PhysicalTableID(0), padded)).handle
    if not isinstance(handle, int):
        return handle
    return handle + (len(part) > _INT_HANDLE_BYTES)
