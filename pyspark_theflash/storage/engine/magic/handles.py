"""Binary search of sorted handles: range bounds, and the rows of many handles at once.

Integers are searched as a NumPy array. Handles in bytes are copied to fixed-width NumPy strings,
truncated if a few long ones would make all of them wide; handles longer than that are compared in
full one by one. NumPy ignores trailing zero bytes of such strings. That is safe, since the encoded
handles of a table are prefix-free: none is a prefix of another, so no two differ only in trailing
zero bytes.
"""

from bisect import bisect_left, bisect_right
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pyspark_theflash.storage.engine.api import Handle

LEAST_WIDTH: Final = 32
Positions = npt.NDArray[np.int64]


def first_from(handles: pa.Array, bound: Handle | None) -> int:
    """Return the position of the first handle at or above `bound`; 0 if that is None."""
    if bound is None:
        return 0
    if pa.types.is_int64(handles.type):
        return int(np.searchsorted(np.asarray(handles), bound))
    return bisect_left(range(len(handles)), bound, key=lambda at: handles[at].as_py())


def first_above(handles: pa.Array, bound: Handle) -> int:
    """Return the position of the first handle above `bound`."""
    if pa.types.is_int64(handles.type):
        return int(np.searchsorted(np.asarray(handles), bound, side="right"))
    return bisect_right(range(len(handles)), bound, key=lambda at: handles[at].as_py())


def within(handles: pa.Array, start: Handle | None, end: Handle | None) -> tuple[int, int]:
    """Return the position and the number of the handles from `start` to before `end`."""
    first = first_from(handles, start)
    return first, (len(handles) if end is None else first_from(handles, end)) - first


class SortedHandles:
    """Index of sorted handles, maybe with duplicates, for searching many at once."""

    def __init__(self, handles: pa.Array) -> None:
        self._is_int = pa.types.is_int64(handles.type)
        if self._is_int:
            self._keys: npt.NDArray[Any] = np.asarray(handles)
            self.nbytes = self._keys.nbytes
            return
        lengths = np.asarray(pc.binary_length(handles))
        mean = int(lengths.mean()) if len(lengths) else 0
        self._longest = int(lengths.max(initial=0))
        self._width = max(1, min(self._longest, max(LEAST_WIDTH, 2 * mean)))
        self._keys = _fixed_width(handles, self._width)
        self._all = handles if self._longest > self._width else None
        self.nbytes = self._keys.nbytes + (handles.nbytes if self._all is not None else 0)

    def last_rows(self, wanted: pa.Array) -> Positions:
        """Return the last position of each of the distinct handles `wanted`, or -1."""
        if not len(self._keys):
            return np.full(len(wanted), -1, np.int64)
        keys = np.asarray(wanted) if self._is_int else _fixed_width(wanted, self._width)
        rows = np.searchsorted(self._keys, keys, side="right") - 1
        rows[self._keys[rows] != keys] = -1
        return rows if self._is_int else self._decide_long(wanted, keys, rows)

    def _decide_long(self, wanted: pa.Array, keys: npt.NDArray[Any], rows: Positions) -> Positions:
        """Compare in full the handles that match but are longer than the truncated keys."""
        is_long = np.asarray(pc.binary_length(wanted)) > self._width
        for at in np.flatnonzero(is_long & (rows >= 0)):
            rows[at] = self._find(wanted[at].as_py(), keys[at], int(rows[at]))
        return rows

    def _find(self, handle: bytes, key: bytes, last: int) -> int:
        handles = self._all
        if handles is None:
            return -1
        first = int(np.searchsorted(self._keys, np.bytes_(key)))
        run = range(first, last + 1)
        at = first + bisect_right(run, handle, key=lambda row: handles[row].as_py()) - 1
        return at if at >= first and handles[at].as_py() == handle else -1


def _fixed_width(handles: pa.Array, width: int) -> npt.NDArray[np.bytes_]:
    """Return the first `width` bytes of each handle, padded with zeros."""
    cut = pc.binary_slice(handles, 0, width)
    if len(cut) == 0:
        return np.zeros(0, f"S{width}")
    offsets = np.frombuffer(cut.buffers()[1], np.int32)[cut.offset :][: len(cut) + 1]
    data = np.frombuffer(cut.buffers()[2] or b"", np.uint8)[offsets[0] : offsets[-1]]
    padded = np.zeros((len(cut), width), np.uint8)
    padded[np.arange(width) < np.diff(offsets)[:, None]] = data
    return padded.view(f"S{width}").reshape(-1)
