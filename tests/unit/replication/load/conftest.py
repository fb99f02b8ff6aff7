"""A fake TiKV with rows of some tables in several regions, and loads from it."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.cluster.pd import PDClient
from pyspark_theflash.cluster.tikv.client import TiKVClient
from pyspark_theflash.replication.load.load import FirstLoad
from pyspark_theflash.replication.load.scan import (
    ClusterAddress,
    LoadPiece,
    LoadRequest,
    PieceReader,
)
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.storage.engine.api import Engine
from pyspark_theflash.testing.stores import column, id_column, table_info
from pyspark_theflash.tidb.codec.field_type import MySQLType
from pyspark_theflash.tidb.codec.key import RawKey, encode_record_key
from pyspark_theflash.tidb.schema.history import SchemaHistory, TableEvent
from pyspark_theflash.tidb.schema.model import TableInfo
from tests.support.fake_tikv import CLUSTER, FakeTiKV
from tests.support.row_oracle import encode_row_v2

CLOCK, FS = SystemClock(), LocalFileSystem()
NAMES = ("shop.a", "shop.b", "shop.empty", "other.c")
TABLES = [
    table_info(number, name, [id_column(), column("v", MySQLType.VARCHAR)])
    for number, name in enumerate(NAMES, 10)
]
TYPES = {2: TABLES[0].columns[1].type}


class Threads:
    """Readers in threads of this process."""

    def __init__(self, client: TiKVClient, count: int, request: LoadRequest) -> None:
        self._reader = PieceReader(client, dict(request.tables), request.ts, request.piece_bytes)
        self._threads = ThreadPoolExecutor(count)

    def read(self, start: RawKey, end: RawKey) -> "Future[LoadPiece]":
        return self._threads.submit(self._reader.read, start, end)

    def close(self) -> None:
        self._threads.shutdown(cancel_futures=True)


@pytest.fixture
def tikv() -> Iterator[FakeTiKV]:
    with FakeTiKV() as fake:
        yield fake


@pytest.fixture
def client(tikv: FakeTiKV) -> Iterator[TiKVClient]:
    with (
        PDClient([tikv.pd.address], clock=CLOCK, timeout_ms=5000) as pd,
        TiKVClient(pd, clock=CLOCK) as client,
    ):
        yield client


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    identity = registry.create(tmp_path / "store", registry.MAGIC, FS)
    with closing(registry.open_engine(tmp_path / "store", identity, FS, CLOCK)) as engine:
        yield engine


def key(table: TableInfo, handle: int) -> bytes:
    return bytes(encode_record_key(table.physical_ids[0], handle))


def row(text: str) -> bytes:
    return encode_row_v2({2: text}, TYPES)


def history(ts: int, tables: list[TableInfo] = TABLES) -> SchemaHistory:
    events = [TableEvent(TimeStamp(ts), t.db, t.id, t) for t in tables]
    return SchemaHistory(TimeStamp(ts), TimeStamp(ts), events, ())


def filled(tikv: FakeTiKV) -> TimeStamp:
    """Write rows of three tables, in several regions, with later versions; return the timestamp."""
    a, b, _, c = TABLES
    tikv.put({key(a, n): row(f"old {n}") for n in range(-20, 400)})
    tikv.put({key(b, 7): row("b"), key(c, 1): row("c"), key(a, 5): None})
    ts = tikv.put({key(a, n): row(f"new {n}") for n in range(100)})
    later: dict[bytes, bytes | None] = {key(a, n): row("later") for n in range(50)}
    tikv.put({**later, key(a, 300): None, key(b, 8): row("")})
    for split in (key(a, -3), key(a, 250), key(b, 0)[:-4], key(c, 0)):
        tikv.cluster.split(split)
    return ts


def expected() -> dict[int, str]:
    """The rows of shop.a at the timestamp."""
    return {n: f"old {n}" for n in range(-20, 400)} | {n: f"new {n}" for n in range(100)}


def first_load(engine: Engine, client: TiKVClient, tikv: FakeTiKV, processes: int = 2) -> FirstLoad:
    cluster = ClusterAddress((tikv.pd.address,))
    pool = partial(Threads, client)
    return FirstLoad(engine, client, cluster, CLUSTER, clock=CLOCK, pool=pool, processes=processes)
