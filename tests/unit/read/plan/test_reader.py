"""A table as an Arrow stream, and the lifetime of its latch."""

from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pytest

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.errors import CorruptionError, LeaseExpiredError
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.read.plan.snapshot import ReadSnapshot, open_snapshot
from pyspark_theflash.read.present import TEXT
from pyspark_theflash.storage.store.folder import open_manifest
from pyspark_theflash.storage.store.latch.lease import LEASE_TTL_MS, LeaseTable
from pyspark_theflash.storage.store.latch.readers_lock import exclusive_readers_lock
from pyspark_theflash.storage.store.manifest import Manifest
from pyspark_theflash.testing.stores import StoreBuilder, column, id_column, table_info
from pyspark_theflash.tidb.codec.field_type import MySQLType
from tests.support.manual_clock import ManualClock

TABLE = table_info(
    7,
    "shop.item",
    [
        id_column(),
        column("size", MySQLType.ENUM, elems=["s", "l"]),
        column("bits", MySQLType.BIT, flen=9),
    ],
)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    builder = StoreBuilder(tmp_path / "store", TABLE)
    items = [(1, 150, [1, 2, 257]), (2, 150, [2, None, 0]), (2, 250, None)]
    return builder.publish(300, {TABLE: items}).path


def latches(store: Path) -> int:
    with closing(open_manifest(store, LocalFileSystem())) as manifest:
        return len(LeaseTable(manifest, SystemClock()).living())


def test_columns_come_as_they_are_presented(store: Path) -> None:
    with open_snapshot(store) as snapshot:
        relation = snapshot.reader("shop.item")
        rows = [{"id": 1, "size": "l", "bits": b"\x01\x01"}]
        assert pa.table(relation).to_pylist() == rows
        assert pa.table(relation).schema == relation.schema == pa.schema(relation)
        as_text = snapshot.reader("shop.item", ["bits", "id"], TEXT)
        assert pa.table(as_text).to_pylist() == [{"bits": b"\x01\x01", "id": "1"}]
        assert pa.table(snapshot.reader("shop.item", where="id > 1")).num_rows == 0


def test_duckdb_and_pyarrow_take_it(store: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    with open_snapshot(store) as snapshot, duckdb.connect() as connection:
        relation = snapshot.reader("shop.item", ["id", "size"])
        connection.register("item", relation)
        assert connection.sql("SELECT size FROM item WHERE id = 1").fetchall() == [("l",)]
        assert relation.to_reader().read_all().column("id").to_pylist() == [1]


def test_the_latch_lives_as_long_as_the_last_stream(store: Path) -> None:
    with open_snapshot(store) as snapshot:
        relation = snapshot.reader("shop.item")
        first, second = relation.to_reader(), relation.to_reader()
    assert latches(store) == 1
    assert first.read_all().num_rows == 1
    assert latches(store) == 1
    del second
    assert latches(store) == 0


def test_a_stream_begun_too_late_is_refused(store: Path) -> None:
    with open_snapshot(store) as snapshot:
        relation = snapshot.reader("shop.item")
    with pytest.raises(LeaseExpiredError):
        relation.to_reader()


def test_a_stream_that_fails_lets_go(store: Path) -> None:
    with open_snapshot(store) as snapshot:
        reader = snapshot.reader("shop.item").to_reader()
        for file in (store / "data").rglob("*.parquet"):
            file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(CorruptionError):
        reader.read_all()
    assert latches(store) == 0


def test_reading_renews_the_latch(store: Path) -> None:
    clock = ManualClock()
    with ReadSnapshot(store, None, LocalFileSystem(), clock) as snapshot:
        for _ in range(4):
            clock.now_ms += LEASE_TTL_MS // 2
            assert pa.table(snapshot.reader("shop.item")).num_rows == 1
        reader = snapshot.reader("shop.item").to_reader()
        clock.now_ms += LEASE_TTL_MS
        with pytest.raises(LeaseExpiredError):
            reader.read_all()


def test_a_folder_that_takes_no_latch_is_pinned_by_each_stream(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Manifest, "is_writable", False)
    with open_snapshot(store) as snapshot:
        reader = snapshot.reader("shop.item").to_reader()
    with exclusive_readers_lock(store) as alone:
        assert not alone
    assert reader.read_all().num_rows == 1
    with exclusive_readers_lock(store) as alone:
        assert alone
