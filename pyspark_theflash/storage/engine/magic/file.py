"""A data file of the magic engine: Parquet that checks itself.

    delta    what one publication wrote of a physical table, across its regions
    layer    deltas merged and cut by region
    stable   the bulk of a region, at most one each: never points into another file

Columns: `_handle _commit_ts _start_ts _op`, then

    _superseded_ts   uint64   the smallest commit_ts above this version's own of the same row
                              *in this file*, or MAX_TS
    _previous_file   uint64   where the version stands that this one supersedes in another file:
    _previous_row    uint32   the file's number and the row there; null where there is none

then the table's columns (`c1`, ...), each with its TiDB column id as Parquet field id. Rows are
sorted by (_handle, _commit_ts).

Checksums: every page carries one, verified on read; the manifest holds one of the footer, which no
page covers, and one of the whole file, verified where the file is small enough to be read whole.
Headers of pages are covered by neither in a larger file. So a column has one page a row group, but
for its dictionary, and a header that lies of its page comes to too few rows, which shows.
"""

import json
import logging
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from enum import Enum
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pyspark_theflash.base.errors import CorruptionError, EngineError
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
"""In the footer's metadata: the user's columns, joined by commas, that no row has NULL in."""
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
"""How many bytes in memory a byte of a file is taken for, where only the file's size is known."""


class FileKind(str, Enum):
    """Who a file's rows belong to; see the module."""

    DELTA = "delta"
    LAYER = "layer"
    STABLE = "stable"


@dataclass(frozen=True, slots=True)
class DataFile:
    """What the manifest knows of a file. `path` is relative to the store's data folder.

    `copies` are further paths, in other partitions, of files with the same bytes. `region_id` is
    `NO_REGION` for a delta. `data_bytes` is the size of its rows in memory. Handles are unknown
    (None) in files of format 1. Below `garbage_ts` no version is superseded in the file and no
    delete is reached: from there on a safe point may drop something. `has_*` tell a scan which
    system columns it need not read.
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
        """Where it is, all of them."""
        return (self.path, *self.copies)

    @property
    def each(self) -> list["DataFile"]:
        """The file and each of its copies, as files by themselves."""
        return [replace(self, path=path, copies=()) for path in self.paths]

    def within(self, partitions: Partitions) -> "DataFile":
        """The same file as it is when each of these partitions has it."""
        path, *copies = (path_in(partition, name_of(self.path)) for partition in partitions)
        return replace(self, path=path, copies=tuple(copies))

    @property
    def content(self) -> tuple[int, int, int]:
        """What tells the file's content from any other's: a replaced store repeats numbers."""
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
        """Inverse of `to_json`, also of format 1. Raises `CodecError`."""
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
        """The record's key: files of a table stand together, in the order they were written."""
        return f"{self.physical_id:020d}-{self.number:020d}"

    @property
    def is_small(self) -> bool:
        """Whether it is read and checked whole."""
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
"""How each is read from JSON."""


def _from_format_1(values: dict[str, Any]) -> dict[str, Any]:
    """Format 1 had one region a table, and stable files of any size."""
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
    """All bytes of a file, or of its first copy that is sound; raises as `open_file` does."""

    def read(one: DataFile) -> bytes:
        path = folder / one.path
        with open_file(folder, one):
            data = path.read_bytes()
        if zlib.crc32(data) != one.crc:
            raise CorruptionError(str(path), 0, "fails its checksum")
        return data

    return from_any_copy(info, read)


def file_path(physical_id: PhysicalTableID, number: int) -> str:
    """Where a file is kept, relative to the store's data folder."""
    return f"{physical_id}/{number:016x}.parquet"


def number_of(path: str) -> int:
    """Return the number of the file at a path that `file_path` made."""
    return int(path.rpartition("/")[2].removesuffix(".parquet"), 16)


