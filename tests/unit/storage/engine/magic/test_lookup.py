"""The handle lookup: correct, with few reads and bounded memory."""

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pyspark_theflash.base.types import PhysicalTableID
from pyspark_theflash.storage.engine.api import VersionBatch
from pyspark_theflash.storage.engine.magic import lookup as lookup_module
from pyspark_theflash.storage.engine.magic.delta import delta_table
from pyspark_theflash.storage.engine.magic.file import DataFile, FileKind
from pyspark_theflash.storage.engine.magic.lookup import HandleLookup
from pyspark_theflash.storage.mvcc.version import Op
from pyspark_theflash.testing.histories import COLUMNS, version_batch
from tests.support.data_files import encode_file

TABLE = PhysicalTableID(1)


class Files:
    """Deltas on disk, and which of them have been read."""

    def __init__(self, folder: Path, budget_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder = folder
        self.lookup = HandleLookup(folder, budget_bytes)
        self.files: list[DataFile] = []
        self.read: list[int] = []
        (folder / str(TABLE)).mkdir()
        original = lookup_module.read_columns

        def read_columns(folder: Path, info: DataFile, names: Sequence[str]) -> pa.Table:
            self.read.append(info.number)
            return original(folder, info, names)

        monkeypatch.setattr(lookup_module, "read_columns", read_columns)

    def write(self, handles: Sequence[int], ts: int, op: Op = Op.PUT) -> pa.Table:
        """Write a delta with one version per handle; return its rows."""
        rows = [(handle, ts, ts - 1, int(op), None, None) for handle in handles]
        versions = VersionBatch(TABLE, version_batch(rows, COLUMNS))
        table = delta_table(versions, self.files, self.lookup)
        number = len(self.files) + 1
        encoded = encode_file(table, number=number, physical_id=TABLE, kind=FileKind.DELTA)
        (self._folder / encoded.info.path).write_bytes(encoded.data)
        self.files.append(encoded.info)
        return table

    def place(self, handle: int) -> tuple[int, int] | None:
        """Return the file and row of a live handle."""
        places = self.lookup.find(self.files, pa.array([handle]))
        return (int(places.files[0]), int(places.rows[0])) if places.is_live[0] else None


def test_growing_handles_read_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = Files(tmp_path, 1 << 20, monkeypatch)
    for start in range(0, 1000, 50):
        files.write(range(start, start + 50), 10)
    assert files.read == []
    files.write([-1, 975, 1001], 20)
    assert files.read == [20]


def test_the_newest_file_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = Files(tmp_path, 1 << 20, monkeypatch)
    files.write([1, 2, 3], 10)
    files.write([0, 2], 20)
    files.write([2, 9], 30, Op.DELETE)
    assert [files.place(handle) for handle in (0, 1, 2, 3, 4, 9)] == [
        (2, 0),
        (1, 0),
        None,
        (1, 2),
        None,
        None,
    ]
    files.write([2], 40)
    assert files.place(2) == (4, 0)


def test_what_is_kept_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random updates of more handles than fit: the same results with repeated reads."""
    budget = 8 * 300
    files, model = Files(tmp_path, budget, monkeypatch), dict[int, tuple[int, int]]()
    rng = random.Random(4)
    for number in range(1, 40):
        handles = sorted(rng.sample(range(400), rng.choice([3, 100])))
        op = rng.choice([Op.PUT, Op.PUT, Op.DELETE])
        table = files.write(handles, number * 10, op)
        expected = [model.get(handle) for handle in handles]
        got = zip(
            table.column("_previous_file").to_pylist(),
            table.column("_previous_row").to_pylist(),
            strict=True,
        )
        assert [None if file is None else (file, row) for file, row in got] == expected
        for row, handle in enumerate(handles):
            model.pop(handle, None)
            if op is Op.PUT:
                model[handle] = number, row
        cached = files.lookup._cached
        assert all(size == loaded.nbytes for size, loaded in cached._entries.values())
        assert 0 <= cached._free == budget - sum(s for s, _ in cached._entries.values())
    assert len(files.read) > len(set(files.read))


def test_forgotten_files_are_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = Files(tmp_path, 1 << 20, monkeypatch)
    files.write(range(100), 10)
    assert files.place(5) == (1, 5)
    files.lookup.forget([1, 77])
    assert files.lookup._cached._free == 1 << 20
    places = files.lookup.find([], pa.array(np.arange(5)))
    assert not places.is_live.any()
