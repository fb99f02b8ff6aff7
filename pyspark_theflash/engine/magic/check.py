"""Checking data files beyond what a scan must: every byte, and what files say of each other.

A scan verifies what it reads. This reads everything, and holds it against what the writer promised:
rows sorted by (handle, commit_ts), ends of versions right, pointers to rows that are there and
older versions of the same row.
"""

import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pyspark_theflash.engine.magic.file import (
    PREVIOUS_FILE,
    PREVIOUS_ROW,
    DataFile,
    numpy_column,
    open_file,
)
from pyspark_theflash.errors import CorruptionError
from pyspark_theflash.mvcc.version import COMMIT_TS, HANDLE, SUPERSEDED_TS
from pyspark_theflash.mvcc.visibility import same_as_next, superseded_within

Keys = Mapping[int, pa.Table]


def check_files(folder: Path, files: Sequence[DataFile]) -> Iterator[CorruptionError]:
    """Every damage in these files, all of one physical table, as the error a reader would get.

    A file's first damage is named, then the next file is checked.
    """
    keys: dict[int, pa.Table] = {}
    for info in files:
        found = _keys_or_damage(folder, info)
        if isinstance(found, CorruptionError):
            yield found
        else:
            keys[info.number] = found
    numbers = {info.number for info in files}
    for info in files:
        if info.number in keys and info.has_previous:
            yield from _check_pointers(folder, info, keys, numbers)


def _keys_or_damage(folder: Path, info: DataFile) -> pa.Table | CorruptionError:
    try:
        return _check_file(folder, info)
    except CorruptionError as error:
        return error


def _check_file(folder: Path, info: DataFile) -> pa.Table:
    """The file's keys and pointers, if all of it is sound."""
    path = folder / info.path
    with open_file(folder, info) as file:
        table = file.read()
    if zlib.crc32(path.read_bytes()) != info.crc:
        raise CorruptionError(str(path), 0, "fails its checksum")
    commit_ts = numpy_column(table, COMMIT_TS)
    handles = table.column(HANDLE).combine_chunks()
    if table.num_rows != info.rows or (commit_ts.min(), commit_ts.max()) != (
        info.min_commit_ts,
        info.max_commit_ts,
    ):
        raise CorruptionError(str(path), 0, "is not the file that the manifest describes")
    if not _is_sorted(handles, commit_ts):
        raise CorruptionError(str(path), 0, "rows are not sorted by handle and commit_ts")
    if not np.array_equal(
        numpy_column(table, SUPERSEDED_TS), superseded_within(handles, commit_ts)
    ):
        raise CorruptionError(str(path), 0, "versions end at another commit than the next one's")
    return table.select([HANDLE, COMMIT_TS, PREVIOUS_FILE, PREVIOUS_ROW])


def _is_sorted(handles: pa.Array, commit_ts: np.ndarray) -> bool:
    if len(handles) < 2:
        return True
    rises = np.asarray(pc.less(handles.slice(0, len(handles) - 1), handles.slice(1)))
    return bool(np.all(rises | (same_as_next(handles) & (commit_ts[1:] > commit_ts[:-1]))))


def _check_pointers(
    folder: Path, info: DataFile, keys: Keys, numbers: set[int]
) -> Iterator[CorruptionError]:
    """Each `_previous_*` must be an older version of its row. Damaged files are passed over."""
    pointing = keys[info.number].filter(keys[info.number].column(PREVIOUS_FILE).is_valid())
    for number in pc.unique(pointing.column(PREVIOUS_FILE)).to_pylist():
        newer = pointing.filter(pc.equal(pointing.column(PREVIOUS_FILE), number))
        if number not in numbers:
            yield CorruptionError(
                str(folder / info.path), 0, f"points into unknown file {number:x}"
            )
        elif number in keys and not _follows(newer, keys[number]):
            reason = f"points at rows of file {number:x} that are not older versions of its own"
            yield CorruptionError(str(folder / info.path), 0, reason)


def _follows(newer: pa.Table, file: pa.Table) -> bool:
    rows = numpy_column(newer, PREVIOUS_ROW)
    if rows.max() >= file.num_rows:
        return False
    older = file.take(pa.array(rows))
    same = pc.equal(older.column(HANDLE), newer.column(HANDLE))
    before = pc.less(older.column(COMMIT_TS), newer.column(COMMIT_TS))
    return bool(pc.all(pc.and_(same, before)).as_py())
