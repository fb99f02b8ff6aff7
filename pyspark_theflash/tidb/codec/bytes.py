"""Memcomparable bytes: encoded order is the values' own, and a value tells where it ends.

Groups of eight bytes, the last one padded with zeros, each followed by a marker: 0xFF minus the
number of padding bytes.

    ""          00 00 00 00 00 00 00 00 f7
    "ab"        61 62 00 00 00 00 00 00 f9
    8 bytes     .. .. .. .. .. .. .. .. ff  00 00 00 00 00 00 00 00 f7

A marker of 0xFF says that more follows, so there is always a last group with padding. As in TiDB's
`util/codec/bytes.go`.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from pyspark_theflash.base.errors import CodecError
from pyspark_theflash.tidb.codec.array import ArrowArray, binary
from pyspark_theflash.tidb.codec.reader import Positions, Reader, Words
from pyspark_theflash.tidb.codec.row import RowBuffer

_LAYER: Final = "memcomparable bytes"
_GROUP: Final = 8
_ENCODED_GROUP: Final = _GROUP + 1
_FULL: Final = 0xFF
_MIN_MARKER: Final = _FULL - _GROUP
_CELLS: Final = 1 << 16
"""How many groups are looked at together, where values are that long."""


def encode_bytes(value: bytes) -> bytes:
    """One value."""
    out = bytearray()
    for i in range(0, len(value) + 1, _GROUP):
        group = value[i : i + _GROUP]
        out += group.ljust(_GROUP, b"\0")
        out.append(_FULL - (_GROUP - len(group)))
    return bytes(out)


def decode_bytes(data: bytes, offset: int = 0) -> tuple[bytes, int]:
    """The value at `offset` and the offset behind it.

    Raises:
        CodecError: the bytes end within it, or a marker or its padding is wrong.
    """
    out = bytearray()
    while True:
        group = data[offset : offset + _ENCODED_GROUP]
        if len(group) < _ENCODED_GROUP:
            raise CodecError(_LAYER, "the bytes end within a group", offset, group.hex())
        size = group[_GROUP] - _MIN_MARKER
        if size < 0 or any(group[size:_GROUP]):
            raise CodecError(_LAYER, "a wrong marker or padding", offset, group.hex())
        out += group[:size]
        offset += _ENCODED_GROUP
        if size < _GROUP:
            return bytes(out), offset


def encode_bytes_array(values: ArrowArray) -> ArrowArray:
    """A binary or string array without nulls, each value encoded."""
    reader = Reader(RowBuffer.from_arrow(values), _LAYER)
    lengths = reader.ends - reader.starts
    counts = lengths // _GROUP + 1
    bounds = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
    # One entry a group: how many bytes of its value are left where it begins.
    within = np.arange(bounds[-1]) - np.repeat(bounds[:-1], counts)
    left = np.repeat(lengths, counts) - _GROUP * within
    size = np.minimum(left, _GROUP)
    words = reader.words_at(np.repeat(reader.starts, counts) + _GROUP * within)
    out = np.empty((len(words), _ENCODED_GROUP), np.uint8)
    out[:, :_GROUP] = _keep_low(words, size).view(np.uint8).reshape(-1, _GROUP)
    out[:, _GROUP] = _MIN_MARKER + size
    return binary(out, bounds * _ENCODED_GROUP)


def _keep_low(words: Words, size: npt.NDArray[np.int64]) -> Words:
    """Only the lowest `size` (0 to 8) bytes of each word."""
    # A shift by 64 is not defined, so it is done in two halves.
    half = ((_GROUP - size) * 4).astype(np.uint64)
    kept: Words = words & (~np.uint64(0) >> half >> half)
    return kept


def bytes_at(reader: Reader, at: Positions, limit: Positions) -> tuple[ArrowArray, Positions]:
    """The values at the given positions as a binary array, and the positions behind them.

    Raises:
        CodecError: one reaches beyond its `limit`, or a marker or its padding is wrong.
    """
    counts = _count_groups(reader, at, limit)
    bounds = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
    within = np.arange(bounds[-1]) - np.repeat(bounds[:-1], counts)
    group_at = np.repeat(at, counts) + _ENCODED_GROUP * within
    words = reader.words_at(group_at)
    size = reader.bytes_at(group_at + _GROUP).astype(np.int64) - _MIN_MARKER
    reader.check(words == _keep_low(words, size), "padding that is not zero", group_at)
    # The groups' contents without markers; each value is followed by its padding, which is cut out
    # last.
    joined = RowBuffer(words.view(np.uint8), bounds * _GROUP)
    content = Reader(joined, _LAYER)
    sizes = np.add.reduceat(size, bounds[:-1]) if len(at) else bounds[:-1]
    return content.slices(content.starts, content.starts + sizes), at + _ENCODED_GROUP * counts


def _count_groups(reader: Reader, at: Positions, limit: Positions) -> Positions:
    """How many groups each value has: twice as many are looked at each time."""
    counts = np.zeros(len(at), np.int64)
    rows = np.arange(len(at))
    block = 1
    while len(rows):
        # uint8[rows, block]: the next markers of each value; behind its limit, the last one's.
        begin = at[rows] + _ENCODED_GROUP * counts[rows]
        ends = begin[:, np.newaxis] + _ENCODED_GROUP * np.arange(1, block + 1)
        within = ends <= limit[rows][:, np.newaxis]
        markers = reader.bytes_at(np.where(within, ends, begin[:, np.newaxis] + 1) - 1)
        goes_on = within & (markers == _FULL)
        is_over = ~goes_on.all(axis=1)
        full = np.where(is_over, np.argmin(goes_on, axis=1), block)
        counts[rows] += full
        last = begin[is_over] + _ENCODED_GROUP * full[is_over]
        reader.check_ends(last + _ENCODED_GROUP, limit[rows[is_over]], last)
        reader.check(reader.bytes_at(last + _GROUP) >= _MIN_MARKER, "a wrong marker", last + _GROUP)
        counts[rows[is_over]] += 1
        rows = rows[~is_over]
        block = min(2 * block, max(1, _CELLS // max(1, len(rows))))
    return counts