def from_any_copy(info: DataFile, read: Callable[[DataFile], T]) -> T:
    """What `read` gives for a file, or for the next of its copies where that one is damaged.

    Raises:
        CorruptionError, EngineError: what the last copy fails with.
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
"""What a copy fails with that is damaged, or on a disk that is gone or broken."""


def warn_of_copy(error: Exception) -> None:
    """Log that another copy is read, since nobody gets this error."""
    _log.warning("another copy is read: %s", error)


@contextmanager
def open_file(
    folder: Path,
    info: DataFile,
    *,
    as_dictionaries: Collection[str] = (),
    metadata: pq.FileMetaData | None = None,
) -> Iterator[pq.ParquetFile]:
    """An open file whose footer is the one that was written; pages are checked when they are read.

    Strings in the columns `as_dictionaries` come as dictionaries where the file has them so.
    `metadata`: the footer, of a large file that was opened before.

    Raises:
        CorruptionError: the file is missing or not what the manifest says; also for what the block
        reads.
        EngineError: the system could not read it.
    """
    path = folder / info.path
    try:
        size = path.stat().st_size
        if size != info.size_bytes:
            reason = f"has {size} bytes, not {info.size_bytes}"
            raise CorruptionError(str(path), min(size, info.size_bytes), reason)
        # Read, not mapped: a failing disk shall be an error and not a signal.
        with pa.OSFile(str(path)) if metadata else _checked(path, info) as source:
            yield pq.ParquetFile(
                source,
                metadata=(known := metadata or pq.read_metadata(source)),
                read_dictionary=_dictionaries(known, as_dictionaries),
                page_checksum_verification=True,
                # Reading ahead is for what is far away.
                pre_buffer=False,
            )
    except FileNotFoundError as error:
        if is_missing(folder, info.path):
            reason = f"partition {partition_of(info.path)} is missing: is its disk mounted?"
            raise EngineError(str(path), reason) from error
        raise CorruptionError(str(path), 0, "is missing") from error
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise os_error(error, path) from error
        raise CorruptionError(str(path), 0, f"cannot be read as Parquet ({error})") from error


def repeating_columns(folder: Path, info: DataFile, names: Sequence[str]) -> Sequence[str]:
    """Those of `names` that are strings which the file has as dictionaries; see `open_file`."""

    def read(one: DataFile) -> Sequence[str]:
        with open_file(folder, one) as file:
            return _dictionaries(file.metadata, names)

    return from_any_copy(info, read)


def never_null(metadata: pq.FileMetaData) -> frozenset[str]:
    """The user's columns of which the file says that no row has NULL in them."""
    said = (metadata.metadata or {}).get(NEVER_NULL, b"").decode(errors="replace")
    return frozenset(name for name in said.split(",") if name)


def _dictionaries(metadata: pq.FileMetaData, names: Collection[str]) -> list[str]:
    """Those of `names` whose values are strings, written as dictionaries in every row group."""
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
    """The file, checked whole if it is small, else its footer."""
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


def read_columns(folder: Path, info: DataFile, columns: Sequence[str]) -> pa.Table:
    """Whole columns of a file; those it does not have are left out."""

    def read(one: DataFile) -> pa.Table:
        with open_file(folder, one) as file:
            names = stored_columns(file, columns)
            groups = range(file.num_row_groups)
            return pa.concat_tables([read_row_group(file, group, names) for group in groups])

    return from_any_copy(info, read)


def read_row_group(file: pq.ParquetFile, group: int, columns: Sequence[str]) -> pa.Table:
    """Columns of a row group of an open file, which has all of them.

    The header of a page has no checksum: if it tells of fewer values, or of a kind of page that
    nobody knows, rows are missing, which no other column shows where only one is read. If it tells
    of more, they are left out, as long as no other row group is read with this one.
    """
    table, known = file.read_row_group(group, columns=columns), file.metadata.row_group(group)
    if table.num_rows != known.num_rows:
        raise pa.ArrowInvalid(f"a row group has {table.num_rows} rows instead of {known.num_rows}")
    for name in columns:
        if pa.types.is_list(table.schema.field(name).type):
            _check_elements(name, table.column(name), known)
    return table


def _check_elements(name: str, column: pa.ChunkedArray, group: pq.RowGroupMetaData) -> None:
    """Raise if a list lacks some: Parquet counts every element, and an empty list and null as one.

    Pages of lists hold elements, so what is missing may be the last row's and no row.
    """
    lengths = pc.fill_null(pc.list_value_length(column), 0)
    values = pc.sum(pc.max_element_wise(lengths, 1)).as_py()
    columns = [group.column(at) for at in range(group.num_columns)]
    (stored,) = [c for c in columns if c.path_in_schema.split(".")[0] == name]
    if values != stored.num_values:
        raise pa.ArrowInvalid(f"{name} has {values} values instead of {stored.num_values}")


def stored_columns(file: pq.ParquetFile, names: Sequence[str]) -> list[str]:
    """Those of `names` that the file has."""
    known = set(file.schema_arrow.names)
    return [name for name in names if name in known]


def is_text(tp: pa.DataType) -> bool:
    """Whether values are strings or bytes."""
    return bool(pa.types.is_string(tp) or pa.types.is_binary(tp))


def numpy_column(table: pa.Table, name: str) -> npt.NDArray[Any]:
    """A column without nulls as NumPy, in its own type."""
    values: npt.NDArray[Any] = combine_chunks(table.column(name)).to_numpy(zero_copy_only=True)
    return values


def combine_chunks(column: pa.ChunkedArray) -> pa.Array:
    """A column's values; unlike `combine_chunks` without a copy where they are in one array."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def with_ends(
    table: pa.Table,
    superseded_ts: npt.NDArray[np.uint64],
    previous_file: pa.Array,
    previous_row: pa.Array,
) -> pa.Table:
    """Versions with the system columns that stored files have besides."""
    return (
        table.append_column(SUPERSEDED_TS, pa.array(superseded_ts))
        .append_column(PREVIOUS_FILE, previous_file)
        .append_column(PREVIOUS_ROW, previous_row)
    )
