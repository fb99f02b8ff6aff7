"""Which stored version a new one supersedes: handle -> (file, row).

The newest file that has a handle decides; if that file ends the row with a delete, there is nothing
to supersede. Files are left out by the smallest and largest handle in their record, so appending
rows with growing handles reads nothing. Of the others the handles are read when they are needed and
kept while there is room: a table larger than that works too, only slower.
"""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pyspark_theflash.storage.engine.magic.file import (
    DataFile,
    combine_chunks,
    numpy_column,
    read_columns,
)
from pyspark_theflash.storage.engine.magic.handles import SortedHandles, first_from
from pyspark_theflash.storage.mvcc.version import HANDLE, OP, Op

LOOKUP_BYTES: Final = 64 << 20


@dataclass(frozen=True, slots=True)
class Places:
    """For each handle asked for: whether it is alive, and where."""

    found: npt.NDArray[np.bool_]
    files: npt.NDArray[np.uint64]
    rows: npt.NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class _Loaded:
    """A file's handles, and which of its rows are deletes."""

    handles: SortedHandles
    deletes: npt.NDArray[np.int64]

    @property
    def nbytes(self) -> int:
        return self.handles.nbytes + self.deletes.nbytes


class HandleLookup:
    """Finds handles in files, and keeps up to `budget_bytes` of what it has read."""

    def __init__(self, folder: Path, budget_bytes: int = LOOKUP_BYTES) -> None:
        self._folder, self._budget_bytes = folder, budget_bytes
        self._kept: OrderedDict[int, _Loaded] = OrderedDict()
        self._kept_bytes = 0

    def find(self, files: Iterable[DataFile], handles: pa.Array) -> Places:
        """Where these handles, sorted and all different, stand in files of one physical table."""
        places = Places(
            np.zeros(len(handles), np.bool_),
            np.zeros(len(handles), np.uint64),
            np.zeros(len(handles), np.uint32),
        )
        undecided = np.arange(len(handles))
        for info in sorted(files, key=lambda f: f.number, reverse=True):
            asked = undecided[_within(info, handles, undecided)]
            if not len(asked):
                continue
            loaded = self._load(info)
            wanted = handles if len(asked) == len(handles) else handles.take(pa.array(asked))
            rows = loaded.handles.last_rows(wanted)
            found = rows >= 0
            alive = found & ~np.isin(rows, loaded.deletes)
            places.found[asked[alive]] = True
            places.files[asked[alive]] = info.number
            places.rows[asked[alive]] = rows[alive]
            undecided = np.setdiff1d(undecided, asked[found], assume_unique=True)
        return places

    def forget(self, numbers: Iterable[int]) -> None:
        """Files that are no more."""
        for number in numbers:
            if (loaded := self._kept.pop(number, None)) is not None:
                self._kept_bytes -= loaded.nbytes

    def clear(self) -> None:
        """Forget all files."""
        self._kept.clear()
        self._kept_bytes = 0

    def _load(self, info: DataFile) -> _Loaded:
        if (loaded := self._kept.get(info.number)) is not None:
            self._kept.move_to_end(info.number)
            return loaded
        names = [HANDLE, OP] if info.has_deletes else [HANDLE]
        table = read_columns(self._folder, info, names)
        deletes = (
            np.flatnonzero(numpy_column(table, OP) == Op.DELETE)
            if info.has_deletes
            else np.zeros(0, np.int64)
        )
        loaded = _Loaded(SortedHandles(combine_chunks(table.column(HANDLE))), deletes)
        self._kept[info.number] = loaded
        self._kept_bytes += loaded.nbytes
        while self._kept_bytes > self._budget_bytes:
            _, dropped = self._kept.popitem(last=False)
            self._kept_bytes -= dropped.nbytes
        return loaded


def _within(info: DataFile, handles: pa.Array, undecided: npt.NDArray[np.int64]) -> slice:
    """Which of the positions in `undecided` hold handles that the file may have."""
    first = first_from(handles, info.min_handle)
    if info.max_handle is None:
        last = len(handles)
    else:
        last = first_from(handles, info.max_handle)
        last += last < len(handles) and handles[last].as_py() == info.max_handle
    return slice(*np.searchsorted(undecided, [first, last]))
