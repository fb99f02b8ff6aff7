"""Cached files are read once, and scans return the same rows with and without the cache."""

import os
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pyspark_theflash.base.errors import CorruptionError
from pyspark_theflash.base.lru import LeastRecent
from pyspark_theflash.storage.engine.magic import encode, file_cache
from pyspark_theflash.storage.engine.magic import file as file_module
from pyspark_theflash.storage.engine.magic.encode import ROW_GROUP_ROWS
from pyspark_theflash.storage.engine.magic.file import DataFile, FileKind
from pyspark_theflash.storage.engine.magic.file_cache import FileCache, opened
from pyspark_theflash.storage.mvcc.version import Op
from tests.support.data_files import encode_file
from tests.unit.storage.engine.magic.test_data_files import TABLE, versions, write


def read(cache: FileCache, folder: Path, info: DataFile, *names: str) -> pa.Table:
    """Columns of all row groups."""
    with opened(cache, folder, info, ["c2"]) as file:
        groups = range(len(file.footer.group_rows))
        return pa.concat_tables([file.read(group, names) for group in groups])


def test_a_small_file_is_read_once(tmp_path: Path) -> None:
    info, cache = write(tmp_path, 1000), FileCache()
    first = read(cache, tmp_path, info, "c1", "c2")
    (tmp_path / info.path).unlink()
    assert read(cache, tmp_path, info, "c2", "c1").equals(first.select(["c2", "c1"]))
    with pytest.raises(CorruptionError, match="is missing"):
        read(cache, tmp_path, info, "c1", "_op")


