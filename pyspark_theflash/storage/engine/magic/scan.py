"""Reading a region as of a snapshot: visibility is computed, not merged.

From the system columns each file gets a mask of its visible rows, and the user's columns come
through it, file by file, in no particular order. A version is hidden by a newer one in its own file
(`_superseded_ts`) or in a newer file, whose `_previous_file`, `_previous_row` point back at it:

    file 1   handle 7 put@10                                          <──┐  hidden at 20 and above
    file 2   handle 7 put@20, superseded 25, previous = (file 1, row 0) ─┘
             handle 7 delete@25

Pointers lead to older files only, so one pass from the newest file to the oldest is enough. A file
in which nothing is ever hidden (a bulk load that nothing has touched) is read without a mask.

Rows that the caller wants left out are not visible either. A condition says which of the
visible rows it keeps; the columns that it does not read are read where it keeps any.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pyspark_theflash.base.types import ColumnID, TimeStamp
from pyspark_theflash.storage.engine.api import HandleSet, RowCondition
from pyspark_theflash.storage.engine.magic.file import (
    PREVIOUS_FILE,
    PREVIOUS_ROW,
    DataFile,
    combine_chunks,
    is_text,
    numpy_column,
)
from pyspark_theflash.storage.engine.magic.handles import first_above, first_from
from pyspark_theflash.storage.engine.magic.kept import KeptFiles, OpenFile, opened
from pyspark_theflash.storage.engine.magic.region import Region
from pyspark_theflash.storage.engine.magic.visible import Mask, VisibleRows
from pyspark_theflash.storage.mvcc.filter import filter_rows
from pyspark_theflash.storage.mvcc.project import (
    ScanColumn,
    Stored,
    batch_of,
    dictionary_of,
    is_whole,
    project,
    stored_names,
)
from pyspark_theflash.storage.mvcc.version import (
    COMMIT_TS,
    HANDLE,
    OP,
    SUPERSEDED_TS,
    Op,
    column_name,
)
from pyspark_theflash.tidb.codec.arrow import DECIMAL128_DIGITS
from pyspark_theflash.tidb.codec.narrow import is_narrow, widened

BATCH_ROWS: Final = 1 << 16


class RegionReader:
    """One scan of one region; `rows` goes through its files once."""

    def __init__(
        self,
        folder: Path,
        region: Region,
        columns: Sequence[ScanColumn],
        snapshot_ts: TimeStamp,
        *,
        with_handle: bool,
        dictionaries: Collection[ColumnID] = (),
        as_stored: bool = False,
        condition: RowCondition | None = None,
        without: HandleSet | None = None,
        known: Mapping[int, VisibleRows] | None = None,
        kept: KeptFiles | None = None,
    ) -> None:
        """`known`: what an earlier scan of the same rows has found visible."""
        self._folder, self._region, self._columns = folder, region, columns
        self._snapshot_ts, self._with_handle = snapshot_ts, with_handle
        self._dictionaries, self._as_stored, self._condition = dictionaries, as_stored, condition
        self._hidden: dict[int, list[npt.NDArray[np.uint32]]] = {}
        self._without = None if without is None else without.handles
        self._known, self._files = known, kept or KeptFiles()
        self.found: dict[int, VisibleRows] = {}
        """What is visible of each file, when all rows have been taken."""
        self._wanted = [*[HANDLE] * with_handle, *stored_names(columns)]
        asked = [] if condition is None else condition.columns
        self._asked = stored_names(asked)
        self._strings = {column_name(c.id) for c in [*columns, *asked] if is_text(c.type)}

    def rows(self, files: Sequence[DataFile]) -> Iterator[pa.RecordBatch]:
        """The rows of these files, all that reach into the region, visible at the snapshot."""
        for info in sorted(files, key=lambda f: f.number, reverse=True):
            if self._known is not None:
                if info.number in self._known:
                    yield from self._known_file(info, self._known[info.number])
            elif info.min_commit_ts <= self._snapshot_ts:
                yield from self._file(info)

    def _file(self, info: DataFile) -> Iterator[pa.RecordBatch]:
        hidden = self._hidden_rows(info)
        is_part = not self._region.covers(info.min_handle, info.max_handle)
        system = self._system_columns(info, is_part=is_part)
        if not system:
            found = VisibleRows.of(None if hidden is None else ~hidden, info.rows)
            self.found[info.number] = found
            yield from self._known_file(info, found)
            return
        visible = np.zeros(info.rows, np.bool_)
        with opened(self._files, self._folder, info, self._strings) as file:
            start = 0
            for group, rows in enumerate(file.footer.group_rows):
                seen = visible[start : start + rows]
                mask = None if hidden is None else ~hidden[start : start + rows]
                start += rows
                yield from self._group(file, group, system, mask, seen, is_part=is_part)
        self.found[info.number] = VisibleRows.of(visible, info.rows)

    def _known_file(self, info: DataFile, known: VisibleRows) -> Iterator[pa.RecordBatch]:
        """The rows of a file of which it is known which are visible."""
        if not self._wanted and self._condition is None:
            # All that is asked is how many rows there are.
            yield batch_of([], [], known.count)
            return
        if not known.count:
            return
        visible = known.mask
        with opened(self._files, self._folder, info, self._strings) as file:
            end = 0
            for group, rows in enumerate(file.footer.group_rows):
                start, end = end, end + rows
                low, high = max(start, known.start), min(end, known.end)
                if low >= high:
                    continue
                mask = None
                if visible is not None:
                    mask = _unless_all(visible[low - known.start : high - known.start])
                if mask is None or mask.any():
                    names = file.those_of(self._first)
                    as_stored = self._as_stored or self._condition is not None
                    table = file.read(group, names or [HANDLE], as_stored=as_stored)
                    table = table.slice(low - start, high - low)
                    yield from self._chosen(file, group, table, names, mask, low - start)

    def _hidden_rows(self, info: DataFile) -> Mask | None:
        """Which rows of the file newer files have superseded; None means none."""
        found = self._hidden.pop(info.number, None)
        if found is None:
            return None
        hidden = np.zeros(info.rows, np.bool_)
        hidden[np.concatenate(found)] = True
        return hidden

    def _system_columns(self, info: DataFile, *, is_part: bool) -> list[str]:
        """What has to be read to know which rows are visible, and which they hide."""
        has_garbage = info.garbage_ts <= self._snapshot_ts
        needed = {
            HANDLE: is_part or self._lacks_some(info),
            COMMIT_TS: info.max_commit_ts > self._snapshot_ts,
            OP: has_garbage and info.has_deletes,
            SUPERSEDED_TS: has_garbage and info.has_superseded,
            PREVIOUS_FILE: info.has_previous,
            PREVIOUS_ROW: info.has_previous,
        }
        return [name for name, is_needed in needed.items() if is_needed]

    def _lacks_some(self, info: DataFile) -> bool:
        """Whether there may be rows in the file that are to be left out."""
        low, high = info.min_handle, info.max_handle
        if self._without is None or high is None:
            return self._without is not None
        return first_from(self._without, low) < first_above(self._without, high)

    def _group(
        self,
        file: OpenFile,
        group: int,
        system: Sequence[str],
        mask: Mask | None,
        seen: Mask,
        *,
        is_part: bool,
    ) -> Iterator[pa.RecordBatch]:
        """One row group; notes in `seen` what is visible. pyarrow decodes columns in parallel."""
        names = file.those_of(dict.fromkeys([*system, *self._first]))
        table = file.read(group, names or [HANDLE])
        start, rows = self._part(table) if is_part else (0, len(table))
        table = table.slice(start, rows)
        mask = None if mask is None else mask[start : start + rows]
        mask = self._visible(table, system, mask)
        if self._without is not None and HANDLE in system:
            mask = _left(combine_chunks(table.column(HANDLE)), self._without, mask)
        mask = _unless_all(mask)
        seen[start : start + rows] = True if mask is None else mask
        yield from self._chosen(file, group, table, names, mask, start)

    @property
    def _first(self) -> Sequence[str]:
        """The columns to read of every row group.

        What a condition does not read waits until it is known whether any row is wanted.
        """
        return self._wanted if self._condition is None else self._asked

    def _chosen(
        self,
        file: OpenFile,
        group: int,
        table: pa.Table,
        names: Sequence[str],
        mask: Mask | None,
        start: int,
    ) -> Iterator[pa.RecordBatch]:
        """The rows of `mask` that the condition keeps.

        `table` has the columns `names` of the row group from row `start` on; one that the file is
        older than must still come with the right number of rows.
        """
        rows = len(table)
        if self._condition is not None:
            mask = self._kept(table, mask, self._condition)
        count = rows if mask is None else int(np.count_nonzero(mask))
        if not count:
            return
        wanted = file.those_of(self._wanted)
        columns = {name: table.column(name) for name in wanted if name in names}
        if rest := [name for name in wanted if name not in names]:
            read = file.read(group, rest, as_stored=self._as_stored)
            for name, column in zip(rest, read.columns, strict=True):
                columns[name] = column.slice(start, rows)
        chosen = pa.table(columns)
        if mask is not None and columns:
            chosen = filter_rows(chosen, mask)
        yield from self._batches(chosen, count)

    def _part(self, table: pa.Table) -> tuple[int, int]:
        """Where the region's rows begin, and how many they are."""
        handles = combine_chunks(table.column(HANDLE))
        first = first_from(handles, self._region.start)
        end = self._region.end
        return first, (len(table) if end is None else first_from(handles, end)) - first

    def _kept(self, table: pa.Table, mask: Mask | None, condition: RowCondition) -> Mask | None:
        """Those of the visible rows that the condition keeps."""
        asked = table.select([name for name in self._asked if name in table.schema.names])
        names = [column_name(c.id) for c in condition.columns]
        found = {name: combine_chunks(asked.column(name)) for name in asked.schema.names}
        if mask is not None and not all(_is_stored(found, c) for c in condition.columns):
            # To make a column of others may fail, and shall not for rows that nobody sees.
            seen = {name: filter_rows(column, mask) for name, column in found.items()}
            count = int(np.count_nonzero(mask))
            arrays = self._projected(seen, condition.columns, count, as_stored=True)
            kept = np.zeros(len(mask), np.bool_)
            kept[mask] = condition.rows(batch_of(names, arrays, count))
            return kept
        arrays = self._projected(found, condition.columns, len(table), as_stored=True)
        return _unless_all(condition.rows(batch_of(names, arrays, len(table)), mask))

    def _visible(self, table: pa.Table, system: Sequence[str], mask: Mask | None) -> Mask | None:
        """Which rows of `mask` are visible, None being all; remembers what the rows hide."""
        at = np.uint64(self._snapshot_ts)
        masks = [] if mask is None else [mask]
        reached = None
        if COMMIT_TS in system:
            reached = numpy_column(table, COMMIT_TS) <= at
            masks.append(reached)
        if OP in system:
            masks.append(numpy_column(table, OP) == Op.PUT)
        if SUPERSEDED_TS in system:
            masks.append(numpy_column(table, SUPERSEDED_TS) > at)
        if PREVIOUS_FILE in system:
            self._hide(table if reached is None else filter_rows(table, reached))
        return np.logical_and.reduce(masks) if masks else None

    def _hide(self, newer: pa.Table) -> None:
        """Remember what these versions, all reached, supersede in older files."""
        pointing = newer.filter(newer.column(PREVIOUS_FILE).is_valid())
        numbers, rows = numpy_column(pointing, PREVIOUS_FILE), numpy_column(pointing, PREVIOUS_ROW)
        for number in np.unique(numbers):
            self._hidden.setdefault(int(number), []).append(rows[numbers == number])

    def _batches(self, table: pa.Table, rows: int) -> Iterator[pa.RecordBatch]:
        """The columns asked for, from those that the file has, in batches of bounded size."""
        names = [*[HANDLE] * self._with_handle, *(column_name(c.id) for c in self._columns)]
        if not names:
            yield batch_of([], [], rows)
        elif not table.num_columns:
            # The file is older than the columns.
            for start in range(0, rows, BATCH_ROWS):
                size = min(BATCH_ROWS, rows - start)
                arrays = self._projected({}, self._columns, size, as_stored=self._as_stored)
                yield batch_of(names, arrays, size)
        else:
            for batch in table.to_batches(max_chunksize=BATCH_ROWS):
                found = dict(zip(batch.schema.names, batch.columns, strict=True))
                arrays = self._projected(
                    found, self._columns, batch.num_rows, as_stored=self._as_stored
                )
                if self._with_handle:
                    arrays.insert(0, _dense(found[HANDLE]))
                yield batch_of(names, arrays, batch.num_rows)

    def _projected(
        self, found: Stored, columns: Sequence[ScanColumn], rows: int, *, as_stored: bool
    ) -> list[pa.Array]:
        """Columns as they are wanted; only what must not be a dictionary is decoded."""
        ready: dict[ColumnID, pa.Array] = {}
        for column in columns:
            if not _is_stored(found, column):
                continue
            stored = found[column_name(column.id)]
            if as_stored:
                ready[column.id] = stored
            elif is_narrow(stored.type):
                # It was looked at, and is handed out, too.
                ready[column.id] = widened(stored, column.type)
            elif column.id in self._dictionaries and pa.types.is_dictionary(stored.type):
                ready[column.id] = stored
        wanted = [c for c in columns if c.id not in ready]
        dense = {name: _dense(found[name]) for name in stored_names(wanted) if name in found}
        for column, values in zip(wanted, project(dense, wanted, rows), strict=True):
            is_dictionary = not as_stored and column.id in self._dictionaries
            ready[column.id] = values.dictionary_encode() if is_dictionary else values
        return [ready[column.id] for column in columns]


