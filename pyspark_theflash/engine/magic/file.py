"""A data file of the magic engine: Parquet that checks itself.

Columns: `_handle _commit_ts _start_ts _op`, then

    _superseded_ts   uint64   the smallest commit_ts above this version's own of the same row
                              *in this file*, or MAX_TS
    _previous_file   uint64   where the version stands that this one supersedes in another file:
    _previous_row    uint32   the file's number and the row there; null where there is none

then the table's columns (`c1`, ...), each with its TiDB column id as Parquet field id. Rows are
sorted by (_handle, _commit_ts).

Checksums: every page carries one, verified on read; the manifest holds one of the footer, which no
page covers, and one of the whole file, verified where the file is small enough to be read whole.
"""

import json
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pyspark_theflash.errors import CorruptionError
from pyspark_theflash.mvcc.version import COMMIT_TS, HANDLE, OP, START_TS, SUPERSEDED_TS, Op
from pyspark_theflash.store.manifest import Record, os_error
from pyspark_theflash.types import MAX_TS, PhysicalTableID, TimeStamp

FILE_KIND: Final = "file"
PREVIOUS_FILE: Final = "_previous_file"
PREVIOUS_ROW: Final = "_previous_row"
SYSTEM_COLUMNS: Final = (
    HANDLE,
    COMMIT_TS,
    START_TS,
    OP,
    SUPERSEDED_TS,
    PREVIOUS_FILE,
    PREVIOUS_ROW,
)

ROW_GROUP_ROWS: Final = 1 << 17
WHOLE_CHECK_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class DataFile:
    """What the manifest knows of a file. `path` is relative to the store's data folder.

    `has_*` tell a scan which system columns it need not read.
    """

    number: int
    physical_id: PhysicalTableID
    path: str
    is_stable: bool
    rows: int
    size_bytes: int
    crc: int
    footer_bytes: int
    footer_crc: int
    min_commit_ts: TimeStamp
    max_commit_ts: TimeStamp
    has_deletes: bool
    has_superseded: bool
    has_previous: bool

    def to_json(self) -> str:
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> "DataFile":
        return cls(**json.loads(text))

    @property
    def key(self) -> str:
        """The record's key: files of a table stand together, in the order they were written."""
        return f"{self.physical_id:020d}-{self.number:020d}"

    def to_record(self) -> Record:
        return Record(FILE_KIND, self.key, self.to_json().encode())


@dataclass(frozen=True, slots=True)
class EncodedFile:
    """A file's bytes, ready to be written, and its description."""

    info: DataFile
    data: pa.Buffer


def encode_file(
    table: pa.Table, *, number: int, physical_id: PhysicalTableID, path: str, is_stable: bool
) -> EncodedFile:
    """Parquet of sorted versions with all system columns."""
    sink = pa.BufferOutputStream()
    pq.write_table(
        _with_field_ids(table),
        sink,
        row_group_size=ROW_GROUP_ROWS,
        compression="zstd" if is_stable else "lz4",
        use_dictionary=_dictionary_columns(table),
        write_page_checksum=True,
        store_decimal_as_integer=True,
    )
    data = sink.getvalue()
    footer_bytes = (
        int.from_bytes(data[-8:-4], "little") + 8
    )  # its length, and Parquet's closing magic
    commit_ts = table.column(COMMIT_TS)
    info = DataFile(
        number=number,
        physical_id=physical_id,
        path=path,
        is_stable=is_stable,
        rows=table.num_rows,
        size_bytes=data.size,
        crc=zlib.crc32(data),
        footer_bytes=footer_bytes,
        footer_crc=zlib.crc32(data[-footer_bytes:]),
        min_commit_ts=TimeStamp(pc.min(commit_ts).as_py()),
        max_commit_ts=TimeStamp(pc.max(commit_ts).as_py()),
        has_deletes=pc.any(pc.equal(table.column(OP), pa.scalar(Op.DELETE, pa.uint8()))).as_py(),
        has_superseded=pc.any(
            pc.less(table.column(SUPERSEDED_TS), pa.scalar(MAX_TS, pa.uint64()))
        ).as_py(),
        has_previous=table.column(PREVIOUS_FILE).null_count < table.num_rows,
    )
    return EncodedFile(info, data)


@contextmanager
def open_file(folder: Path, info: DataFile) -> Iterator[pq.ParquetFile]:
    """An open file whose footer is the one that was written; pages are checked when they are read.

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
        with _checked(path, info) as source:
            yield pq.ParquetFile(source, page_checksum_verification=True)
    except FileNotFoundError as error:
        raise CorruptionError(str(path), 0, "is missing") from error
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise os_error(error, path) from error
        raise CorruptionError(str(path), 0, f"cannot be read as Parquet ({error})") from error


def _checked(path: Path, info: DataFile) -> pa.NativeFile:
    """The file, checked whole if it is small, else its footer."""
    if info.size_bytes <= WHOLE_CHECK_BYTES:
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
    with open_file(folder, info) as file:
        return file.read(columns=stored_columns(file, columns))


def stored_columns(file: pq.ParquetFile, names: Sequence[str]) -> list[str]:
    """Those of `names` that the file has."""
    known = set(file.schema_arrow.names)
    return [name for name in names if name in known]


def numpy_column(table: pa.Table, name: str) -> npt.NDArray[Any]:
    """A column without nulls as NumPy, in its own type."""
    values: npt.NDArray[Any] = table.column(name).combine_chunks().to_numpy(zero_copy_only=True)
    return values


def _with_field_ids(table: pa.Table) -> pa.Table:
    fields = [
        f if f.name in SYSTEM_COLUMNS else f.with_metadata({"PARQUET:field_id": f.name[1:]})
        for f in table.schema
    ]
    return table.cast(pa.schema(fields))


def _dictionary_columns(table: pa.Table) -> list[str]:
    """Which columns may repeat their values; Parquet gives the dictionary up where they do not."""
    return [f.name for f in table.schema if f.name != HANDLE and not pa.types.is_floating(f.type)]
