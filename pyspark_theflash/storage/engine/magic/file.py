"""Data files of the magic engine: Parquet with checksums, and their manifest records.

    delta    the versions that one publication wrote to a physical table, across regions
    layer    merged deltas, one file for each region
    stable   most versions of a region; at most one for each region, without pointers to other files

Columns: `_handle _commit_ts _start_ts _op`, then

    _superseded_ts   uint64   the smallest commit_ts above this version's own of the same row
                              *in this file*, or MAX_TS
    _previous_file   uint64   position of the version in another file that this one supersedes:
    _previous_row    uint32   the file's number and its row there; null if there is none

then the table's columns (`c1`, ...), each with its TiDB column id as Parquet field id. Rows are
sorted by (_handle, _commit_ts).

Checksums: Every page has one, verified on read. The manifest has one of the footer, which no page
checksum covers, and one of the whole file, verified if the file is small enough to be read whole.
In larger files no checksum covers the page headers. Therefore a column has only one data page in
each row group; if its header is damaged, too few rows are read, which is detected.
"""

import json
import logging
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields, replace
from enum import Enum
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pyspark_theflash.base.errors import CorruptionError, EngineError, UnsupportedError
from pyspark_theflash.base.types import MAX_TS, PhysicalTableID, RegionID, TimeStamp
from pyspark_theflash.storage.engine.api import Handle
from pyspark_theflash.storage.engine.magic.region import (
    FIRST_REGION,
    NO_REGION,
    handle_from_json,
    handle_to_json,
)
from pyspark_theflash.storage.mvcc.version import COMMIT_TS, HANDLE, OP, START_TS, SUPERSEDED_TS
from pyspark_theflash.storage.store.manifest import Record, os_error
from pyspark_theflash.storage.store.partition import (
    Partitions,
    is_missing,
    name_of,
    partition_of,
    path_in,
)
from pyspark_theflash.tidb.codec.document import boolean, int64, load, shaped, text, uint64

T = TypeVar("T")
_log = logging.getLogger(__name__)
FILE_KIND: Final = "file"
PREVIOUS_FILE: Final = "_previous_file"
PREVIOUS_ROW: Final = "_previous_row"
NEVER_NULL: Final = b"theflash.never_null"
"""Key in the footer's metadata: the user columns without NULLs, separated by commas."""
SYSTEM_COLUMNS: Final = (
    HANDLE,
    COMMIT_TS,
    START_TS,
    OP,
    SUPERSEDED_TS,
    PREVIOUS_FILE,
    PREVIOUS_ROW,
)

WHOLE_CHECK_BYTES: Final = 1 << 20
COMPRESSION: Final = 4
"""Assumed ratio of size in memory to file size, if only the latter is known."""


class FileKind(str, Enum):
    """Kind of a data file; see the module docstring."""

    DELTA = "delta"
    LAYER = "layer"
    STABLE = "stable"


