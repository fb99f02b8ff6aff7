"""Comparisons of a store with a fake TiKV."""

import json

import pytest

from pyspark_theflash.cli.main import main
from pyspark_theflash.read.plan.snapshot import open_snapshot
from pyspark_theflash.replication.load import verify
from pyspark_theflash.replication.load.verify import TableCheck
from pyspark_theflash.storage.store.scope import TableScope
from pyspark_theflash.testing.stores import column, table_info
from pyspark_theflash.tidb.codec.bytes import encode_bytes
from pyspark_theflash.tidb.codec.field_type import MySQLType
from pyspark_theflash.tidb.codec.key import encode_record_key
from pyspark_theflash.tidb.schema.model import parse_table_info
from tests.support.row_oracle import encode_row_v2
from tests.unit.replication.load.conftest import TABLES, filled, first_load, history, key

A = TABLES[0]


@pytest.fixture
def store(tikv, client, engine, tmp_path):
    load = first_load(engine, client, tikv)
    load.begin(history(filled(tikv)), TableScope(("shop.*",)))
    load.run(lambda _: None)
    load.end()
    return tmp_path / "store"


def damage(tikv):
    """Let TiKV have other rows than the store."""
    records = tikv.cluster.tikv.records
    del records[key(A, 7)]
    records[key(A, 1000)] = records[key(A, 5)]
    records[key(A, 380)] = records[key(A, 390)]


def differences(store, client):
    with open_snapshot(store) as snapshot:
        return TableCheck(snapshot, client, snapshot.table("shop.a")).run()


def test_the_same_rows(store, client):
    assert differences(store, client) == []


def test_rows_that_differ_are_named(tikv, store, client):
    damage(tikv)
    first, second = differences(store, client)
    assert (first.start, first.end, first.rows_here, first.rows_in_tikv) == (-3, 250, 253, 252)
    assert (first.missing, first.extra, first.changed) == ([], [7], [])
    assert (second.start, second.end, second.rows_here, second.rows_in_tikv) == (
        250,
        None,
        150,
        151,
    )
    assert (second.missing, second.extra, second.changed) == ([1000], [], [380])
    assert str(second) == (
        "shop.a: the rows of physical table 10 with handles from 250 to the last differ: "
        "150 here, 151 in TiKV; missing: 1000; other: 380"
    )


def test_only_some_ranges_are_read_again(tikv, store, client, monkeypatch):
    damage(tikv)
    monkeypatch.setattr(verify, "RANGES_READ_AGAIN", 1)
    first, second = differences(store, client)
    assert first.extra
    assert second.changed == ()
    assert "150 here, 151 in TiKV" in str(second)


def test_clustered_keys(tikv, client, engine, tmp_path):
    columns = [column("k", MySQLType.VARCHAR, flag=3, flen=9), column("v", MySQLType.LONG)]
    primary = {
        "id": 1, "idx_name": {"O": "PRIMARY"}, "is_primary": True, "is_unique": True, "state": 5,
        "idx_cols": [{"name": {"O": "k"}, "offset": 0, "length": -1}],
    }  # fmt: skip
    plain = table_info(20, "shop.k", columns, has_rowid=True)
    info = json.loads(plain.json_text) | {
        "is_common_handle": True,
        "index_info": [primary],
    }
    table = parse_table_info("shop", info)
    types = {c.id: c.type for c in table.columns}
    handles = [b"\x01" + encode_bytes(name.encode()) for name in "abc"]
    keys = [bytes(encode_record_key(table.id, handle)) for handle in handles]
    ts = tikv.put({k: encode_row_v2({1: "x", 2: n}, types) for n, k in enumerate(keys)})
    tikv.cluster.split(keys[1])
    load = first_load(engine, client, tikv)
    load.begin(history(ts, [table]), TableScope())
    load.run(lambda _: None)
    load.end()
    records = tikv.cluster.tikv.records
    records[keys[2]] = records[keys[1]]
    with open_snapshot(tmp_path / "store") as snapshot:
        (difference,) = TableCheck(snapshot, client, snapshot.table("shop.k")).run()
    assert (difference.start, difference.changed) == (handles[1], [handles[2]])
    assert "0x01" in str(difference)


def test_the_command(tikv, store, capsys):
    command = ["verify", str(store), "--pd", tikv.pd.address]
    assert main(command) == 0
    assert "compared 421 rows of 3 tables" in (out := capsys.readouterr().out)
    assert out.endswith("no difference\n")
    damage(tikv)
    assert main([*command, "--tables", "shop.b"]) == 0
    capsys.readouterr()
    assert main(command) == 1
    out = capsys.readouterr().out.splitlines()
    assert len(out) == 3
    assert out[-1].endswith("2 ranges differ")
    assert main([*command, "--tables", "shop.x"]) == 2
    assert tikv.pd.service_safe_points == {b"gc_worker": 0}
    tikv.pd.service_safe_points[b"gc_worker"] = 1 << 62
    assert main(command) == 4
