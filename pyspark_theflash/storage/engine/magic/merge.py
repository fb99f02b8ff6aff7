"""Merge sorted files by handle, in pieces of bounded size.

    delta 1   ──────a──────b────────        One cursor for each file. `take_below(a)` returns its
    delta 2   ──────a──────b────────        remaining rows below a, reading each row group once. The
    stable    ──────a──────b────────        rows of all cursors below the next cut are one piece.

Cuts are chosen from a sample of the handles, so that pieces are about equal in size for any
distribution of rows over the files.
"""

from bisect import bisect_left
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.storage.engine.api import Handle
from pyspark_theflash.storage.engine.magic.file import (
    PREVIOUS_FILE,
    PREVIOUS_ROW,
    DataFile,
    combine_chunks,
    from_any_copy,
    numpy_column,
    open_file,
    read_row_group,
    stored_columns,
    with_stored_columns,
)
from pyspark_theflash.storage.engine.magic.handles import first_from
from pyspark_theflash.storage.engine.magic.region import Region, is_below
from pyspark_theflash.storage.mvcc.filter import filter_rows
from pyspark_theflash.storage.mvcc.project import ScanColumn, copied_columns, stored_names
from pyspark_theflash.storage.mvcc.version import COMMIT_TS, HANDLE, OP, START_TS
from pyspark_theflash.storage.mvcc.visibility import needed_from, sort_order, superseded_within

SAMPLES: Final = 1024
"""Handles sampled in each file: the error of a cut is below a thousandth of the file's rows."""
_SYSTEM: Final = (HANDLE, COMMIT_TS, START_TS, OP, PREVIOUS_FILE, PREVIOUS_ROW)


class Cursor:
    """Cursor over a file's versions, with `copied_columns`; holds one row group in memory."""

    def __init__(self, folder: Path, info: DataFile, columns: Sequence[ScanColumn]) -> None:
        self.info = info
        self._folder, self._columns = folder, columns
        self._next_group, self._groups = 0, 1
        self._rest: pa.Table | None = None

    def take_below(self, end: Handle | None) -> list[pa.Table]:
        """Return the remaining rows below `end`, or all remaining ones if None."""
        tables: list[pa.Table] = []
        if end is not None and self._rest is None and self._is_at_or_above(end):
            return tables
        while self._rest is not None or self._next_group < self._groups:
            rest = self._read_group() if self._rest is None else self._rest
            handles = combine_chunks(rest.column(HANDLE))
            stop = len(rest) if end is None else first_from(handles, end)
            tables.append(rest.slice(0, stop))
            self._rest = rest.slice(stop) if stop < len(rest) else None
            if self._rest is not None:
                break
        return tables

    def _is_at_or_above(self, end: Handle) -> bool:
        """Return whether the file's record says that all its rows are at or above `end`."""
        low = self.info.min_handle
        return self._next_group == 0 and low is not None and not is_below(low, end)

    def _read_group(self) -> pa.Table:
        def read(one: DataFile) -> pa.Table:
            with open_file(self._folder, one) as file:
                self._groups = file.num_row_groups
                names = stored_columns(file, [*_SYSTEM, *stored_names(self._columns)])
                return read_row_group(file, self._next_group, names)

        stored = from_any_copy(self.info, read)
        self._next_group += 1
        arrays = {name: combine_chunks(stored.column(name)) for name in stored.column_names}
        columns = copied_columns(arrays, self._columns, stored.num_rows)
        return pa.table({name: arrays[name] for name in _SYSTEM} | columns)


