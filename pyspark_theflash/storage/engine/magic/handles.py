"""Searching handles: where a range begins, and where a file has the rows of many handles.

Integers are searched in NumPy as they are. Handles as bytes are put into fixed-width NumPy strings,
cut where a few long ones would make all others wide; what the cut leaves undecided is searched one
by one. NumPy ignores zero bytes at the end of such strings. That is safe because encoded handles of
a table are prefix-free: no two differ only in zero bytes at the end, and none begins another.
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
    """The position of the first of sorted handles that is not below `bound`; None is below all."""
    if bound is None:
        return 0
    if pa.types.is_int64(handles.type):
        return int(np.searchsorted(np.asarray(handles), bound))
    return bisect_left(range(len(handles)), bound, key=lambda at: handles[at].as_py())


def first_above(handles: pa.Array, bound: Handle) -> int:
    """The position of the first of sorted handles that is above `bound`."""
    if pa.types.is_int64(handles.type):
        return int(np.searchsorted(np.asarray(handles), bound, side="right"))
    return bisect_right(range(len(handles)), bound, key=lambda at: handles[at].as_py())


class SortedHandles:
    """Sorted handles, equal ones perhaps side by side, in which many can be found at once."""

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
        """For each of `wanted`, all different, the last position that holds it, or -1."""
        if not len(self._keys):
            return np.full(len(wanted), -1, np.int64)
        keys = np.asarray(wanted) if self._is_int else _fixed_width(wanted, self._width)
        rows = np.searchsorted(self._keys, keys, side="right") - 1
        rows[self._keys[rows] != keys] = -1
        return rows if self._is_int else self._decide_long(wanted, keys, rows)

    def _decide_long(self, wanted: pa.Array, keys: npt.NDArray[Any], rows: Positions) -> Positions:
        """Find in full what is equal as far as the cut, and longer."""
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
    """The first `width` bytes of each, padded with zeros."""
    cut = pc.binary_slice(handles, 0, width)
    if len(cut) == 0:
        return np.zeros(0, f"S{width}")
    offsets = np.frombuffer(cut.buffers()[1], np.int32)[cut.offset :][: len(cut) + 1]
    data = np.frombuffer(cut.buffers()[2] or b"", np.uint8)[offsets[0] : offsets[-1]]
    padded = np.zeros((len(cut), width), np.uint8)
    padded[np.arange(width) < np.diff(offsets)[:, None]] = data
    result: npt.NDArray[np.bytes_] = padded.view(f"S{width}").reshape(-1)
    return result
