"""Full integrity check of data files, including the invariants between files.

A scan verifies only what it reads. This reads everything and checks that regions cover each handle
once, rows are inside their region and sorted by (handle, commit_ts), `_superseded_ts` is right, and
each version points at the version it supersedes in another file, if any, and at no other. The keys
of one region and of all deltas are in memory at a time.
"""

import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pyspark_theflash.base.errors import CorruptionError, EngineError
from pyspark_theflash.storage.engine.magic.file import (
    PREVIOUS_FILE,
    PREVIOUS_ROW,
    DataFile,
    FileKind,
    combine_chunks,
    numpy_column,
    open_file,
    read_columns,
)
from pyspark_theflash.storage.engine.magic.handles import within
from pyspark_theflash.storage.engine.magic.layout import Layout
from pyspark_theflash.storage.engine.magic.region import Region, first_region, regions_error
from pyspark_theflash.storage.mvcc.version import COMMIT_TS, HANDLE, OP, SUPERSEDED_TS, Op
from pyspark_theflash.storage.mvcc.visibility import same_as_next, sort_order, superseded_within
from pyspark_theflash.storage.store.partition import is_missing, partition_of

_KEYS: Final = (HANDLE, COMMIT_TS, OP, PREVIOUS_FILE, PREVIOUS_ROW)
_FILE: Final = "file"
_ROW: Final = "row"


def check_table(folder: Path, layout: Layout) -> Iterator[CorruptionError]:
    """Check a physical table and yield an error for each damage.

    Yields the first damage of each file. Pointers between files are checked only in regions whose
    files are all intact.
    """
    if (reason := regions_error(layout.regions)) is not None:
        yield CorruptionError(str(folder / str(layout.physical_id)), 0, reason)
        return
    damaged: set[int] = set()
    by_id = {region.region_id: region for region in layout.regions}
    whole = first_region(layout.physical_id)
    for info in layout.files:
        region = whole if info.kind is FileKind.DELTA else by_id.get(info.region_id)
        for one in info.single_copies:
            if (error := _damage(folder, one, region)) is not None:
                damaged.add(info.number)
                yield error
        if region is not None and tuple(map(partition_of, info.paths)) != region.partitions:
            reason = f"is not in the partitions of region {info.region_id}"
            yield CorruptionError(str(folder / info.path), 0, reason)
    deltas = {f.number: _keys(folder, f) for f in layout.deltas if f.number not in damaged}
    for region in layout.regions:
        files = [f for f in layout.files if f.region_id == region.region_id]
        if damaged.isdisjoint(f.number for f in [*files, *layout.deltas]):
            yield from _check_region(folder, region, files, layout.deltas, deltas)


def _damage(folder: Path, info: DataFile, region: Region | None) -> CorruptionError | None:
    """Return the first damage of a file, or that its partition is missing."""
    try:
        _check_file(folder, info, region)
    except CorruptionError as error:
        return error
    except EngineError as error:
        if is_missing(folder, info.path):
            return CorruptionError(error.path, 0, error.reason)
        raise
    return None


def _check_file(folder: Path, info: DataFile, region: Region | None) -> None:
    """Raise `CorruptionError` for the first damage of a file."""
    path = folder / info.path
    if region is None:
        raise CorruptionError(str(path), 0, f"belongs to an unknown region {info.region_id}")
    with open_file(folder, info) as file:
        table = file.read()
    if zlib.crc32(path.read_bytes()) != info.crc:
        raise CorruptionError(str(path), 0, "fails its checksum")
    if not _is_described(info, table):
        raise CorruptionError(str(path), 0, "does not match its manifest record")
    commit_ts = numpy_column(table, COMMIT_TS)
    handles = table.column(HANDLE).combine_chunks()
    if not _is_sorted(handles, commit_ts):
        raise CorruptionError(str(path), 0, "rows are not sorted by handle and commit_ts")
    if not region.covers(handles[0].as_py(), handles[-1].as_py()):
        raise CorruptionError(str(path), 0, f"has rows outside of region {region.region_id}")
    if not np.array_equal(
        numpy_column(table, SUPERSEDED_TS), superseded_within(handles, commit_ts)
    ):
        raise CorruptionError(str(path), 0, f"has a wrong {SUPERSEDED_TS}")