def merged(
    tables: Sequence[pa.Table], numbers: Collection[int], safe_point: TimeStamp | None
) -> pa.Table:
    """Merge versions of one range of handles, to be stored in one file.

    Args:
        tables: the versions, from different files.
        numbers: the numbers of all files that are merged; pointers into them are removed.
        safe_point: drop versions that no snapshot at or above it sees. Requires that `tables` has
            all versions of their rows.
    """
    table = in_order(tables)
    commit_ts = numpy_column(table, COMMIT_TS)
    superseded_ts = superseded_within(combine_chunks(table.column(HANDLE)), commit_ts)
    outside = pc.invert(
        pc.is_in(table.column(PREVIOUS_FILE), pa.array(sorted(numbers), pa.uint64()))
    )
    previous = [
        combine_chunks(pc.if_else(outside, table.column(name), None))
        for name in (PREVIOUS_FILE, PREVIOUS_ROW)
    ]
    table = with_stored_columns(
        table.drop_columns([PREVIOUS_FILE, PREVIOUS_ROW]), superseded_ts, *previous
    )
    if safe_point is None:
        return table
    needed = needed_from(safe_point, commit_ts, superseded_ts, numpy_column(table, OP))
    return filter_rows(table, needed).combine_chunks()


def in_order(tables: Sequence[pa.Table]) -> pa.Table:
    """Return the versions of all tables, sorted by (handle, commit_ts), in one chunk."""
    table = pa.concat_tables(tables, promote_options="permissive").combine_chunks()
    handles, commit_ts = (
        combine_chunks(table.column(HANDLE)),
        combine_chunks(table.column(COMMIT_TS)),
    )
    order = (
        np.lexsort((np.asarray(commit_ts), np.asarray(handles)))
        if pa.types.is_int64(handles.type)
        else sort_order(handles, commit_ts)
    )
    if np.array_equal(order, np.arange(len(order))):
        return table
    return table.take(pa.array(order)).combine_chunks()


class Sample:
    """Sampled handles of files, each with the number of rows that it represents."""

    def __init__(self, weighted: Iterable[tuple[Handle, int]]) -> None:
        self._weighted = sorted(weighted)
        self._rows = np.cumsum([0, *(rows for _, rows in self._weighted)])

    def plus(self, other: "Sample") -> "Sample":
        """Return the union of both samples."""
        return Sample([*self._weighted, *other._weighted])

    def rows_in(self, region: Region) -> int:
        """Estimate the number of rows in a region."""
        first, last = self._bounds(region)
        return int(self._rows[last] - self._rows[first])

    def cuts(self, region: Region, pieces: int) -> list[Handle]:
        """Return ascending handles that cut the region's rows into about equal pieces."""
        first, last = self._bounds(region)
        total = self.rows_in(region)
        at = self._rows[first] + total * np.arange(1, pieces) // pieces
        places = np.searchsorted(self._rows[first : last + 1], at) + first
        cuts = sorted({self._weighted[place][0] for place in places if place < last})
        return [handle for handle in cuts if region.start is None or is_below(region.start, handle)]

    def _bounds(self, region: Region) -> tuple[int, int]:
        low = 0 if region.start is None else self._position(region.start)
        return low, len(self._weighted) if region.end is None else self._position(region.end)

    def _position(self, bound: Handle) -> int:
        return bisect_left(self._weighted, True, key=lambda one: not is_below(one[0], bound))


def sample_of(folder: Path, files: Sequence[DataFile]) -> Sample:
    """Sample the handles of these files."""
    return Sample([one for info in files for one in _sampled(folder, info)])


def _sampled(folder: Path, info: DataFile) -> list[tuple[Handle, int]]:
    """Sample a file's handles with their weights; one row group in memory at a time."""
    step = max(1, info.rows // SAMPLES)

    def read(one: DataFile) -> list[Handle]:
        chosen: list[Handle] = []
        with open_file(folder, one) as file:
            for group in range(file.num_row_groups):
                handles = read_row_group(file, group, [HANDLE]).column(HANDLE)
                chosen += handles.take(pa.array(np.arange(0, len(handles), step))).to_pylist()
        return chosen

    chosen = from_any_copy(info, read)
    weight = max(1, round(info.rows / len(chosen)))
    return [(handle, weight) for handle in chosen]
