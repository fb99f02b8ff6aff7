"""Vectorized loads from a buffer of encoded rows.

All vectorized decoders use `Reader` to load bytes and 8-byte words at an array of positions, and to
report errors. Positions are absolute in the buffer; errors contain the offset within the row.
"""

from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pyspark_theflash.base.errors import CodecError, invariant
from pyspark_theflash.tidb.codec.array import binary, take
from pyspark_theflash.tidb.codec.row import SPARE_BYTES, RowBuffer

Positions = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]
Mask = npt.NDArray[np.bool_]

WORD_BYTES: Final = 8


class Reader:
    """Access to a RowBuffer for a decoder. `layer` is the name of the encoding in errors.

    Loads need not be aligned, and may begin at the end of the last row, which spare bytes follow.
    """

    __slots__ = ("_big", "_bytes", "_little", "ends", "layer", "starts")

    def __init__(self, rows: RowBuffer, layer: str) -> None:
        total = int(rows.offsets[-1])
        invariant(total < 2**31, "a RowBuffer holds less than 2 GiB")
        data = rows.buffer
        if len(data) < total + SPARE_BYTES:
            data = np.concatenate([data[:total], np.zeros(SPARE_BYTES, np.uint8)])
        self._bytes = np.ascontiguousarray(data)
        # Overlapping views with one word per byte position: indexing them is an unaligned load.
        shape = (len(data) - WORD_BYTES + 1,)
        self._little = np.ndarray(shape, "<u8", self._bytes, 0, (1,))
        self._big = np.ndarray(shape, ">u8", self._bytes, 0, (1,))
        self.layer = layer
        self.starts: Positions = rows.offsets[:-1]
        self.ends: Positions = rows.offsets[1:]

    def view(self) -> memoryview:
        """Return all bytes of the buffer."""
        return self._bytes.data

    def bytes_at(self, at: Positions) -> npt.NDArray[np.uint8]:
        return self._bytes[at]

    def words_at(self, at: Positions) -> Words:
        """Load eight bytes from each position as a little-endian number."""
        words: Words = self._little[at]
        return words

    def big_endian_at(self, at: Positions, size: int) -> Words:
        """Load `size` bytes (1 to 8) from each position as a big-endian number."""
        words: Words = self._big[at].astype(np.uint64)
        words >>= np.uint64(8 * (WORD_BYTES - size))
        return words

    def matrix_at(self, at: Positions, count: int, size: int) -> npt.NDArray[np.int64]:
        """Load `count` little-endian unsigned integers of `size` bytes from each position.

        Returns:
            int64[count, n]: row i has the i-th number of each position.
        """
        view = np.ndarray((len(self._bytes) - WORD_BYTES,), f"<u{size}", self._bytes, 0, (1,))
        numbers: Positions = view[at + size * np.arange(count)[:, np.newaxis]].astype(np.int64)
        return numbers

    def slices(self, start: Positions, end: Positions) -> pa.Array:
        """Copy the bytes from each start to its end into a binary array.

        Slices must ascend and not overlap. The buffer is viewed as an array of 2n values, which are
        the slices and the gaps after them; Arrow then selects the slices.
        """
        bounds = np.empty(2 * len(start) + 1, np.int32)
        bounds[0:-1:2], bounds[1::2], bounds[-1] = start, end, end[-1] if len(end) else 0
        return take(binary(self._bytes, bounds), np.arange(0, 2 * len(start), 2))

    def check(self, ok: Mask, reason: str, at: Positions) -> None:
        """Raise `CodecError` for the first position where `ok` is False."""
        if not ok.all():
            raise self.error(reason, int(at[int(np.argmin(ok))]))

    def check_ends(self, ends: Positions, limit: Positions, at: Positions) -> None:
        """Raise `CodecError` if a value that begins at `at` ends beyond its row's `limit`."""
        if (ends > limit).any():
            # A value that begins at the limit is reported at the byte before it, since the limit is
            # a position of the next row.
            self.check(ends <= limit, "the row ends within a value", np.minimum(at, limit - 1))

    def error(self, reason: str, at: int) -> CodecError:
        """Return the error for an absolute position."""
        row = int(np.searchsorted(self.starts, at, side="right")) - 1
        return CodecError(self.layer, reason, at - int(self.starts[max(row, 0)]))


def groups(keys: npt.NDArray[np.int64]) -> Iterator[tuple[int, Positions]]:
    """Yield each distinct key with the ascending indices of its occurrences.

    Intended for few distinct keys: each costs one pass over the remaining indices.
    """
    remaining: Positions = np.arange(len(keys))
    while len(remaining):
        key = keys[remaining[0]]
        same = keys[remaining] == key
        yield int(key), remaining[same]
        remaining = remaining[~same]
