"""Look up the stored versions that new versions supersede: handle -> (file, row).

The newest file that has a handle is decisive. If its last version of the row is a delete, there is
nothing to supersede. Files are skipped by the handle range in their record, so appending rows with
increasing handles reads nothing. The handles of other files are read on demand and cached up to a
size limit, which a table may exceed; lookups are slower then.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pyspark_theflash.base.lru import LeastRecent
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
    """For each handle: whether it has a live version, and the file and row of that."""

    is_live: npt.NDArray[np.bool_]
    files: npt.NDArray[np.uint64]
    rows: npt.NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class _Loaded:
    """A file's handles, and the positions of its deletes."""

    handles: SortedHandles
    deletes: npt.NDArray[np.int64]

    @property
    def nbytes(self) -> int:
        return self.handles.nbytes + self.deletes.nbytes


class HandleLookup:
    """Finds handles in files, with an LRU cache of `budget_bytes`."""

    def __init__(self, folder: Path, budget_bytes: int = LOOKUP_BYTES) -> None:
        self._folder = folder
        self._cached = LeastRecent[int, _Loaded](budget_bytes)

    def find(self, files: Iterable[DataFile], handles: pa.Array) -> Places:
        """Find sorted, distinct handles in files of one physical table."""
        places = Places(
            np.zeros(len(handles), np.bool_),
            np.zeros(len(handles), np.uint64),
            np.zeros(len(handles), np.uint32),
        )
        undecided = np.arange(len(handles))
        for info in sorted(files, key=lambda f: f.number, reverse=True):
            near = undecided[_within(info, handles, undecided)]
            if not len(near):
                continue
            loaded = self._load(info)
            keys = handles if len(near) == len(handles) else handles.take(pa.array(near))
            rows = loaded.handles.last_rows(keys)
            in_file = rows >= 0
            live = in_file & ~np.isin(rows, loaded.deletes)
            places.is_live[near[live]] = True
            places.files[near[live]] = info.number
            places.rows[near[live]] = rows[live]
            undecided = np.setdiff1d(undecided, near[in_file], assume_unique=True)
        return places

    def forget(self, numbers: Iterable[int]) -> None:
        """Drop removed files from the cache."""
        for number in numbers:
            self._cached.remove(number)

    def _load(self, info: DataFile) -> _Loaded:
        if (loaded := self._cached.get(info.number)) is not None:
            return loaded
        names = [HANDLE, OP] if info.has_deletes else [HANDLE]
        table = read_columns(self._folder, info, names)
        deletes = (
            np.flatnonzero(numpy_column(table, OP) == Op.DELETE)
            if info.has_deletes
            else np.zeros(0, np.int64)
        )
        loaded = _Loaded(SortedHandles(combine_chunks(table.column(HANDLE))), deletes)
        self._cached.put(info.number, loaded, loaded.nbytes)
        return loaded


def _within(info: DataFile, handles: pa.Array, undecided: npt.NDArray[np.int64]) -> slice:
    """Return the slice of `undecided` whose handles are in the file's handle range."""
    first = first_from(handles, info.min_handle)
    if info.max_handle is None:
        last = len(handles)
    else:
        last = first_from(handles, info.max_handle)
        last += last < len(handles) and handles[last].as_py() == info.max_handle
    return slice(*np.searchsorted(undecided, [first, last]))
