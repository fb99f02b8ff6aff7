"""Scan a region at a snapshot, without merging its files.

For each file, a mask of its visible rows is computed from the system columns and applied to the
user columns, file by file, in no particular order. A version is hidden by a newer one in its own
file (`_superseded_ts`), or in a newer file whose `_previous_file`, `_previous_row` point to it:

    file 1   handle 7 put@10                                          <──┐  hidden at 20 and above
    file 2   handle 7 put@20, superseded 25, previous = (file 1, row 0) ─┘
             handle 7 delete@25

Pointers lead to older files only, so one pass from the newest file to the oldest suffices. A file
without hidden rows (an unmodified bulk load) is read without a mask.

Row groups in which no row can satisfy the scan's `parts`, by their statistics and filters
(`skipping.py`), are not read, except for the system columns that determine visibility.

Rows in `without` are masked, too. A condition filters the visible rows; the columns that it does
not read are read only for row groups with remaining rows.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pyspark_theflash.storage.engine.api import RowCondition, ScanSpec
from pyspark_theflash.storage.engine.magic.file import (
    PREVIOUS_FILE,
    PREVIOUS_ROW,
    DataFile,
    combine_chunks,
    is_text,
    numpy_column,
)
from pyspark_theflash.storage.engine.magic.file_cache import FileCache, OpenFile, opened
from pyspark_theflash.storage.engine.magic.handles import first_above, first_from, within
from pyspark_theflash.storage.engine.magic.region import Region
from pyspark_theflash.storage.engine.magic.skipping import possible_groups
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
from pyspark_theflash.tidb.expression.allowance import (
    arrow_limits,
    in_slices,
    reserve_decoded,
)

BATCH_ROWS: Final = 1 << 16
_NO_ROWS: Final = np.zeros(0, np.bool_)


class RegionReader:
    """One scan of one region; `rows` is called once."""

    def __init__(
        self,
        folder: Path,
        region: Region,
        spec: ScanSpec,
        cached: Mapping[int, VisibleRows] | None = None,
        file_cache: FileCache | None = None,
    ) -> None:
        """Prepare a scan; `cached` has the visible rows as found by an earlier scan."""
        self._folder, self._region, self._spec = folder, region, spec
        self._hidden: dict[int, list[npt.NDArray[np.uint32]]] = {}
        self._without = None if spec.without is None else spec.without.handles
        self._cached, self._files = cached, file_cache or FileCache()
        self.visible: dict[int, VisibleRows] = {}
        """The visible rows of each file, when `rows` is exhausted."""
        self.is_complete = True
        """Whether `visible` has all files that have visible rows."""
        self._names = spec.names
        self._output_names = [*[HANDLE] * spec.with_handle, *stored_names(spec.columns)]
        filtered = [] if spec.condition is None else spec.condition.columns
        self._filter_names = stored_names(filtered)
        self._strings = {column_name(c.id) for c in [*spec.columns, *filtered] if is_text(c.type)}
        self._where = f"table {region.physical_id}"

    def rows(self, files: Sequence[DataFile]) -> Iterator[pa.RecordBatch]:
        """Read the visible rows of these files, which are all that overlap the region."""
        with arrow_limits(self._where):
            for info in sorted(files, key=lambda f: f.number, reverse=True):
                if self._cached is not None:
                    if info.number in self._cached:
                        yield from self._file_with_mask(info, self._cached[info.number])
                elif info.min_commit_ts <= self._spec.snapshot_ts:
                    yield from self._file(info)

    def _file(self, info: DataFile) -> Iterator[pa.RecordBatch]:
        hidden = self._hidden_rows(info)
        is_part = not self._region.covers(info.min_handle, info.max_handle)
        system = self._system_columns(info, is_part=is_part)
        if not system:
            visible_rows = VisibleRows.of(None if hidden is None else ~hidden, info.rows)
            self.visible[info.number] = visible_rows
            yield from self._file_with_mask(info, visible_rows)
            return
        visible = np.zeros(info.rows, np.bool_)
        with opened(self._files, self._folder, info, self._strings) as file:
            is_read = possible_groups(file, self._spec.parts)
            if not info.has_previous and not any(is_read):
                self.is_complete = False
                return
            start = 0
            for group, rows in enumerate(file.footer.group_rows):
                group_visible = visible[start : start + rows]
                mask = None if hidden is None else ~hidden[start : start + rows]
                start += rows
                yield from self._group(
                    file,
                    group,
                    system,
                    mask,
                    group_visible,
                    is_part=is_part,
                    is_read=is_read[group],
                )
        self.visible[info.number] = VisibleRows.of(visible, info.rows)

    def _file_with_mask(self, info: DataFile, visible: VisibleRows) -> Iterator[pa.RecordBatch]:
        """Read the rows of a file whose visible rows have been determined."""
        if not self._output_names and self._spec.condition is None:
            # Only the number of rows is needed.
            yield batch_of([], [], visible.count)
            return
        if not visible.count:
            return
        visible_mask = visible.mask
        with opened(self._files, self._folder, info, self._strings) as file:
            end, is_read = 0, possible_groups(file, self._spec.parts)
            for group, rows in enumerate(file.footer.group_rows):
                start, end = end, end + rows
                low, high = max(start, visible.start), min(end, visible.end)
                if low >= high or not is_read[group]:
                    continue
                mask = None
                if visible_mask is not None:
                    mask = _unless_all(visible_mask[low - visible.start : high - visible.start])
                if mask is None or mask.any():
                    names = file.existing(self._first_names)
                    as_stored = self._spec.as_stored or self._spec.condition is not None
                    table = file.read(group, names or [HANDLE], as_stored=as_stored)
                    table = table.slice(low - start, high - low)
                    yield from self._filtered(file, group, table, names, mask, low - start)

    def _hidden_rows(self, info: DataFile) -> Mask | None:
        """Return a mask of the rows that newer files supersede; None if there are none."""
        positions = self._hidden.pop(info.number, None)
        if positions is None:
            return None
        hidden = np.zeros(info.rows, np.bool_)
        hidden[np.concatenate(positions)] = True
        return hidden

    def _system_columns(self, info: DataFile, *, is_part: bool) -> list[str]:
        """Return the system columns needed for the mask and for the rows that the file hides."""
        has_garbage = info.garbage_ts <= self._spec.snapshot_ts
        needed = {
            HANDLE: is_part or self._may_exclude(info),
            COMMIT_TS: info.max_commit_ts > self._spec.snapshot_ts,
            OP: has_garbage and info.has_deletes,
            SUPERSEDED_TS: has_garbage and info.has_superseded,
            PREVIOUS_FILE: info.has_previous,
            PREVIOUS_ROW: info.has_previous,
        }
        return [name for name, is_needed in needed.items() if is_needed]

    def _may_exclude(self, info: DataFile) -> bool:
        """Return whether the file may have rows in `without`."""
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
        visible: Mask,
        *,
        is_part: bool,
        is_read: bool,
    ) -> Iterator[pa.RecordBatch]:
        """Read one row group and set its mask `visible`. pyarrow decodes columns in parallel.

        If not `is_read`, no row of the group is returned.
        """
        names = file.existing(dict.fromkeys([*system, *(self._first_names if is_read else ())]))
        table = file.read(group, names or [HANDLE])
        start, rows = 0, len(table)
        if is_part:
            handles = combine_chunks(table.column(HANDLE))
            start, rows = within(handles, self._region.start, self._region.end)
        table = table.slice(start, rows)
        mask = None if mask is None else mask[start : start + rows]
        mask = self._visible(table, system, mask)
        if self._without is not None and HANDLE in system:
            mask = _excluding(combine_chunks(table.column(HANDLE)), self._without, mask)
        mask = _unless_all(mask)
        visible[start : start + rows] = True if mask is None else mask
        if is_read:
            yield from self._filtered(file, group, table, names, mask, start)

    @property
    def _first_names(self) -> Sequence[str]:
        """The columns to read first: those of the condition, or all if there is none."""
        return self._output_names if self._spec.condition is None else self._filter_names

    def _filtered(
        self,
        file: OpenFile,
        group: int,
        table: pa.Table,
        names: Sequence[str],
        mask: Mask | None,
        start: int,
    ) -> Iterator[pa.RecordBatch]:
        """Return the rows of `mask` that satisfy the condition.

        `table` has the columns `names` of the row group from row `start` on. Its row count counts
        even if the file, being older, has none of the columns.
        """
        rows = len(table)
        if self._spec.condition is not None:
            mask = self._evaluate(table, mask, self._spec.condition)
        count = rows if mask is None else int(np.count_nonzero(mask))
        if not count:
            return
        output = file.existing(self._output_names)
        columns = {name: table.column(name) for name in output if name in names}
        if rest := [name for name in output if name not in names]:
            read = file.read(group, rest, as_stored=self._spec.as_stored)
            for name, column in zip(rest, read.columns, strict=True):
                columns[name] = column.slice(start, rows)
        selected = pa.table(columns)
        if mask is not None and columns:
            selected = filter_rows(selected, mask)
        yield from self._batches(selected, count)

    def _evaluate(self, table: pa.Table, mask: Mask | None, condition: RowCondition) -> Mask | None:
        """Return a mask of the visible rows that satisfy the condition."""
        present = [name for name in self._filter_names if name in table.schema.names]
        names = [column_name(c.id) for c in condition.columns]
        stored = {name: combine_chunks(table.column(name)) for name in present}
        rows, among = len(table), mask
        if mask is not None and not all(_is_stored(stored, c) for c in condition.columns):
            # Computing a column may fail, which must not happen for invisible rows.
            stored = {name: filter_rows(column, mask) for name, column in stored.items()}
            rows, among = int(np.count_nonzero(mask)), None

        def matching(start: int, count: int) -> Mask:
            part = {name: column.slice(start, count) for name, column in stored.items()}
            arrays = self._projected(part, condition.columns, count, as_stored=True)
            batch = batch_of(names, arrays, count)
            return condition.rows(batch, None if among is None else among[start : start + count])

        slices = list(in_slices(rows, self._spec.budget, self._where, matching, rows))
        matches = slices[0] if len(slices) == 1 else np.concatenate([*slices, _NO_ROWS])
        if mask is None or among is not None:
            return _unless_all(matches)
        result = np.zeros(len(mask), np.bool_)
        result[mask] = matches
        return result

    def _visible(self, table: pa.Table, system: Sequence[str], mask: Mask | None) -> Mask | None:
        """Return which rows of `mask` (None: all) are visible; record the rows that they hide."""
        at = np.uint64(self._spec.snapshot_ts)
        masks = [] if mask is None else [mask]
        is_committed = None
        if COMMIT_TS in system:
            is_committed = numpy_column(table, COMMIT_TS) <= at
            masks.append(is_committed)
        if OP in system:
            masks.append(numpy_column(table, OP) == Op.PUT)
        if SUPERSEDED_TS in system:
            masks.append(numpy_column(table, SUPERSEDED_TS) > at)
        if PREVIOUS_FILE in system:
            self._hide(table if is_committed is None else filter_rows(table, is_committed))
        return np.logical_and.reduce(masks) if masks else None

    def _hide(self, newer: pa.Table) -> None:
        """Record the rows in older files that these versions supersede."""
        pointing = newer.filter(newer.column(PREVIOUS_FILE).is_valid())
        numbers, rows = numpy_column(pointing, PREVIOUS_FILE), numpy_column(pointing, PREVIOUS_ROW)
        for number in np.unique(numbers):
            self._hidden.setdefault(int(number), []).append(rows[numbers == number])

    def _batches(self, table: pa.Table, rows: int) -> Iterator[pa.RecordBatch]:
        """Compute the output columns from the file's columns, in batches of bounded size."""
        if not self._names:
            yield batch_of([], [], rows)
            return
        # Without columns, the file is older than those of the scan.
        whole = [] if table.num_columns else [batch_of([], [], rows)]
        for batch in whole or table.to_batches(max_chunksize=BATCH_ROWS):
            output = partial(self._output, batch)
            size = batch.num_rows
            yield from in_slices(size, self._spec.budget, self._where, output, BATCH_ROWS)

    def _output(self, batch: pa.RecordBatch, start: int, count: int) -> pa.RecordBatch:
        """Compute the output columns of consecutive rows of a batch of the file's columns."""
        spec, part = self._spec, batch.slice(start, count)
        stored = dict(zip(part.schema.names, part.columns, strict=True))
        arrays = self._projected(stored, spec.columns, count, as_stored=spec.as_stored)
        if spec.with_handle:
            arrays.insert(0, _dense(stored[HANDLE]))
        return batch_of(self._names, arrays, count)

    def _projected(
        self, stored: Stored, columns: Sequence[ScanColumn], rows: int, *, as_stored: bool
    ) -> list[pa.Array]:
        """Compute columns; only those that may not be returned as stored are decoded."""
        ready: dict[int, pa.Array] = {}
        for column in columns:
            if not _is_stored(stored, column):
                continue
            values = stored[column_name(column.id)]
            if as_stored:
                ready[column.id] = values
            elif is_narrow(values.type):
                # The condition's columns were read narrow, and this one is returned, too.
                ready[column.id] = widened(values, column.type)
            elif column.id in self._spec.dictionaries and pa.types.is_dictionary(values.type):
                ready[column.id] = values
        others = [c for c in columns if c.id not in ready]
        dense = {name: _dense(stored[name]) for name in stored_names(others) if name in stored}
        for column, values in zip(others, project(dense, others, rows), strict=True):
            is_dictionary = not as_stored and column.id in self._spec.dictionaries
            ready[column.id] = values.dictionary_encode() if is_dictionary else values
        return [ready[column.id] for column in columns]