@dataclass(frozen=True, slots=True)
class DataFile:
    """Manifest record of a data file. `path` is relative to the store's data folder.

    `copies` are the paths of identical files in other partitions. `region_id` is `NO_REGION` for a
    delta. `data_bytes` is the size of its rows in memory. `min_handle` and `max_handle` are None in
    files of format 1. `garbage_ts` is the smallest `_superseded_ts` or commit_ts of a delete in the
    file, MAX_TS if none: a lower safe point drops nothing. A scan need not read the system columns
    whose `has_*` is false.
    """

    number: int
    physical_id: PhysicalTableID
    region_id: RegionID
    path: str
    kind: FileKind
    rows: int
    size_bytes: int
    data_bytes: int
    crc: int
    footer_bytes: int
    footer_crc: int
    min_handle: Handle | None
    max_handle: Handle | None
    min_commit_ts: TimeStamp
    max_commit_ts: TimeStamp
    garbage_ts: TimeStamp
    has_deletes: bool
    has_superseded: bool
    has_previous: bool
    copies: tuple[str, ...] = ()

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths of all copies."""
        return (self.path, *self.copies)

    @property
    def single_copies(self) -> list["DataFile"]:
        """One `DataFile` without copies for each path."""
        return [replace(self, path=path, copies=()) for path in self.paths]

    def within(self, partitions: Partitions) -> "DataFile":
        """Return the file with one copy in each of these partitions."""
        path, *copies = (path_in(partition, name_of(self.path)) for partition in partitions)
        return replace(self, path=path, copies=tuple(copies))

    @property
    def content(self) -> tuple[int, int, int]:
        """Identifies the content. The number alone does not: a replaced store may reuse it."""
        return self.number, self.crc, self.footer_crc

    def to_json(self) -> str:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        if not self.copies:
            del values["copies"]
        for name in ("min_handle", "max_handle"):
            values[name] = handle_to_json(values[name])
        return json.dumps(values, separators=(",", ":"))

    @classmethod
    def from_json(cls, body: str | bytes) -> "DataFile":
        """Decode `to_json` or format 1. Raises `CodecError`."""
        with shaped(f"{FILE_KIND} record"):
            values = load(body)
            if "is_stable" in values:
                values = _from_format_1(values)
            copies = tuple(map(text, values.pop("copies", ())))
            return cls(
                copies=copies, **{name: read(values.pop(name)) for name, read in _FIELDS}, **values
            )

    @property
    def key(self) -> str:
        """The record's key, which sorts by table, then in write order."""
        return f"{self.physical_id:020d}-{self.number:020d}"

    @property
    def is_small(self) -> bool:
        """Whether the file is always read whole, with its checksum verified."""
        return self.size_bytes <= WHOLE_CHECK_BYTES

    def to_record(self) -> Record:
        return Record(FILE_KIND, self.key, self.to_json().encode())


_FIELDS: Final[tuple[tuple[str, Callable[[object], Any]], ...]] = (
    *((name, int64) for name in ("number", "physical_id", "region_id")),
    ("path", text),
    ("kind", FileKind),
    *((name, int64) for name in ("rows", "size_bytes", "data_bytes", "crc")),
    *((name, int64) for name in ("footer_bytes", "footer_crc")),
    *((name, handle_from_json) for name in ("min_handle", "max_handle")),
    *((name, uint64) for name in ("min_commit_ts", "max_commit_ts", "garbage_ts")),
    *((name, boolean) for name in ("has_deletes", "has_superseded", "has_previous")),
)
"""Decoders of the JSON fields, by name."""


def _from_format_1(values: dict[str, Any]) -> dict[str, Any]:
    """Convert the fields of format 1, which had one region for each table."""
    is_stable = values.pop("is_stable")
    has_garbage = values["has_deletes"] or values["has_superseded"]
    return {
        **values,
        "kind": FileKind.STABLE if is_stable else FileKind.DELTA,
        "region_id": FIRST_REGION if is_stable else NO_REGION,
        "data_bytes": values["size_bytes"] * COMPRESSION,
        "min_handle": None,
        "max_handle": None,
        "garbage_ts": 0 if has_garbage else MAX_TS,
    }


def read_whole(folder: Path, info: DataFile) -> bytes:
    """Read and verify all bytes of a file or its next intact copy. Raises as `open_file` does."""

    def read(one: DataFile) -> bytes:
        path = folder / one.path
        with open_file(folder, one):
            data = path.read_bytes()
        if zlib.crc32(data) != one.crc:
            raise CorruptionError(str(path), 0, "fails its checksum")
        return data

    return from_any_copy(info, read)


def file_path(physical_id: PhysicalTableID, number: int) -> str:
    """Return the path of a file in partition 0, relative to the store's data folder."""
    return f"{physical_id}/{number:016x}.parquet"


def number_of(path: str) -> int:
    """Return the file number in a path."""
    return int(path.rpartition("/")[2].removesuffix(".parquet"), 16)


def from_any_copy(info: DataFile, read: Callable[[DataFile], T]) -> T:
    """Call `read` with the file, or its next copy if that one is unreadable.

    Raises:
        CorruptionError, EngineError: No copy is readable; the error of the last one.
    """
    try:
        return read(info)
    except UNREADABLE as error:
        if not info.copies:
            raise
        warn_of_copy(error)
    path, *copies = info.copies
    return from_any_copy(replace(info, path=path, copies=tuple(copies)), read)


UNREADABLE: Final = (CorruptionError, EngineError)
"""Errors of a copy that is damaged, or on a disk that is missing or broken."""


