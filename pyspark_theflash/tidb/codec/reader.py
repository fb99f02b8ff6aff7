"""Loads at many places of a buffer at once.

`Reader` is what all vectorised decoders share: bytes and 8-byte words gathered at an array of
positions, and the way to report that something is wrong at one of them. Positions are absolute in
the buffer; errors name the offset within the row.
"""

from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from pyspark_theflash.base.errors import CodecError, invariant
from pyspark_theflash.tidb.codec.array import ArrowArray, binary, take
from pyspark_theflash.tidb.codec.row import SPARE_BYTES, RowBuffer

Positions = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]
Mask = npt.NDArray[np.bool_]

WORD_BYTES: Final = 8


class Reader:
    """A RowBuffer under a decoder. `layer` is the encoding's name in errors.

    Loads need not be aligned and may begin at the very end of the last row: spare bytes follow it.
    """

    __slots__ = ("_big", "_bytes", "_little", "ends", "layer", "starts")

    def __init__(self, rows: RowBuffer, layer: str) -> None:
        total = int(rows.offsets[-1])
        invariant(total < 2**31, "a RowBuffer holds less than 2 GiB")
        data = rows.buffer
        if len(data) < total + SPARE_BYTES:
            data = np.concatenate([data[:total], np.zeros(SPARE_BYTES, np.uint8)])
        self._bytes = np.ascontiguousarray(data)
        # Overlapping views, one word for each byte position: indexing them is an unaligned load.
        shape = (len(data) - WORD_BYTES + 1,)
        self._little = np.ndarray(shape, "<u8", self._bytes, 0, (1,))
        self._big = np.ndarray(shape, ">u8", self._bytes, 0, (1,))
        self.layer = layer
        self.starts: Positions = rows.offsets[:-1]
        self.ends: Positions = rows.offsets[1:]

    def view(self) -> memoryview:
        """All bytes, to cut slices out of."""
        return self._bytes.data

    def bytes_at(self, at: Positions) -> npt.NDArray[np.uint8]:
        return self._bytes[at]

    def words_at(self, at: Positions) -> Words:
        """Eight bytes from each position, the first one lowest."""
        words: Words = self._little[at]
        return words

    def big_endian_at(self, at: Positions, size: int) -> Words:
        """`size` bytes (1 to 8) from each position as a big-endian number."""
        words: Words = self._big[at].astype(np.uint64)
        words >>= np.uint64(8 * (WORD_BYTES - size))
        return words

    def matrix_at(self, at: Positions, count: int, size: int) -> npt.NDArray[np.int64]:
        """`count` unsigned integers of `size` bytes, lowest first, from each position.

        int64[count, n]: each row has the numbers of one place.
        """
        view = np.ndarray((len(self._bytes) - WORD_BYTES,), f"<u{size}", self._bytes, 0, (1,))
        numbers: Positions = view[at + size * np.arange(count)[:, np.newaxis]].astype(np.int64)
        return numbers

    def slices(self, start: Positions, end: Positions) -> ArrowArray:
        """The bytes from each start to its end as a binary array.

        Slices must ascend and not overlap. To Arrow the buffer is shown as 2n values, the wanted
        ones and the gaps behind them; it then copies the wanted ones.
        """
        bounds = np.empty(2 * len(start) + 1, np.int32)
        bounds[0:-1:2], bounds[1::2], bounds[-1] = start, end, end[-1] if len(end) else 0
        return take(binary(self._bytes, bounds), np.arange(0, 2 * len(start), 2))

    def check(self, ok: Mask, reason: str, at: Positions) -> None:
        """Raise `CodecError` for the first place where `ok` is False."""
        if not ok.all():
            raise self.error(reason, int(at[int(np.argmin(ok))]))

    def check_ends(self, ends: Positions, limit: Positions, at: Positions) -> None:
        """Raise `CodecError` where what begins at `at` ends beyond its row's `limit`."""
        if (ends > limit).any():
            # Named by its last possible byte where it begins at the limit: that position is already
            # the next row's.
            self.check(ends <= limit, "the row ends within a value", np.minimum(at, limit - 1))

    def error(self, reason: str, at: int) -> CodecError:
        """The error for a fault at one absolute position."""
        row = int(np.searchsorted(self.starts, at, side="right")) - 1
        return CodecError(self.layer, reason, at - int(self.starts[max(row, 0)]))


def groups(keys: npt.NDArray[np.int64]) -> Iterator[tuple[int, Positions]]:
    """Each distinct key with the indices that hold it, ascending.

    Meant for few distinct keys: it costs one pass over what is left for each.
    """
    left: Positions = np.arange(len(keys))
    while len(left):
        key = keys[left[0]]
        same = keys[left] == key
        yield int(key), left[same]
        left = left[~same]