def _is_stored(found: Stored, column: ScanColumn) -> bool:
    """Whether a column is one of those found, as it is and in all rows."""
    if not is_whole(found, column):
        return False
    return _stands_for(found[column_name(column.id)].type, column.type)


def _stands_for(stored: pa.DataType, tp: pa.DataType) -> bool:
    """Whether values of a type say the same as those of another."""
    if is_narrow(stored):
        return bool(pa.types.is_decimal128(tp) and stored.scale == tp.scale)
    return stored in (tp, dictionary_of(tp))


def _left(handles: pa.Array, without: pa.Array, mask: Mask | None) -> Mask:
    """The rows of `mask` whose handles, which are sorted, are not among those of `without`."""
    left = np.ones(len(handles), np.bool_) if mask is None else mask
    if not len(handles):
        return left
    start = first_from(without, handles[0].as_py())
    near = without.slice(start, first_above(without, handles[-1].as_py()) - start)
    if pa.types.is_int64(handles.type):
        # They are mostly few, and to look for each of the many rows takes longer.
        rows, gone = np.asarray(handles), np.asarray(near)
        ends = np.zeros(len(rows) + 1, np.int64)
        np.add.at(ends, np.searchsorted(rows, gone), 1)
        np.add.at(ends, np.searchsorted(rows, gone, side="right"), -1)
        is_gone: Mask = np.cumsum(ends[:-1]) > 0
    else:
        is_gone = pc.is_in(handles, value_set=near).to_numpy(zero_copy_only=False)
    return left & ~is_gone


def _unless_all(mask: Mask | None) -> Mask | None:
    return None if mask is None or mask.all() else mask


def _dense(column: pa.Array) -> pa.Array:
    """The values of a column that came as a dictionary, which is quicker to decode and filter.

    Narrow decimals come in 128 bits.
    """
    if is_narrow(column.type):
        return widened(column, pa.decimal128(DECIMAL128_DIGITS, column.type.scale))
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
