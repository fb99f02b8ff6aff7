"""A data file of the magic engine: Parquet that checks itself.

Columns: `_handle _commit_ts _start_ts _op`, then

    _superseded_ts   uint64   the smallest commit_ts above this version's own of the same row *in this file*, or MAX_TS
    _previous_file   uint64   where the version stands that this one supersedes in another file: the file's number
    _previous_row    uint32   and its row there; both null where there is none

then the table's columns (`c1`, ...), each with its TiDB column id as Parquet field id. Rows are sorted by
(_handle, _commit_ts).

Checksums: every page carries one, verified on read; the manifest holds one of the footer, which no page covers, and
one of the whole file, verified where the file is small enough to be read whole.
"""

import json
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pyspark_theflash.errors import CorruptionError
from pyspark_theflash.mvcc.version import COMMIT_TS, HANDLE, OP, START_TS, SUPERSEDED_TS, Op
from pyspark_theflash.store.manifest import Record
from pyspark_theflash.types import MAX_TS, PhysicalTableID, TimeStamp

FILE_KIND: Final = "file"
PREVIOUS_FILE: Final = "_previous_file"
PREVIOUS_ROW: Final = "_previous_row"
SYSTEM_COLUMNS: Final = (HANDLE, COMMIT_TS, START_TS, OP, SUPERSEDED_TS, PREVIOUS_FILE, PREVIOUS_ROW)

ROW_GROUP_ROWS: Final = 1 << 17
WHOLE_CHECK_BYTES: Final = 1 << 20
_FOOTER_TAIL_BYTES: Final = 8  # footer length and Parquet's closing magic


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
    commit_ts = table.column(COMMIT_TS)
    info = DataFile(
        number=number,
        physical_id=physical_id,
        path=path,
        is_stable=is_stable,
        rows=table.num_rows,
        size_bytes=data.size,
        crc=zlib.crc32(data),
        footer_crc=zlib.crc32(_footer(memoryview(data))),
        min_commit_ts=TimeStamp(pc.min(commit_ts).as_py()),
        max_commit_ts=TimeStamp(pc.max(commit_ts).as_py()),
        has_deletes=pc.any(pc.equal(table.column(OP), pa.scalar(Op.DELETE, pa.uint8()))).as_py(),
        has_superseded=pc.any(pc.less(table.column(SUPERSEDED_TS), pa.scalar(MAX_TS, pa.uint64()))).as_py(),
        has_previous=table.column(PREVIOUS_FILE).null_count < table.num_rows,
    )
    return EncodedFile(info, data)


def open_file(folder: Path, info: DataFile) -> pq.ParquetFile:
    """An open file whose footer is known to be the one that was written.

    Raises:
        CorruptionError: the file is missing, or not what the manifest says.
    """
    path = folder / info.path
    try:
        size = path.stat().st_size
        if size != info.size_bytes:
            raise CorruptionError(str(path), min(size, info.size_bytes), f"has {size} bytes, not {info.size_bytes}")
        source = pa.memory_map(str(path))
    except OSError as error:
        raise CorruptionError(str(path), 0, f"cannot be read ({error})") from error
    data = memoryview(source.read_buffer(size))
    source.seek(0)
    if size <= WHOLE_CHECK_BYTES:
        if zlib.crc32(data) != info.crc:
            raise CorruptionError(str(path), 0, "fails its checksum")
    elif zlib.crc32(_footer(data)) != info.footer_crc:
        raise CorruptionError(str(path), size - _FOOTER_TAIL_BYTES, "the footer fails its checksum")
    try:
        return pq.ParquetFile(source, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise CorruptionError(str(path), 0, f"not Parquet ({error})") from error


def read_columns(folder: Path, info: DataFile, columns: Sequence[str]) -> pa.Table:
    """Whole columns of a file; those it does not have are left out."""
    file = open_file(folder, info)
    try:
        return file.read(columns=[c for c in columns if c in file.schema_arrow.names])
    except (pa.ArrowException, OSError) as error:
        raise CorruptionError(str(folder / info.path), 0, f"a page cannot be read ({error})") from error


def u64(table: pa.Table, name: str) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    """A column of timestamps as NumPy."""
    return table.column(name).combine_chunks().to_numpy()


def _footer(data: memoryview) -> memoryview:
    length = int.from_bytes(data[-_FOOTER_TAIL_BYTES:-4], "little")
    return data[-min(length + _FOOTER_TAIL_BYTES, len(data)) :]


def _with_field_ids(table: pa.Table) -> pa.Table:
    fields = [
        f if f.name in SYSTEM_COLUMNS else f.with_metadata({"PARQUET:field_id": f.name[1:]})
        for f in table.schema
    ]
    return table.cast(pa.schema(fields))


def _dictionary_columns(table: pa.Table) -> list[str]:
    """Which columns are worth a dictionary: those whose values are few or repeat; never the handle."""
    return [
        f.name
        for f in table.schema
        if f.name != HANDLE and not pa.types.is_floating(f.type)
    ]
