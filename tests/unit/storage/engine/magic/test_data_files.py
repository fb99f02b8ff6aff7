"""Damaged data files: the right rows or `CorruptionError`, never other rows."""

import logging
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from pyspark_theflash.base.errors import CorruptionError, EngineError
from pyspark_theflash.base.types import ColumnID, PhysicalTableID, TimeStamp
from pyspark_theflash.storage.engine.api import ScanSpec
from pyspark_theflash.storage.engine.magic import encode
from pyspark_theflash.storage.engine.magic import file as file_module
from pyspark_theflash.storage.engine.magic.encode import ROW_GROUP_ROWS, FileEncoder
from pyspark_theflash.storage.engine.magic.file import (
    PREVIOUS_FILE,
    PREVIOUS_ROW,
    WHOLE_CHECK_BYTES,
    DataFile,
    FileKind,
    open_file,
    read_columns,
)
from pyspark_theflash.storage.engine.magic.region import FIRST_REGION, first_region
from pyspark_theflash.storage.engine.magic.scan import RegionReader
from pyspark_theflash.storage.mvcc.project import Default, ScanColumn
from pyspark_theflash.storage.mvcc.version import COMMIT_TS, HANDLE, OP, START_TS, SUPERSEDED_TS
from tests.support.data_files import encode_file

_log = logging.getLogger(__name__)
TABLE, WHOLE = PhysicalTableID(1), FIRST_REGION
COLUMNS = [
    ScanColumn(ColumnID(1), pa.int64(), Default(pa.scalar(None, pa.int64()))),
    ScanColumn(ColumnID(2), pa.string(), Default(pa.scalar(None, pa.string()))),
]


def versions(rows: int) -> pa.Table:
    rng = np.random.default_rng(rows)
    commit_ts = rng.integers(1, 1 << 50, rows).astype(np.uint64)
    is_first = rng.random(rows) < 0.7
    superseded = np.where(rng.random(rows) < 0.2, commit_ts + np.uint64(9), np.uint64(2**64 - 1))
    return pa.table(
        {
            HANDLE: pa.array(np.arange(rows)),
            COMMIT_TS: commit_ts,
            START_TS: commit_ts - np.uint64(1),
            OP: (rng.random(rows) < 0.9).astype(np.uint8),
            SUPERSEDED_TS: superseded,
            PREVIOUS_FILE: pa.array(np.full(rows, 9, np.uint64), mask=is_first),
            PREVIOUS_ROW: pa.array(np.arange(rows, dtype=np.uint32), mask=is_first),
            "c1": pa.array(rng.integers(0, 1 << 40, rows), mask=rng.random(rows) < 0.1),
            "c2": [f"value {n % 97}" for n in range(rows)],
        }
    )


def write(
    folder: Path, rows: int, *, number: int = 1, kind: FileKind = FileKind.STABLE
) -> DataFile:
    encoded = encode_file(
        versions(rows), number=number, physical_id=TABLE, kind=kind, region_id=WHOLE
    )
    (folder / encoded.info.path).parent.mkdir(exist_ok=True)
    (folder / encoded.info.path).write_bytes(encoded.data)
    return encoded.info


def everything(folder: Path, info: DataFile) -> pa.Table:
    return read_columns(folder, info, [*file_module.SYSTEM_COLUMNS, "c1", "c2"])


def visible(folder: Path, info: DataFile) -> pa.Table:
    return pa.Table.from_batches(scan(folder, info))


def scan(folder: Path, info: DataFile) -> Iterator[pa.RecordBatch]:
    ts = TimeStamp(1 << 49)
    region = first_region(TABLE)
    spec = ScanSpec(COLUMNS, ts, with_handle=True)
    return RegionReader(folder, region, spec).rows([info])


