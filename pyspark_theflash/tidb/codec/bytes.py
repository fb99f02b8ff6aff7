"""Memcomparable encoding of byte strings: order-preserving and self-delimiting.

The value is cut into groups of eight bytes, the last one padded with zeros. Each group is followed
by a marker: 0xFF minus the number of padding bytes.

    ""          00 00 00 00 00 00 00 00 f7
    "ab"        61 62 00 00 00 00 00 00 f9
    8 bytes     .. .. .. .. .. .. .. .. ff  00 00 00 00 00 00 00 00 f7

A marker of 0xFF means that another group follows, so the last group always has padding. See TiDB's
`util/codec/bytes.go`.
"""

from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pyspark_theflash.base.errors import CodecError
from pyspark_theflash.tidb.codec.array import binary
from pyspark_theflash.tidb.codec.reader import Positions, Reader, Words
from pyspark_theflash.tidb.codec.row import RowBuffer

_LAYER: Final = "memcomparable bytes"
_GROUP: Final = 8
_ENCODED_GROUP: Final = _GROUP + 1
_FULL: Final = 0xFF
_MIN_MARKER: Final = _FULL - _GROUP
_CELLS: Final = 1 << 16
"""Upper bound of the number of group markers that `_count_groups` reads at a time."""


def encode_bytes(value: bytes) -> bytes:
    """Encode one value."""
    out = bytearray()
    for i in range(0, len(value) + 1, _GROUP):
        group = value[i : i + _GROUP]
        out += group.ljust(_GROUP, b"\0")
        out.append(_FULL - (_GROUP - len(group)))
    return bytes(out)


def decode_bytes(data: bytes, offset: int = 0) -> tuple[bytes, int]:
    """Decode the value at `offset`; return it and the offset after it. Raises `CodecError`."""
    out = bytearray()
    while True:
        group = data[offset : offset + _ENCODED_GROUP]
        if len(group) < _ENCODED_GROUP:
            raise CodecError(_LAYER, "data ends within a group", offset, group.hex())
        size = group[_GROUP] - _MIN_MARKER
        if size < 0 or any(group[size:_GROUP]):
            raise CodecError(_LAYER, "invalid marker or padding", offset, group.hex())
        out += group[:size]
        offset += _ENCODED_GROUP
        if size < _GROUP:
            return bytes(out), offset


def encode_bytes_array(values: pa.Array) -> pa.Array:
    """Encode each value of a binary or string array without nulls."""
    reader = Reader(RowBuffer.from_arrow(values), _LAYER)
    lengths = reader.ends - reader.starts
    counts = lengths // _GROUP + 1
    bounds = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
    # One entry per group: its index within its value, and the bytes of the value from there on.
    within = np.arange(bounds[-1]) - np.repeat(bounds[:-1], counts)
    remaining = np.repeat(lengths, counts) - _GROUP * within
    size = np.minimum(remaining, _GROUP)
    words = reader.words_at(np.repeat(reader.starts, counts) + _GROUP * within)
    out = np.empty((len(words), _ENCODED_GROUP), np.uint8)
    out[:, :_GROUP] = _keep_low(words, size).view(np.uint8).reshape(-1, _GROUP)
    out[:, _GROUP] = _MIN_MARKER + size
    return binary(out, bounds * _ENCODED_GROUP)


def _keep_low(words: Words, size: npt.NDArray[np.int64]) -> Words:
    """Clear all but the lowest `size` (0 to 8) bytes of each word."""
    # A shift by 64 is undefined, so shift twice by half the width.
    half = ((_GROUP - size) * 4).astype(np.uint64)
    result: Words = words & (~np.uint64(0) >> half >> half)
    return result


def bytes_at(reader: Reader, at: Positions, limit: Positions) -> tuple[pa.Array, Positions]:
    """Decode the values at the positions `at` as a binary array; also return the end positions.

    Raises:
        CodecError: A value extends beyond its `limit`, or a marker or padding is invalid.
    """
    counts = _count_groups(reader, at, limit)
    bounds = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
    within = np.arange(bounds[-1]) - np.repeat(bounds[:-1], counts)
    group_at = np.repeat(at, counts) + _ENCODED_GROUP * within
    words = reader.words_at(group_at)
    size = reader.bytes_at(group_at + _GROUP).astype(np.int64) - _MIN_MARKER
    reader.check(words == _keep_low(words, size), "padding is not zero", group_at)
    # The groups without markers. Each value is still followed by its padding, which `slices` drops.
    joined = RowBuffer(words.view(np.uint8), bounds * _GROUP)
    content = Reader(joined, _LAYER)
    sizes = np.add.reduceat(size, bounds[:-1]) if len(at) else bounds[:-1]
    return content.slices(content.starts, content.starts + sizes), at + _ENCODED_GROUP * counts


def _count_groups(reader: Reader, at: Positions, limit: Positions) -> Positions:
    """Count the groups of each value, reading twice as many markers in each pass."""
    counts = np.zeros(len(at), np.int64)
    rows = np.arange(len(at))
    block = 1
    while len(rows):
        # [rows, block]: the next groups of each value. Markers beyond its limit are not used; the
        # position `begin` is read in their place.
        begin = at[rows] + _ENCODED_GROUP * counts[rows]
        ends = begin[:, np.newaxis] + _ENCODED_GROUP * np.arange(1, block + 1)
        within = ends <= limit[rows][:, np.newaxis]
        markers = reader.bytes_at(np.where(within, ends, begin[:, np.newaxis] + 1) - 1)
        is_full = within & (markers == _FULL)
        ended = ~is_full.all(axis=1)
        full = np.where(ended, np.argmin(is_full, axis=1), block)
        counts[rows] += full
        last = begin[ended] + _ENCODED_GROUP * full[ended]
        reader.check_ends(last + _ENCODED_GROUP, limit[rows[ended]], last)
        reader.check(reader.bytes_at(last + _GROUP) >= _MIN_MARKER, "invalid marker", last + _GROUP)
        counts[rows[ended]] += 1
        rows = rows[~ended]
        block = min(2 * block, max(1, _CELLS // max(1, len(rows))))
    return counts