def test_so_is_a_delta(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that is not small, because the scan of every region reads it."""
    monkeypatch.setattr(file_module, "WHOLE_CHECK_BYTES", 0)
    info, cache = write(tmp_path, 1000, kind=FileKind.DELTA), FileCache()
    first = read(cache, tmp_path, info, "c1", "c2")
    (tmp_path / info.path).unlink()
    assert read(cache, tmp_path, info, "c1", "c2").equals(first)


def test_row_groups_of_a_delta_are_read_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are small for the sake of merges; a scan returns a batch for each row group."""
    whole = read(FileCache(), tmp_path, write(tmp_path, 1000, kind=FileKind.DELTA), "c1", "c2")
    monkeypatch.setattr(encode, "DELTA_GROUP_BYTES", 10_000)
    info = write(tmp_path, 1000, kind=FileKind.DELTA)
    assert pq.ParquetFile(tmp_path / info.path).num_row_groups > 3
    with opened(FileCache(), tmp_path, info, ["c2"]) as file:
        assert file.footer.group_rows == [1000]
        assert file.read(0, ["c1", "c2"]).equals(whole)
    monkeypatch.setattr(file_cache, "DELTA_BYTES", 0)
    monkeypatch.setattr(file_module, "WHOLE_CHECK_BYTES", 0)
    with opened(FileCache(), tmp_path, info, ["c2"]) as file:
        assert len(file.footer.group_rows) > 3


def test_strings_stay_as_they_are_written(tmp_path: Path) -> None:
    info, cache = write(tmp_path, 1000), FileCache()
    for _ in range(2):
        assert pa.types.is_dictionary(read(cache, tmp_path, info, "c2").schema.field("c2").type)


def test_the_rows_of_a_large_file_are_checked_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_module, "WHOLE_CHECK_BYTES", 0)
    info, cache = write(tmp_path, ROW_GROUP_ROWS + 10), FileCache()
    first = read(cache, tmp_path, info, "c1")
    assert len(first) == info.rows
    assert read(cache, tmp_path, info, "c1").equals(first)
    with open(tmp_path / info.path, "r+b") as file:
        file.seek(info.size_bytes // 3)
        damaged = file.read(20_000)
        file.seek(info.size_bytes // 3)
        file.write(bytes(byte ^ 1 for byte in damaged))
    with pytest.raises(CorruptionError):
        read(cache, tmp_path, info, "_commit_ts", "_start_ts", "c1", "c2")
    os.truncate(tmp_path / info.path, info.size_bytes - 1)
    with pytest.raises(CorruptionError, match="bytes, not"):
        read(cache, tmp_path, info, "c1")


def test_what_was_asked_for_least_lately_is_forgotten_first() -> None:
    cache = LeastRecent[str, int](10)
    for at, name in enumerate("abc"):
        cache.put(name, at, 3)
    assert cache.get("a") == 0
    cache.put("d", 3, 3)
    assert [cache.get(name) for name in "abcd"] == [0, None, 2, 3]
    cache.put("a", 9, 1)
    assert cache.get("a") == 0
    cache.put("e", 4, 11)
    assert [cache.get(name) for name in "abcde"] == [None] * 5


def test_columns_without_null_are_known_by_the_footer(tmp_path: Path) -> None:
    table = versions(50)
    is_delete = table["_op"].to_numpy() == Op.DELETE
    once = is_delete.copy()
    once[np.flatnonzero(~is_delete)[0]] = True
    table = table.append_column("c3", pa.array(["w"] * 50, mask=is_delete))
    table = table.append_column("c4", pa.array(["w"] * 50, mask=once))
    table = table.append_column("c5", pa.array(["w"] * 50, mask=once & ~is_delete))
    encoded = encode_file(table, number=1, physical_id=TABLE, kind=FileKind.DELTA)
    (tmp_path / encoded.info.path).parent.mkdir()
    (tmp_path / encoded.info.path).write_bytes(encoded.data)
    with opened(FileCache(), tmp_path, encoded.info) as file:
        never_null = file.footer.never_null
    assert is_delete.any()
    assert "c3" in never_null
    assert never_null.isdisjoint({"c4", "c5"})


@pytest.mark.parametrize(("asks_first", "least", "most"), [(True, 0.4, 0.5), (False, 0.0, 0.0)])
def test_one_of_several_is_admitted_where_others_have_to_go(
    asks_first: bool, least: float, most: float
) -> None:
    """There is room for half of the columns that are read repeatedly, and most of these stay."""
    cache, hits, rounds = LeastRecent[int, int](100), 0, 30
    for key in (*range(200),) * rounds:
        if cache.get(key) is not None:
            hits += 1
        elif not asks_first or cache.admits(1):
            cache.put(key, key, 1)
    assert least <= hits / (200 * rounds) <= most


def test_numbers_that_are_looked_at_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_module, "WHOLE_CHECK_BYTES", 0)
    table, cache = versions(1000), FileCache()
    price = pa.array([Decimal(n) for n in range(1000)], pa.decimal128(15, 2))
    table = table.append_column("c3", price)
    table = table.append_column("c4", pa.array([f"once {n}" for n in range(1000)]))
    encoded = encode_file(table, number=1, physical_id=TABLE, kind=FileKind.STABLE)
    (tmp_path / encoded.info.path).parent.mkdir()
    (tmp_path / encoded.info.path).write_bytes(encoded.data)
    with opened(cache, tmp_path, encoded.info, ["c2"]) as file:
        file.read(0, ["c3", "c4"])
        first = file.read(0, ["c1", "c2", "c3", "c4"], as_stored=True)
    assert first.schema.field("c3").type == pa.decimal32(9, 2)
    assert first.column("c3").to_pylist() == price.to_pylist()
    (tmp_path / encoded.info.path).unlink()
    with opened(cache, tmp_path, encoded.info, ["c2"]) as file:
        again = file.read(0, ["c1", "c2", "c3"], as_stored=True)
        assert again.equals(first.select(["c1", "c2", "c3"]))
    for names, as_stored in ((["c3"], False), (["c4"], True)):
        with (
            pytest.raises(CorruptionError, match="is missing"),
            opened(cache, tmp_path, encoded.info, ["c2"]) as file,
        ):
            file.read(0, names, as_stored=as_stored)