def warn_of_copy(error: Exception) -> None:
    """Log the error of an unreadable copy, since it is not raised."""
    _log.warning("reading another copy of a file: %s", error)


@contextmanager
def open_file(folder: Path, info: DataFile) -> Iterator[pq.ParquetFile]:
    """Open a file and verify its footer. Pages are verified when they are read.

    Raises:
        CorruptionError: The file is missing or does not match the manifest. Errors of the block's
            reads are raised like this, too.
        UnsupportedError, EngineError: See `reading`.
    """
    with reading(folder, info), ExitStack() as closing:
        yield parquet_file(folder, info, closing)


def parquet_file(
    folder: Path,
    info: DataFile,
    closing: ExitStack,
    *,
    as_dictionaries: Collection[str] = (),
    metadata: pq.FileMetaData | None = None,
) -> pq.ParquetFile:
    """Open a file like `open_file`, in a block of `reading`. `closing` closes it.

    Args:
        as_dictionaries: string columns to read as dictionaries if the file stores them so.
        metadata: the verified footer of a large file that was opened before.
    """
    path = folder / info.path
    size = path.stat().st_size
    if size != info.size_bytes:
        reason = f"has {size} bytes, not {info.size_bytes}"
        raise CorruptionError(str(path), min(size, info.size_bytes), reason)
    # Not memory-mapped: an I/O error must raise, not send SIGBUS.
    source = closing.enter_context(pa.OSFile(str(path)) if metadata else _checked(path, info))
    return pq.ParquetFile(
        source,
        metadata=(footer := metadata or pq.read_metadata(source)),
        read_dictionary=_dictionaries(footer, as_dictionaries),
        page_checksum_verification=True,
        # Pre-buffering is for remote file systems.
        pre_buffer=False,
    )


@contextmanager
def reading(folder: Path, info: DataFile) -> Iterator[None]:
    """Convert errors of reads of a file. The block has no other computations.

    Raises:
        CorruptionError: The file is missing or damaged.
        UnsupportedError: The values are too many for Arrow, or for the process's memory.
        EngineError: The operating system cannot read the file.
    """
    path = folder / info.path
    try:
        yield
    except FileNotFoundError as error:
        if is_missing(folder, info.path):
            reason = f"partition {partition_of(info.path)} is missing: is its disk mounted?"
            raise EngineError(str(path), reason) from error
        raise CorruptionError(str(path), 0, "is missing") from error
    except (pa.ArrowCapacityError, MemoryError) as error:
        # The file is sound, and its copies are as large.
        what = f"reading as many values at once ({type(error).__name__})"
        raise UnsupportedError(what, str(path)) from error
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise os_error(error, path) from error
        raise CorruptionError(str(path), 0, f"cannot be read as Parquet ({error})") from error


def repeating_columns(folder: Path, info: DataFile, names: Sequence[str]) -> Sequence[str]:
    """Return the string columns among `names` that the file stores as dictionaries."""

    def read(one: DataFile) -> Sequence[str]:
        with open_file(folder, one) as file:
            return _dictionaries(file.metadata, names)

    return from_any_copy(info, read)


def never_null(metadata: pq.FileMetaData) -> frozenset[str]:
    """Return the user columns that have no NULLs according to the footer."""
    names = (metadata.metadata or {}).get(NEVER_NULL, b"").decode(errors="replace")
    return frozenset(name for name in names.split(",") if name)


def _dictionaries(metadata: pq.FileMetaData, names: Collection[str]) -> list[str]:
    """Return the string columns among `names` with dictionaries in every row group."""
    if not names:
        return []
    schema = metadata.schema.to_arrow_schema()
    groups = [metadata.row_group(group) for group in range(metadata.num_row_groups)]
    return [
        field.name
        for at, field in enumerate(schema)
        if field.name in names
        and is_text(field.type)
        and all(group.column(at).has_dictionary_page for group in groups)
    ]


