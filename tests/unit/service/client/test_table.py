"""A table as a lazy stream of Arrow."""

from datetime import datetime, timezone
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

import pyspark_theflash
from pyspark_theflash.errors import NotCaughtUpError, OptionError, TableNotFoundError
from pyspark_theflash.service.client.theflash import TheFlash, connect
from pyspark_theflash.testing.stores import StoreBuilder, column, id_column, table_info
from pyspark_theflash.tidb.codec.field_type import MySQLType

TABLE = table_info(7, "db.t", [id_column(), column("name", MySQLType.VARCHAR)])


@pytest.fixture
def store(tmp_path: Path) -> TheFlash:
    made = StoreBuilder(tmp_path / "store", TABLE)
    made.publish(200, {TABLE: [(1, 110, [1, "one"]), (2, 120, [2, "two"])]})
    made.publish(300, {TABLE: [(1, 210, [1, "uno"]), (2, 220, None)]})
    with connect(str(made.path)) as opened:
        yield opened


def test_consumers(store: TheFlash) -> None:
    table = rows = store.table("db.t").at("200")  # noqa: F841 (DuckDB finds it)
    assert table.to_arrow().to_pydict() == {"id": [1, 2], "name": ["one", "two"]}
    assert pa.table(table.select("name")).to_pydict() == {"name": ["one", "two"]}
    assert table.where("id > 1").to_pandas()["name"].tolist() == ["two"]
    assert duckdb.sql("SELECT sum(id) FROM rows").fetchall() == [(3,)]
    assert pa.schema(table).names == table.schema.names == ["id", "name"]
    assert store.table("db.t").to_arrow().to_pydict() == {"id": [1], "name": ["uno"]}


def test_reads_end_their_latches(store: TheFlash) -> None:
    table = store.table("db.t")
    for _ in range(2):
        table.to_arrow()
        table.schema  # noqa: B018
    with table.to_reader():
        pass
    assert store.latches().latches == ()


def test_nothing_is_read_before_it_is_needed(store: TheFlash) -> None:
    missing, later = store.table("db.none"), store.table("db.t").at(301)
    with pytest.raises(TableNotFoundError):
        missing.to_reader()
    with pytest.raises(NotCaughtUpError):
        later.to_arrow()
    with pytest.raises(OptionError, match="snapshot_ts"):
        store.table("db.t").at(datetime(2026, 1, 1))


def test_reprs_are_one_line(store: TheFlash, tmp_path: Path) -> None:
    path = tmp_path / "store"
    assert repr(store) == f"<store {path}>"
    assert repr(store.table("db.t")) == f"<table db.t at the newest of <store {path}>>"
    time = datetime(1970, 1, 1, tzinfo=timezone.utc)
    assert repr(store.table("db.t").at(time)) == f"<table db.t at 0 of <store {path}>>"
    assert repr(connect("theflash://h:1", token="x" * 16)) == "<store h:1>"
    with pyspark_theflash.open_snapshot(str(path), "200") as snapshot:
        assert repr(snapshot) == f"<snapshot of {path} at 200 (1970-01-01T00:00:00.000Z)>"
