"""The plans that a service keeps for the splits of a scan need bounded memory."""

import gc
import tracemalloc
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.read.plan.snapshot import ReadSnapshot
from pyspark_theflash.service.api import reads
from pyspark_theflash.service.client.theflash import TheFlash
from pyspark_theflash.service.client.transport import LocalTransport
from pyspark_theflash.service.wire import message
from pyspark_theflash.testing.stores import StoreBuilder, column, id_column, table_info
from pyspark_theflash.tidb.codec.field_type import MySQLType
from pyspark_theflash.tidb.schema import model

TABLE = table_info(7, "shop.item", [id_column(), column("n", MySQLType.LONGLONG)])
ROWS = 10


@pytest.fixture
def path(tmp_path: Path) -> Path:
    rows = [(n, 150, [n, n]) for n in range(ROWS)]
    return StoreBuilder(tmp_path / "store", TABLE).publish(200, {TABLE: rows}).path


def opened(path: Path) -> Any:
    transport = LocalTransport(path, fs=LocalFileSystem(), clock=SystemClock())
    return closing(TheFlash(transport))


def number(value: int) -> message.Expression:
    literal = message.Literal(type="int", text=str(value))
    return message.Expression(name="literal", literal=literal)


def large(api: TheFlash, first: int) -> message.Plan:
    """A plan of about 1 MB."""
    choices = (number(first + n) for n in range(4_000))
    tested = message.Expression(name="column", column="n")
    filter = message.Expression(name="in", arguments=(tested, *choices))
    return api.plan("shop.item", ["id"], filter=filter)


def test_memory_of_recent_plans(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reads, "_PLANS_BYTES", 3 << 19)
    with opened(path) as api:
        large(api, 1)
        gc.collect()
        tracemalloc.start()
        try:
            for first in range(2, 8):
                large(api, first)
            gc.collect()
            size_bytes, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert 1 << 19 < size_bytes < 4 << 20


def test_memory_of_plans_with_rows(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reads, "_PLANS_BYTES", 1 << 20)
    monkeypatch.setattr(ReadSnapshot, "_stated", lambda *_: bytes(100_000))
    with opened(path) as api:
        tracemalloc.start()
        try:
            for limit in range(1, 50):
                api.plan("shop.item$schemas", ["since_ts"], limit=limit)
            gc.collect()
            size_bytes, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert 1 << 19 < size_bytes < 2 << 20


def test_splits_of_a_plan_that_is_not_kept(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reads, "_PLANS_BYTES", 1)
    with opened(path) as api:
        for first in range(3):
            rows = sum(batch.num_rows for batch in api.read(large(api, first)))
            assert rows == ROWS - first


@pytest.mark.parametrize(
    "properties", [{"elems": ["x" * 1000]}, {"charset": "y" * 1000}, {"collate": "z" * 1000}]
)
def test_long_types_are_not_cached(properties: Any) -> None:
    before = model._field_type.cache_info()
    table_info(9, "shop.long", [column("e", MySQLType.ENUM, **properties)])
    assert model._field_type.cache_info() == before
