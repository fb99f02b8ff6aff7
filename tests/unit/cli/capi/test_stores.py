"""The Python side of the C library."""

import base64
import itertools
import json

import pyarrow as pa
import pytest

from pyspark_theflash.base.errors import (
    CodecError,
    OptionError,
    StoreNotFoundError,
    TableNotFoundError,
    UnknownMethodError,
)
from pyspark_theflash.cli.capi.stores import OpenStores
from pyspark_theflash.testing.stores import StoreBuilder, column, id_column, table_info
from pyspark_theflash.tidb.codec.field_type import MySQLType

ITEMS = table_info(7, "shop.items", [id_column(), column("n", MySQLType.LONG)])


@pytest.fixture
def shop(tmp_path):
    return StoreBuilder(tmp_path / "shop", ITEMS).publish(
        200, {ITEMS: [(n, 150, (n, n * n)) for n in range(5)]}
    )


@pytest.fixture
def opened(shop):
    stores = OpenStores()
    return stores, stores.open(str(shop.path), "")


def test_read_is_all_rows(opened):
    stores, number = opened
    rows = stores.read(number, '{"table": "shop.items", "columns": ["n"]}').read_all()
    assert sorted(rows["n"].to_pylist()) == [0, 1, 4, 9, 16]
    latches = json.loads(stores.call(number, "ListLatches", "", 0)).get("latches", [])
    assert latches == []


def test_a_given_snapshot_stays(opened):
    stores, number = opened
    snapshot = json.loads(stores.call(number, "TakeSnapshot", "", 0))
    request = {"table": "shop.items", "moment": {"handle": snapshot["handle"]}}
    assert stores.read(number, json.dumps(request)).read_all().num_rows == 5
    (latch,) = json.loads(stores.call(number, "ListLatches", "{}", 0))["latches"]
    assert latch["id"] == snapshot["latchId"]


def test_a_plan_and_its_splits_are_the_same_rows(opened):
    stores, number = opened
    plan = json.loads(stores.call(number, "PlanScan", '{"table": "shop.items"}', 0))
    (split,) = plan["splits"]
    rows = stores.scan(number, split["ticket"], dictionaries=False).read_all()
    assert sorted(rows["id"].to_pylist()) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("[1]", "are not a JSON object of strings"),
        ("{", "are not JSON"),
        ('{"a": "b"}', "is not one of token_file, tls_ca"),
        ('{"tls_ca": 1}', "are not a JSON object of strings"),
        ('{"tls_cert": "x"}', "is needed with tls_cert and tls_key"),
    ],
)
def test_options_that_are_none(shop, options, said):
    with pytest.raises(OptionError, match=said):
        OpenStores().open(str(shop.path), options)


def test_what_is_not_there(opened, tmp_path):
    stores, number = opened
    with pytest.raises(StoreNotFoundError):
        stores.open(str(tmp_path / "none"), "{}")
    with pytest.raises(TableNotFoundError):
        stores.read(number, '{"table": "shop.none"}')
    with pytest.raises(UnknownMethodError):
        stores.call(number, "Nothing", "", 0)
    with pytest.raises(CodecError):
        stores.call(number, "GetStatus", "{", 0)
    with pytest.raises(OptionError, match="theflash_scan"):
        stores.call(number, "Scan", "{}", 0)
    with pytest.raises(CodecError, match="not base64"):
        stores.scan(number, "é", dictionaries=False)
    with pytest.raises(Exception, match="not issued"):
        stores.scan(number, base64.b64encode(bytes(80)).decode(), dictionaries=False)


def test_a_closed_store_is_told(opened):
    stores, number = opened
    stores.close(number)
    with pytest.raises(OptionError, match=f"{number} is not open"):
        stores.call(number, "GetStatus", "", 0)
    with pytest.raises(OptionError):
        stores.close(number)


def test_a_write_is_bounded_as_it_comes(opened, monkeypatch):
    """A stream without an end is not read to its end."""
    stores, number = opened
    monkeypatch.setattr("pyspark_theflash.service.api.write.WRITE_BYTES_MAX", 1 << 10)
    batch = pa.RecordBatch.from_pydict({"_handle": pa.array(range(16), pa.int64())})
    taken = itertools.count()

    def endless():
        while next(taken) < 1_000:
            yield batch

    stream = pa.RecordBatchReader.from_batches(batch.schema, endless())
    with pytest.raises(OptionError, match="more than 1024 bytes of rows"):
        stores.write(number, '{"tables": [{"tableId": "7"}]}', [stream], 0)
    assert next(taken) < 20
