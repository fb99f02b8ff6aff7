"""Binary JSON: how rows and the store hold JSON values.

    value      u8 type | content
    object     u32 count | u32 size | count * (u32 key offset, u16 key length)
                                    | count * (u8 type, u32 offset) | keys | contents
    array      u32 count | u32 size | count * (u8 type, u32 offset) | contents
    literal    u8: 0 null, 1 true, 2 false; inside a container it stands in place of its offset
    int64, uint64, double           8 bytes, little-endian
    date, datetime, timestamp       u64, TiDB's in-memory form (see `json_text`)
    time                            i64 nanoseconds | u32 fractional digits
    string     uvarint length | bytes
    opaque     u8 MySQL type | uvarint length | bytes

`size` counts the container from its count on, and offsets begin there. Contents lie in the order of
their entries, which is asked for here: values that shared bytes would let a short one unfold into
an endless text. As in TiDB's `types/json_binary.go`.

All values of a batch are walked together, one level of nesting at a time, so that what a check
costs is a matter of levels, not of values.
"""

from enum import IntEnum
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from pyspark_theflash.tidb.codec.number import uvarints_at
from pyspark_theflash.tidb.codec.reader import Positions, Reader

MAX_DEPTH: Final = 101
"""Values inside each other, the outermost and the innermost one counted: TiDB's limit."""
HEADER_BYTES: Final = 8
KEY_ENTRY_BYTES: Final = 6
VALUE_ENTRY_BYTES: Final = 5
_U32: Final = np.uint64(0xFFFFFFFF)
_LITERALS: Final = 3


class JSONType(IntEnum):
    """The first byte of a value."""

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
    """Values at many places: their types, and where their contents begin and end."""

    types: npt.NDArray[np.uint8]
    start: Positions
    end: Positions


def _sizes() -> npt.NDArray[np.int64]:
    """Bytes of a content by its type: 0 where it tells itself, -1 where there is no such type."""
    sizes = np.full(256, -1)
    sizes[list(JSONType)] = 0
    for tp, size in _FIXED_SIZES.items():
        sizes[tp] = size
    return sizes


_SIZES: Final = _sizes()


def ends_at(reader: Reader, at: Positions, limit: Positions) -> Positions:
    """The positions behind the values (of their type bytes) at the given ones.

    Raises:
        CodecError: one reaches beyond its `limit`, or is of no type.
    """
    return _values_at(reader, at, limit).end


def check_values(reader: Reader, at: Positions, end: Positions) -> None:
    """That what lies from each position to its end is one value, in all its parts.

    Raises:
        CodecError: it is not, or it is nested deeper than TiDB lets it be.
    """
    values = _values_at(reader, at, end)
    reader.check(values.end == end, "bytes behind a JSON value", at)
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
    """Where the contents that begin at `at` end, each within its `limit`."""
    sizes = _SIZES[types]
    reader.check(sizes >= 0, "a JSON value of no type", at - 1)
    ends = at + sizes
    in_container = (types == JSONType.OBJECT) | (types == JSONType.ARRAY)
    if in_container.any():
        which = np.flatnonzero(in_container)
        reader.check_ends(at[which] + HEADER_BYTES, limit[which], at[which])
        ends[which] += (reader.words_at(at[which]) >> np.uint64(32)).view(np.int64)
    for tp, before in ((JSONType.STRING, 0), (JSONType.OPAQUE, 1)):
        which = np.flatnonzero(types == tp)
        if len(which):
            lengths, start = uvarints_at(reader, at[which] + before, limit[which])
            # Compared before they are added, so that no length can overflow.
            fits = lengths <= (limit[which] - start).view(np.uint64)
            reader.check(fits, "a JSON string that ends outside", at[which])
            ends[which] = start + lengths.view(np.int64)
    reader.check_ends(ends, limit, at)
    return ends


def _check_scalars(reader: Reader, values: _Values) -> None:
    literals = values.start[values.types == JSONType.LITERAL]
    if len(literals):
        known = reader.bytes_at(literals) < _LITERALS
        reader.check(known, "a JSON literal that there is not", literals)
    doubles = values.start[values.types == JSONType.DOUBLE]
    if len(doubles):
        finite = np.isfinite(reader.words_at(doubles).view(np.float64))
        reader.check(finite, "a JSON number that is not finite", doubles)


def _members(
    reader: Reader, is_object: npt.NDArray[np.bool_], at: Positions, limit: Positions
) -> _Values:
    """The values in the containers at `at`, container by container, in their order."""
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
    reader.check(start <= limit[parent], "a JSON offset that points outside", entry_at)
    end = _content_ends(reader, types, start, limit[parent])
    apart = np.flatnonzero(~is_inline)
    _check_order(reader, parent[apart], start[apart], end[apart], contents_at)
    return _Values(types, start, end)


def _keys_end(reader: Reader, counts: Positions, at: Positions, keys_at: Positions) -> Positions:
    """Where the keys of each object end; those of an empty one end where they would begin."""
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
    """For each member of containers of so many its container, and its place in it."""
    parent: Positions = np.repeat(np.arange(len(counts)), counts)
    nth: Positions = np.arange(len(parent)) - (np.cumsum(counts) - counts)[parent]
    return parent, nth


def _check_order(
    reader: Reader, parent: Positions, start: Positions, end: Positions, first: Positions
) -> None:
    """Each part begins behind the one before, the first one of a container not before `first`."""
    free = first[parent]
    follows = parent[1:] == parent[:-1]
    free[1:] = np.where(follows, end[:-1], free[1:])
    reader.check(start >= free, "JSON parts that overlap", free)