def _is_described(info: DataFile, table: pa.Table) -> bool:
    """Return whether the file matches what its record says about the rows."""
    if table.num_rows != info.rows:
        return False
    commit_ts, superseded_ts = numpy_column(table, COMMIT_TS), numpy_column(table, SUPERSEDED_TS)
    deletes = numpy_column(table, OP) == Op.DELETE
    handles = table.column(HANDLE)
    ends = superseded_ts.min(), commit_ts[deletes].min(initial=superseded_ts.max())
    return (
        (commit_ts.min(), commit_ts.max()) == (info.min_commit_ts, info.max_commit_ts)
        and info.min_handle in (None, handles[0].as_py())
        and info.max_handle in (None, handles[-1].as_py())
        and info.garbage_ts <= min(ends)
        and (info.has_deletes or not deletes.any())
        and (info.has_superseded or ends[0] == np.uint64(2**64 - 1))
        and (info.has_previous or table.column(PREVIOUS_FILE).null_count == table.num_rows)
    )


def _is_sorted(handles: pa.Array, commit_ts: np.ndarray) -> bool:
    if len(handles) < 2:
        return True
    rises = np.asarray(pc.less(handles.slice(0, len(handles) - 1), handles.slice(1)))
    return bool(np.all(rises | (same_as_next(handles) & (commit_ts[1:] > commit_ts[:-1]))))


def _keys(folder: Path, info: DataFile) -> pa.Table:
    table = read_columns(folder, info, _KEYS)
    columns = {name: table.column(name).combine_chunks() for name in _KEYS}
    columns[_FILE] = pa.array(np.full(len(table), info.number, np.uint64))
    columns[_ROW] = pa.array(np.arange(len(table), dtype=np.uint32))
    return pa.table(columns)


def _check_region(
    folder: Path,
    region: Region,
    own: Sequence[DataFile],
    deltas: Sequence[DataFile],
    delta_keys: Mapping[int, pa.Table],
) -> Iterator[CorruptionError]:
    """Check the pointers between the files of a region; yield an error for each bad file."""
    if sum(f.kind is FileKind.STABLE for f in own) > 1:
        yield CorruptionError(str(folder / own[0].path), 0, "is not its region's only stable file")
    tables = [_keys(folder, f) for f in own]
    for keys in (delta_keys[f.number] for f in deltas):
        handles = combine_chunks(keys.column(HANDLE))
        tables.append(keys.slice(*within(handles, region.start, region.end)))
    if not sum(map(len, tables)):
        return
    keys = pa.concat_tables(tables).combine_chunks()
    handles, commit_ts = (keys.column(n).combine_chunks() for n in (HANDLE, COMMIT_TS))
    keys = keys.take(pa.array(sort_order(handles, commit_ts))).combine_chunks()
    numbers = numpy_column(keys, _FILE)
    wrong, missing = _misplaced(keys)
    for info in [*own, *deltas]:
        path, mine = str(folder / info.path), numbers == info.number
        if (mine & wrong).any():
            yield CorruptionError(path, 0, "points to versions that it does not supersede")
        elif (mine & missing).any():
            yield CorruptionError(path, 0, "does not point to the versions that it supersedes")


def _misplaced(keys: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Return masks of sorted versions: with a wrong pointer, and with a missing one."""
    is_repeated = np.zeros(len(keys), np.bool_)
    is_repeated[1:] = same_as_next(keys.column(HANDLE).combine_chunks()) if len(keys) > 1 else []
    file, row = numpy_column(keys, _FILE), numpy_column(keys, _ROW)
    before = np.arange(len(keys)) - is_repeated
    is_put = numpy_column(keys, OP) == Op.PUT
    must_point = is_repeated & (file[before] != file) & is_put[before]
    points = np.asarray(keys.column(PREVIOUS_FILE).is_valid().combine_chunks())
    points_at = [
        np.asarray(pc.fill_null(keys.column(name), 0).combine_chunks())
        for name in (PREVIOUS_FILE, PREVIOUS_ROW)
    ]
    commit_ts = numpy_column(keys, COMMIT_TS)
    is_right = (points_at[0] == file[before]) & (points_at[1] == row[before])
    is_right &= commit_ts > commit_ts[before]
    return points & ~(must_point & is_right), must_point & ~points
