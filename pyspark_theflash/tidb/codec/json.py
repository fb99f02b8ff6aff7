"""Binary JSON, the form of JSON values in rows and in the store.

    value      u8 type | content
    object     u32 count | u32 size | count * (u32 key offset, u16 key length)
                                    | count * (u8 type, u32 offset) | keys | contents
    array      u32 count | u32 size | count * (u8 type, u32 offset) | contents
    literal    u8: 0 null, 1 true, 2 false; inside a container it is stored in place of the offset
    int64, uint64, double           8 bytes, little-endian
    date, datetime, timestamp       u64, TiDB's in-memory form (see `json_text`)
    time                            i64 nanoseconds | u32 fractional digits
    string     uvarint length | bytes
    opaque     u8 MySQL type | uvarint length | bytes

Sizes and offsets of a container start at its count. Contents must be in the order of their entries
and must not overlap: a short value with shared contents could expand to an extremely long text. See
TiDB's `types/json_binary.go`.

All values of a batch are checked together, one level of nesting at a time, so that the number of
NumPy calls depends on the number of levels and not on the number of values.
"""

from enum import IntEnum
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from pyspark_theflash.tidb.codec.number import uvarints_at
from pyspark_theflash.tidb.codec.reader import Positions, Reader

MAX_DEPTH: Final = 101
"""TiDB's limit of nested values, including the outermost and the innermost value."""
HEADER_BYTES: Final = 8
KEY_ENTRY_BYTES: Final = 6
VALUE_ENTRY_BYTES: Final = 5
_U32: Final = np.uint64(0xFFFFFFFF)
_LITERALS: Final = 3


class JSONType(IntEnum):
    """Type byte of a value."""

    OBJECT = 0x01
    ARRAY = 0x03
    LITERAL = 0x04
    INT64 = 0x09
    UINT64 = 0x0A
    DOUBLE = 0x0B
    STRING = 0x0C
    OPAQUE = 0x0D
    DATE = 0x0E
    DATETIME = 0x0F
    TIMESTAMP = 0x10
    TIME = 0x11


_FIXED_SIZES: Final = {
    JSONType.LITERAL: 1,
    JSONType.INT64: 8,
    JSONType.UINT64: 8,
    JSONType.DOUBLE: 8,
    JSONType.DATE: 8,
    JSONType.DATETIME: 8,
    JSONType.TIMESTAMP: 8,
    JSONType.TIME: 12,
}


class _Values(NamedTuple):
    """Types of values, and the start and end of their contents."""

    types: npt.NDArray[np.uint8]
    start: Positions
    end: Positions


def _sizes() -> npt.NDArray[np.int64]:
    """Return the content size of each type: 0 if it is variable, -1 if the type is unknown."""
    sizes = np.full(256, -1)
    sizes[list(JSONType)] = 0
    for tp, size in _FIXED_SIZES.items():
        sizes[tp] = size
    return sizes


_SIZES: Final = _sizes()


def ends_at(reader: Reader, at: Positions, limit: Positions) -> Positions:
    """Return the end positions of the values whose type bytes are at `at`. Raises `CodecError`."""
    return _values_at(reader, at, limit).end


def check_values(reader: Reader, at: Positions, end: Positions) -> None:
    """Check that the bytes from each position to its end are one value. Raises `CodecError`."""
    values = _values_at(reader, at, end)
    reader.check(values.end == end, "trailing bytes after a JSON value", at)
    for _ in range(MAX_DEPTH):
        _check_scalars(reader, values)
        is_object = values.types == JSONType.OBJECT
        containers = np.flatnonzero(is_object | (values.types == JSONType.ARRAY))
        if not len(containers):
            return
        start, end = values.start[containers], values.end[containers]
        values = _members(reader, is_object[containers], start, end)
    reader.check(np.zeros(len(values.types), np.bool_), "JSON nested too deep", values.start)


def _values_at(reader: Reader, at: Positions, limit: Positions) -> _Values:
    reader.check_ends(at + 1, limit, at)
    types = reader.bytes_at(at)
    return _Values(types, at + 1, _content_ends(reader, types, at + 1, limit))