def _checked(path: Path, info: DataFile) -> pa.NativeFile:
    """Open a file and verify all of it if it is small, else its footer."""
    if info.is_small:
        data = path.read_bytes()
        if zlib.crc32(data) != info.crc:
            raise CorruptionError(str(path), 0, "fails its checksum")
        return pa.BufferReader(data)
    source = pa.OSFile(str(path))
    source.seek(info.size_bytes - info.footer_bytes)
    if zlib.crc32(source.read(info.footer_bytes)) != info.footer_crc:
        source.close()
        reason = "the footer fails its checksum"
        raise CorruptionError(str(path), info.size_bytes - info.footer_bytes, reason)
    return source


def read_columns(folder: Path, info: DataFile, columns: Sequence[str] | None = None) -> pa.Table:
    """Read columns of a file, by default all; those that it does not have are left out."""

    def read(one: DataFile) -> pa.Table:
        with open_file(folder, one) as file:
            names = file.schema_arrow.names if columns is None else stored_columns(file, columns)
            groups = range(file.num_row_groups)
            return pa.concat_tables([read_row_group(file, group, names) for group in groups])

    return from_any_copy(info, read)


def read_row_group(file: pq.ParquetFile, group: int, columns: Sequence[str]) -> pa.Table:
    """Read columns of a row group, all of which the file has, and check their row count.

    Page headers have no checksum. If one has too few values or an unknown page type, pyarrow
    returns fewer rows, without an error if no other column is read. If one has too many, pyarrow
    ignores the excess as long as each row group is read by itself.
    """
    table, expected = file.read_row_group(group, columns=columns), file.metadata.row_group(group)
    if table.num_rows != expected.num_rows:
        reason = f"a row group has {table.num_rows} rows instead of {expected.num_rows}"
        raise pa.ArrowInvalid(reason)
    for name in columns:
        tp = table.schema.field(name).type
        if pa.types.is_list(tp):
            _check_elements(name, table.column(name), expected)
        elif pa.types.is_dictionary(tp):
            _check_indices(name, table.column(name))
    return table


def _check_indices(name: str, column: pa.ChunkedArray) -> None:
    """Check that a dictionary has not lost values, by a damaged page header."""
    for chunk in column.chunks:
        bounds = pc.min_max(chunk.indices)
        low, high = bounds["min"].as_py(), bounds["max"].as_py()
        if low is not None and not 0 <= low <= high < len(chunk.dictionary):
            raise pa.ArrowInvalid(f"{name} has a dictionary of {len(chunk.dictionary)} values")


def _check_elements(name: str, column: pa.ChunkedArray, group: pq.RowGroupMetaData) -> None:
    """Check the number of elements of a list column.

    A damaged page header may lose elements of the last row only, without changing the row count.
    Parquet's value count has one for each element, and one for each empty or null list.
    """
    lengths = pc.fill_null(pc.list_value_length(column), 0)
    values = pc.sum(pc.max_element_wise(lengths, 1)).as_py()
    columns = [group.column(at) for at in range(group.num_columns)]
    (stored,) = [c for c in columns if c.path_in_schema.split(".")[0] == name]
    if values != stored.num_values:
        raise pa.ArrowInvalid(f"{name} has {values} values instead of {stored.num_values}")


def stored_columns(file: pq.ParquetFile, names: Sequence[str]) -> list[str]:
    """Return the columns among `names` that the file has."""
    present = set(file.schema_arrow.names)
    return [name for name in names if name in present]


def is_text(tp: pa.DataType) -> bool:
    """Return whether values are strings or bytes."""
    return bool(pa.types.is_string(tp) or pa.types.is_binary(tp))


def numpy_column(table: pa.Table, name: str) -> npt.NDArray[Any]:
    """Return a column without nulls as a NumPy array."""
    values: npt.NDArray[Any] = combine_chunks(table.column(name)).to_numpy(zero_copy_only=True)
    return values


def combine_chunks(column: pa.ChunkedArray) -> pa.Array:
    """Combine a column's chunks; unlike pyarrow's method, does not copy a single chunk."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def with_stored_columns(
    table: pa.Table,
    superseded_ts: npt.NDArray[np.uint64],
    previous_file: pa.Array,
    previous_row: pa.Array,
) -> pa.Table:
    """Append the system columns that only stored files have."""
    return (
        table.append_column(SUPERSEDED_TS, pa.array(superseded_ts))
        .append_column(PREVIOUS_FILE, previous_file)
        .append_column(PREVIOUS_ROW, previous_row)
    )
