"""Reading a region as of a snapshot: visibility is computed, not merged.

From the system columns alone each file gets a mask of its visible rows; the user's columns are then
read through it, file by file, in no particular order. A version is hidden by a newer one in its own
file (`_superseded_ts`) or in a later file, whose `_previous_file`, `_previous_row` point back at
it:

    file 1   handle 7 put@10                                          <──┐  hidden at 20 and above
    file 2   handle 7 put@20, superseded 25, previous = (file 1, row 0) ─┘
             handle 7 delete@25

A file in which nothing is ever hidden (a bulk load that nothing has touched) is read without a
mask.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pyspark_theflash.engine.magic.file import (
    PREVIOUS_FILE,
    PREVIOUS_ROW,
    DataFile,
    numpy_column,
    open_file,
    read_columns,
    stored_columns,
)
from pyspark_theflash.mvcc.project import ScanColumn, batch_of, project, stored_names
from pyspark_theflash.mvcc.version import COMMIT_TS, HANDLE, OP, SUPERSEDED_TS, Op, column_name
from pyspark_theflash.types import TimeStamp

BATCH_ROWS = 1 << 16
Rows = npt.NDArray[np.uint32]
Mask = npt.NDArray[np.bool_]


def scan_files(
    folder: Path,
    files: Sequence[DataFile],
    columns: Sequence[ScanColumn],
    snapshot_ts: TimeStamp,
    *,
    with_handle: bool,
) -> Iterator[pa.RecordBatch]:
    """The rows of these files (all of one region) that are visible at `snapshot_ts`."""
    reached = [f for f in files if f.min_commit_ts <= snapshot_ts]
    hidden = hidden_by_later_files(folder, reached, snapshot_ts)
    for info in reached:
        mask = visible_in_file(folder, info, hidden.get(info.number), snapshot_ts)
        if mask is None or mask.any():
            yield from _read(folder, info, columns, mask, with_handle=with_handle)


def hidden_by_later_files(
    folder: Path, files: Sequence[DataFile], snapshot_ts: TimeStamp
) -> Mapping[int, Rows]:
    """File number -> rows that a version in another file has superseded by `snapshot_ts`."""
    found: dict[int, list[Rows]] = {}
    for info in files:
        if not info.has_previous:
            continue
        table = read_columns(folder, info, [COMMIT_TS, PREVIOUS_FILE, PREVIOUS_ROW])
        table = table.filter(table.column(PREVIOUS_FILE).is_valid())
        reached = numpy_column(table, COMMIT_TS) <= np.uint64(snapshot_ts)
        numbers, rows = (
            numpy_column(table, PREVIOUS_FILE)[reached],
            numpy_column(table, PREVIOUS_ROW)[reached],
        )
        for number in np.unique(numbers):
            found.setdefault(int(number), []).append(rows[numbers == number].astype(np.uint32))
    return {number: np.concatenate(rows) for number, rows in found.items()}


def visible_in_file(
    folder: Path, info: DataFile, hidden: Rows | None, snapshot_ts: TimeStamp
) -> Mask | None:
    """Which rows are visible; None means all of them."""
    at = np.uint64(snapshot_ts)
    needed = [
        name
        for name, is_needed in (
            (COMMIT_TS, info.max_commit_ts > snapshot_ts),
            (OP, info.has_deletes),
            (SUPERSEDED_TS, info.has_superseded),
        )
        if is_needed
    ]
    if not needed and hidden is None:
        return None
    table = read_columns(folder, info, needed) if needed else None
    mask = np.ones(info.rows, np.bool_)
    if table is not None:
        if COMMIT_TS in needed:
            mask &= numpy_column(table, COMMIT_TS) <= at
        if OP in needed:
            mask &= numpy_column(table, OP) == Op.PUT
        if SUPERSEDED_TS in needed:
            mask &= numpy_column(table, SUPERSEDED_TS) > at
    if hidden is not None:
        mask[hidden] = False
    return mask


def _read(
    folder: Path,
    info: DataFile,
    columns: Sequence[ScanColumn],
    mask: Mask | None,
    *,
    with_handle: bool,
) -> Iterator[pa.RecordBatch]:
    wanted = stored_names(columns)
    if not columns and not with_handle:
        yield batch_of([], [], info.rows if mask is None else int(mask.sum()))
        return
    with open_file(folder, info) as file:
        asked = [HANDLE, *wanted] if with_handle else wanted
        stored = stored_columns(file, asked)
        # A column that the file is older than must still come with the right number of rows.
        for batch in _filtered(file, stored or [HANDLE], mask):
            found = dict(zip(batch.schema.names, batch.columns, strict=True))
            arrays = project(found, columns, batch.num_rows)
            names = [column_name(column.id) for column in columns]
            if with_handle:
                arrays.insert(0, found[HANDLE])
                names.insert(0, HANDLE)
            yield batch_of(names, arrays, batch.num_rows)


def _filtered(
    file: pq.ParquetFile, names: Sequence[str], mask: Mask | None
) -> Iterator[pa.RecordBatch]:
    """The visible rows, a row group at a time: pyarrow decodes the columns of one in parallel."""
    start = 0
    for group in range(file.num_row_groups):
        rows = file.metadata.row_group(group).num_rows
        visible = None if mask is None else mask[start : start + rows]
        start += rows
        if visible is not None and not visible.any():
            continue
        table = file.read_row_group(group, columns=list(names))
        if visible is not None and not visible.all():
            table = table.filter(pa.array(visible))
        yield from table.to_batches(max_chunksize=BATCH_ROWS)
