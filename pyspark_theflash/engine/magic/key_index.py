"""Where the newest version of each row stands: handle -> (file, row).

The writer asks it, for every version it is about to write, which stored version that one
supersedes. It holds only rows that are alive (a deleted row has nothing left to supersede), as a
few sorted arrays ("tiers", newest last) in which a batch of handles is found by binary search;
tiers of like size are merged, so there are about log2(rows) of them and each row is copied that
often. A handle takes 8 bytes (its own length, where it is not an integer) and 13 for its place.

Handles as bytes are held in fixed-width NumPy strings, which ignore trailing zero bytes. That is
safe because encoded handles of a table are prefix-free: no two differ only in zero bytes at the
end.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Keys = npt.NDArray[Any]
FileNumbers = npt.NDArray[np.uint64]
RowNumbers = npt.NDArray[np.uint32]


@dataclass(slots=True)
class _Tier:
    """Parallel arrays, sorted by key; `alive` is cleared when a row is superseded."""

    keys: Keys
    files: FileNumbers
    rows: RowNumbers
    alive: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Places:
    """For each handle asked for: whether it is alive, and where."""

    found: npt.NDArray[np.bool_]
    files: FileNumbers
    rows: RowNumbers


def handle_keys(handles: pa.Array) -> Keys:
    """Handles as a NumPy array that sorts and compares as they do."""
    if pa.types.is_int64(handles.type):
        return np.asarray(handles)
    offsets = np.frombuffer(handles.buffers()[1], np.int32)[handles.offset :][: len(handles) + 1]
    lengths = np.diff(offsets)
    width = max(int(lengths.max(initial=1)), 1)
    padded = np.zeros((len(handles), width), np.uint8)
    data = np.frombuffer(handles.buffers()[2] or b"", np.uint8)[offsets[0] : offsets[-1]]
    padded[np.arange(width) < lengths[:, None]] = data
    return padded.view(f"S{width}").reshape(-1)


class KeyIndex:
    """The index of one physical table."""

    def __init__(self) -> None:
        self._tiers: list[_Tier] = []

    def take(self, keys: Keys) -> Places:
        """Find these handles, all different, and take them out."""
        places = Places(
            np.zeros(len(keys), np.bool_),
            np.zeros(len(keys), np.uint64),
            np.zeros(len(keys), np.uint32),
        )
        for tier in self._tiers:
            # In the tier's type, or NumPy would convert the whole tier to that of a wider batch. A
            # handle that this cuts short is compared in full below.
            at = np.searchsorted(tier.keys, keys.astype(tier.keys.dtype, copy=False))
            at[at == len(tier.keys)] = 0
            hit = (tier.keys[at] == keys) & tier.alive[at]
            places.found[hit] = True
            places.files[hit] = tier.files[at[hit]]
            places.rows[hit] = tier.rows[at[hit]]
            tier.alive[at[hit]] = False
        return places

    def add(self, keys: Keys, file_number: int, rows: RowNumbers) -> None:
        """Rows of a file, sorted by handle, none of which is in the index."""
        if not len(keys):
            return
        files = np.full(len(keys), file_number, np.uint64)
        self._tiers.append(_Tier(keys, files, rows, np.ones(len(keys), np.bool_)))
        while len(self._tiers) > 1 and len(self._tiers[-1].keys) * 2 >= len(self._tiers[-2].keys):
            self._tiers[-2:] = [_merge(self._tiers[-2:])]


def _merge(tiers: Sequence[_Tier]) -> _Tier:
    keys = np.concatenate([t.keys[t.alive] for t in tiers])
    order = np.argsort(keys, kind="stable")
    return _Tier(
        keys[order],
        np.concatenate([t.files[t.alive] for t in tiers])[order],
        np.concatenate([t.rows[t.alive] for t in tiers])[order],
        np.ones(len(keys), np.bool_),
    )
