"""File numbers increase across publications, merges and reopening."""

from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pytest

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.base.types import ColumnID, Generation, PhysicalTableID, TimeStamp
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.storage.engine.api import Publication, ScanSpec, VersionBatch
from pyspark_theflash.storage.engine.magic.engine import MagicEngine
from pyspark_theflash.storage.engine.magic.file import number_of
from pyspark_theflash.storage.engine.magic.numbers import BLOCK, FileNumbers
from pyspark_theflash.storage.mvcc.project import Default, ScanColumn
from pyspark_theflash.storage.mvcc.version import Op
from pyspark_theflash.storage.store.manifest import ManifestChange
from pyspark_theflash.testing.histories import version_batch

TABLE = PhysicalTableID(7)
VALUE = ScanColumn(ColumnID(1), pa.int64(), Default(pa.scalar(None, pa.int64())))


def opened(path: Path) -> MagicEngine:
    return MagicEngine(path, LocalFileSystem(), SystemClock())


def put(engine: MagicEngine, ts: int, value: int) -> None:
    batch = version_batch([(1, ts, ts - 1, int(Op.PUT), value)], [(VALUE.id, VALUE.type)])
    engine.publish(Publication([VersionBatch(TABLE, batch)], ManifestChange()))


def numbers(engine: MagicEngine) -> list[int]:
    return sorted(number_of(f.path) for f in engine.files(engine.read([]), TABLE))


def values(engine: MagicEngine, ts: int) -> list[object]:
    (region,) = engine.plan(engine.read([]), TABLE)
    batches = engine.scan(region, ScanSpec([VALUE], TimeStamp(ts)))
    return [value for batch in batches for value in batch.column(0).to_pylist()]


@pytest.mark.parametrize("begins_transactions", [True, False])
def test_numbers_grow_across_openings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begins_transactions: bool
) -> None:
    """Also if more numbers were reserved than one generation has."""
    registry.create(tmp_path / "store", registry.MAGIC, LocalFileSystem())
    with closing(opened(tmp_path / "store")) as engine:
        put(engine, 10, 1)
        for _ in range(100):
            if begins_transactions:
                assert engine.begin(TABLE, [VALUE]) is None
            else:
                engine._numbers.block()
        put(engine, 20, 2)
        before = numbers(engine)
    with closing(opened(tmp_path / "store")) as engine:
        put(engine, 30, 3)
        after = numbers(engine)
        assert after[:-1] == before
        assert [values(engine, ts) for ts in (10, 20, 30)] == [[1], [2], [3]]
        engine.compact(TABLE, [VALUE], everything=True)
        assert [values(engine, ts) for ts in (10, 20, 30)] == [[1], [2], [3]]


def test_a_block_is_nobody_elses() -> None:
    file_numbers = FileNumbers()
    file_numbers.advance(Generation(3))
    block = file_numbers.block()
    later = file_numbers.take()
    assert [next(block), next(block)] == [4 << 24, (4 << 24) + 1]
    assert later == (4 << 24) + BLOCK
    file_numbers.advance(Generation(3))
    assert file_numbers.take() == later + 1