def flip_and_read(
    folder: Path, info: DataFile, bits: list[int], read: Callable[[Path, DataFile], pa.Table]
) -> int:
    """Flip each bit in turn; return the number of detected flips."""
    right = read(folder, info)
    noticed = 0
    with open(folder / info.path, "r+b", buffering=0) as file:
        for bit in bits:
            (byte,) = os.pread(file.fileno(), 1, bit // 8)
            os.pwrite(file.fileno(), bytes([byte ^ 1 << bit % 8]), bit // 8)
            try:
                assert read(folder, info).equals(right), bit
            except CorruptionError:
                noticed += 1
            os.pwrite(file.fileno(), bytes([byte]), bit // 8)
    _log.info("%d of %d flips noticed", noticed, len(bits))
    return noticed


def test_any_flipped_bit_of_a_small_file(tmp_path: Path) -> None:
    info = write(tmp_path, 30)
    bits = list(range(0, info.size_bytes * 8, 3))
    assert info.size_bytes < 16 << 10
    assert flip_and_read(tmp_path, info, bits, everything) == len(bits)


@pytest.mark.slow
@pytest.mark.parametrize("rows", [5, 250])
@pytest.mark.parametrize("kind", FileKind)
def test_every_bit_of_a_small_file(tmp_path: Path, rows: int, kind: FileKind) -> None:
    info = write(tmp_path, rows, kind=kind)
    assert info.size_bytes < 16 << 10
    bits = list(range(info.size_bytes * 8))
    assert flip_and_read(tmp_path, info, bits, visible) == len(bits)


@pytest.mark.parametrize("step", [97, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", [FileKind.DELTA, FileKind.STABLE])
def test_every_bit_where_pages_check_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: FileKind, step: int
) -> None:
    """As in a large file, which has too many bits to flip."""
    monkeypatch.setattr(file_module, "WHOLE_CHECK_BYTES", 0)
    info = write(tmp_path, 40, kind=kind)
    bits = list(range(0, info.size_bytes * 8, step))
    assert flip_and_read(tmp_path, info, bits, everything) > 0.9 * len(bits)
    assert flip_and_read(tmp_path, info, bits, visible) > 0.8 * len(bits)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DataFile]:
    """A file without a checksum of the whole, with several row groups and every encoding."""
    folder, rows = tmp_path_factory.mktemp("large"), 70_000
    table = versions(rows)
    rng = np.random.default_rng(1)
    texts = [f"{n:060d}" for n in range(rows // 4)]
    many = pa.array(texts).take(pa.array(rng.integers(0, len(texts), rows)))
    few = pa.array(rng.integers(0, 3, rows).astype(np.int8), mask=rng.random(rows) < 0.1)
    table = table.append_column("c3", many).append_column("c4", few)
    table = table.append_column("c5", pa.array(rng.random(rows) < 0.3))
    lists = [None if n % 50 == 0 else [float(n % 7)] * (n % 4) for n in range(rows)]
    table = table.append_column("c6", pa.array(lists, pa.list_(pa.float32())))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encode, "ROW_GROUP_ROWS", 40_000)
        encoded = encode_file(
            table, number=1, physical_id=TABLE, kind=FileKind.STABLE, region_id=WHOLE
        )
    (folder / encoded.info.path).parent.mkdir()
    (folder / encoded.info.path).write_bytes(encoded.data)
    assert encoded.info.size_bytes > WHOLE_CHECK_BYTES
    return folder, encoded.info


@pytest.mark.parametrize("count", [20, pytest.param(2000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("read", [everything, visible])
def test_flipped_bits_of_a_large_file(
    large: tuple[Path, DataFile], read: Callable[[Path, DataFile], pa.Table], count: int
) -> None:
    folder, info = large
    rng = random.Random(count)
    bits = [rng.randrange(8 * info.size_bytes) for _ in range(count)]
    assert flip_and_read(folder, info, bits, read) > count // 3


@pytest.mark.parametrize("every", [41, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "name", [HANDLE, COMMIT_TS, OP, PREVIOUS_FILE, *(f"c{n}" for n in range(1, 7))]
)
def test_flipped_bits_of_the_headers_of_pages(
    large: tuple[Path, DataFile], name: str, every: int
) -> None:
    """Page headers have no checksum; the column is read alone."""
    folder, info = large
    metadata = pq.read_metadata(folder / info.path)
    paths = [metadata.row_group(0).column(n).path_in_schema for n in range(metadata.num_columns)]
    (at,) = [n for n, path in enumerate(paths) if path.split(".")[0] == name]
    starts = [
        start
        for group in range(metadata.num_row_groups)
        for chunk in [metadata.row_group(group).column(at)]
        for start in (chunk.dictionary_page_offset, chunk.data_page_offset)
        if start is not None
    ]
    assert len(starts) >= metadata.num_row_groups > 1
    bits = [bit for start in starts for bit in range(8 * start, 8 * (start + 40), every)]

    def read(folder: Path, info: DataFile) -> pa.Table:
        return read_columns(folder, info, [name])

    assert flip_and_read(folder, info, bits, read) > len(bits) // 6


@pytest.mark.parametrize("rows", [30, 60_000])
def test_cut_missing_and_exchanged_files(tmp_path: Path, rows: int) -> None:
    info, other = write(tmp_path, rows), write(tmp_path, rows + 1, number=2)
    path = tmp_path / info.path
    content = path.read_bytes()
    for size in (0, 3, 8, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(CorruptionError, match=f"has {size} bytes"):
            visible(tmp_path, info)
    path.write_bytes(content + b"\0")
    with pytest.raises(CorruptionError, match="bytes, not"):
        visible(tmp_path, info)
    path.unlink()
    with pytest.raises(CorruptionError, match="is missing"):
        visible(tmp_path, info)
    path.write_bytes((tmp_path / other.path).read_bytes()[: len(content)].ljust(len(content)))
    with pytest.raises(CorruptionError, match="fails its checksum"):
        visible(tmp_path, info)
    path.unlink()
    path.mkdir()
    with pytest.raises((CorruptionError, EngineError)):
        visible(tmp_path, info)


def test_no_file_stays_open(tmp_path: Path) -> None:
    files = [write(tmp_path, 30), write(tmp_path, 60_000, number=2)]
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else None
    for info in files:
        visible(tmp_path, info)
        next(scan(tmp_path, info))
        with open_file(tmp_path, info) as opened:
            opened.read_row_group(0)
    if before is not None:
        assert len(os.listdir("/proc/self/fd")) == before


def test_others_can_read_the_files(tmp_path: Path) -> None:
    """A data file is ordinary Parquet whose columns have TiDB's ids as field ids."""
    info = write(tmp_path, 30)
    table = pq.read_table(tmp_path / info.path)
    assert table.equals(versions(30).cast(table.schema))
    assert table.schema.field("c2").metadata[b"PARQUET:field_id"] == b"2"
    assert [f.metadata for f in table.schema if f.name in file_module.SYSTEM_COLUMNS] == [None] * 7


def test_a_null_that_comes_late(tmp_path: Path) -> None:
    """A column without NULLs is REQUIRED; a later NULL causes a rewrite."""
    pieces = [versions(rows) for rows in (ROW_GROUP_ROWS, ROW_GROUP_ROWS, 1000)]
    filled = [piece.set_column(7, "c1", pc.fill_null(piece["c1"], 0)) for piece in pieces]
    handles = [pa.array(np.arange(len(p)) + n * ROW_GROUP_ROWS) for n, p in enumerate(pieces)]
    for last, nullable in ((filled[2], set()), (pieces[2], {"c1", "c2"})):
        encoder = FileEncoder(FileKind.STABLE)
        added = [
            piece.set_column(0, HANDLE, handle)
            for piece, handle in zip([*filled[:2], last], handles, strict=True)
        ]
        for piece in added:
            encoder.add(piece)
        encoded = encoder.finish(number=1, physical_id=TABLE)
        (tmp_path / encoded.info.path).parent.mkdir(exist_ok=True)
        (tmp_path / encoded.info.path).write_bytes(encoded.data)
        schema = pq.read_schema(tmp_path / encoded.info.path)
        assert {f.name for f in schema if f.nullable and f.name in ("c1", "c2")} == nullable
        stored, wanted = everything(tmp_path, encoded.info), pa.concat_tables(added)
        assert stored.equals(wanted.select(stored.column_names).cast(stored.schema))
        assert encoded.info.rows == len(wanted)