def _content_ends(
    reader: Reader, types: npt.NDArray[np.uint8], at: Positions, limit: Positions
) -> Positions:
    """Return the ends of the contents at the positions `at`, checking them against `limit`."""
    sizes = _SIZES[types]
    reader.check(sizes >= 0, "unknown JSON type", at - 1)
    ends = at + sizes
    is_container = (types == JSONType.OBJECT) | (types == JSONType.ARRAY)
    if is_container.any():
        members = np.flatnonzero(is_container)
        reader.check_ends(at[members] + HEADER_BYTES, limit[members], at[members])
        ends[members] += (reader.words_at(at[members]) >> np.uint64(32)).view(np.int64)
    for tp, length_offset in ((JSONType.STRING, 0), (JSONType.OPAQUE, 1)):
        members = np.flatnonzero(types == tp)
        if len(members):
            lengths, start = uvarints_at(reader, at[members] + length_offset, limit[members])
            # Compared before the addition, which could overflow.
            fits = lengths <= (limit[members] - start).view(np.uint64)
            reader.check(fits, "JSON string extends beyond its limit", at[members])
            ends[members] = start + lengths.view(np.int64)
    reader.check_ends(ends, limit, at)
    return ends


def _check_scalars(reader: Reader, values: _Values) -> None:
    literals = values.start[values.types == JSONType.LITERAL]
    if len(literals):
        is_known = reader.bytes_at(literals) < _LITERALS
        reader.check(is_known, "unknown JSON literal", literals)
    doubles = values.start[values.types == JSONType.DOUBLE]
    if len(doubles):
        finite = np.isfinite(reader.words_at(doubles).view(np.float64))
        reader.check(finite, "JSON number is not finite", doubles)


def _members(
    reader: Reader, is_object: npt.NDArray[np.bool_], at: Positions, limit: Positions
) -> _Values:
    """Return the members of the containers at the positions `at`, in order."""
    counts = (reader.words_at(at) & _U32).view(np.int64)
    values_at = at + HEADER_BYTES + KEY_ENTRY_BYTES * counts * is_object
    contents_at = values_at + VALUE_ENTRY_BYTES * counts
    reader.check_ends(contents_at, limit, at)
    objects = np.flatnonzero(is_object)
    contents_at[objects] = _keys_end(reader, counts[objects], at[objects], contents_at[objects])
    reader.check_ends(contents_at, limit, at)

    parent, nth = _expand(counts)
    entry_at = values_at[parent] + VALUE_ENTRY_BYTES * nth
    types = reader.bytes_at(entry_at)
    offsets = (reader.words_at(entry_at + 1) & _U32).view(np.int64)
    is_inline = types == JSONType.LITERAL
    start = np.where(is_inline, entry_at + 1, at[parent] + offsets)
    reader.check(start <= limit[parent], "JSON offset is beyond the container", entry_at)
    end = _content_ends(reader, types, start, limit[parent])
    outside = np.flatnonzero(~is_inline)
    _check_order(reader, parent[outside], start[outside], end[outside], contents_at)
    return _Values(types, start, end)


def _keys_end(reader: Reader, counts: Positions, at: Positions, keys_at: Positions) -> Positions:
    """Return where the keys of each object end; for an empty object, where they would begin."""
    parent, nth = _expand(counts)
    entries = reader.words_at(at[parent] + HEADER_BYTES + KEY_ENTRY_BYTES * nth)
    start = at[parent] + (entries & _U32).view(np.int64)
    end: Positions = start + ((entries >> np.uint64(32)) & np.uint64(0xFFFF)).view(np.int64)
    _check_order(reader, parent, start, end, keys_at)
    keys_end: Positions = keys_at.copy()
    has_keys = counts > 0
    keys_end[has_keys] = end[np.cumsum(counts)[has_keys] - 1]
    return keys_end


def _expand(counts: Positions) -> tuple[Positions, Positions]:
    """Return the container and the index within it of each member, from the members' counts."""
    parent: Positions = np.repeat(np.arange(len(counts)), counts)
    nth: Positions = np.arange(len(parent)) - (np.cumsum(counts) - counts)[parent]
    return parent, nth


def _check_order(
    reader: Reader, parent: Positions, start: Positions, end: Positions, first: Positions
) -> None:
    """Check that parts are in order without overlap, from position `first` of each container on."""
    lowest = first[parent]
    has_previous = parent[1:] == parent[:-1]
    lowest[1:] = np.where(has_previous, end[:-1], lowest[1:])
    reader.check(start >= lowest, "JSON parts overlap", lowest)