def _is_stored(stored: Stored, column: ScanColumn) -> bool:
    """Return whether a column is stored in all rows, in a form of its type."""
    if not is_whole(stored, column):
        return False
    return _is_form_of(stored[column_name(column.id)].type, column.type)


def _is_form_of(stored: pa.DataType, tp: pa.DataType) -> bool:
    """Return whether `stored` is `tp`, its dictionary or its narrow decimal."""
    if is_narrow(stored):
        return bool(pa.types.is_decimal128(tp) and stored.scale == tp.scale)
    return stored in (tp, dictionary_of(tp))


def _excluding(handles: pa.Array, without: pa.Array, mask: Mask | None) -> Mask:
    """Return the rows of `mask` whose handles (sorted) are not in `without`."""
    remaining = np.ones(len(handles), np.bool_) if mask is None else mask
    if not len(handles):
        return remaining
    start = first_from(without, handles[0].as_py())
    near = without.slice(start, first_above(without, handles[-1].as_py()) - start)
    if pa.types.is_int64(handles.type):
        # Usually `near` has few handles; searching for each of the many rows would take longer.
        rows, excluded = np.asarray(handles), np.asarray(near)
        ends = np.zeros(len(rows) + 1, np.int64)
        np.add.at(ends, np.searchsorted(rows, excluded), 1)
        np.add.at(ends, np.searchsorted(rows, excluded, side="right"), -1)
        is_excluded: Mask = np.cumsum(ends[:-1]) > 0
    else:
        is_excluded = pc.is_in(handles, value_set=near).to_numpy(zero_copy_only=False)
    return remaining & ~is_excluded


def _unless_all(mask: Mask | None) -> Mask | None:
    return None if mask is None or mask.all() else mask


def _dense(column: pa.Array) -> pa.Array:
    """Decode a dictionary, or widen narrow decimals to 128 bits."""
    if is_narrow(column.type):
        return widened(column, pa.decimal128(DECIMAL128_DIGITS, column.type.scale))
    if not pa.types.is_dictionary(column.type):
        return column
    if len(column) > 1:
        reserve_decoded(column)
    return column.dictionary_decode()
