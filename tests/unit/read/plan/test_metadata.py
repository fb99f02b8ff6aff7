"""Metadata tables, which are read like any other table."""

import json
from dataclasses import replace

import pyarrow as pa
import pytest

from pyspark_theflash.base.errors import ColumnNotFoundError, TableNotFoundError
from pyspark_theflash.base.types import TimeStamp, from_physical_ms
from pyspark_theflash.read.plan import metadata
from pyspark_theflash.read.plan.snapshot import open_snapshot
from pyspark_theflash.service.client.theflash import connect
from pyspark_theflash.service.wire.message import Moment
from pyspark_theflash.testing.stores import OLDEST_TS, StoreBuilder, column, id_column, table_info
from pyspark_theflash.tidb.codec.field_type import MySQLType
from tests.support.workloads import make_store, workload

ITEMS = table_info(7, "shop.items", [id_column(), column("n", MySQLType.LONG)])
DOLLARS = table_info(8, "shop.items$files", [id_column("own")])
KINDS = metadata.kinds()


@pytest.fixture
def shop(tmp_path):
    store = StoreBuilder(tmp_path / "shop", ITEMS)
    store.publish(200, {ITEMS: [(n, 150, (n, n)) for n in range(5)]})
    return store.publish(300, {ITEMS: [(1, 250, None)]}).path


@pytest.fixture(scope="module")
def ddl(tmp_path_factory):
    """The first part of a history of schema changes."""
    whole = workload("ddl")
    times = sorted({answer.snapshot_ts for answer in whole.answers()})
    chosen = replace(whole, end_ts=times[len(times) // 8])
    return make_store(chosen, tmp_path_factory.mktemp("ddl") / "store")


def read(snapshot, name, columns=None, **options):
    batches = list(snapshot.scan(name, columns, **options))
    return [row for batch in batches for row in batch.to_pylist()]


def test_files_are_those_on_disk(shop):
    with open_snapshot(shop) as snapshot:
        files = read(snapshot, "shop.items$files")
    assert {f["path"]: f["bytes"] for f in files} == {
        str(path.relative_to(shop / "data")): path.stat().st_size
        for path in (shop / "data").rglob("*.parquet")
    }
    assert [(f["versions"], f["min_commit_ts"], f["max_commit_ts"]) for f in files] == [
        (5, 150, 150),
        (1, 250, 250),
    ]


def test_partitions_are_tidbs(ddl):
    with open_snapshot(ddl) as snapshot:
        tables = [table for table in snapshot.tables() if table.partition is not None]
        assert tables
        for table in tables:
            rows = read(snapshot, f"{table.full_name}$partitions")
            defined = [(d.name, d.id) for d in table.partition.definitions]
            assert [(r["partition"], r["physical_id"]) for r in rows] == defined
            info = json.loads(table.json_text)["partition"]["definitions"]
            for row, definition in zip(rows, info, strict=True):
                for bound in definition.get("less_than") or []:
                    assert bound in row["bound"]
            regions = read(snapshot, f"{table.full_name}$regions")
            assert sum(r["deltas"] > 0 or r["versions"] > 0 for r in regions) == sum(
                r["versions"] > 0 for r in rows
            )


def test_schemas_are_the_tables_history(ddl):
    with open_snapshot(ddl) as snapshot:
        tables = snapshot.tables()
        assert len(tables) > 5
        for table in tables:
            rows = read(snapshot, f"{table.full_name}$schemas")
            newest = [row for row in rows if row["since_ts"] <= snapshot.snapshot_ts][-1]
            assert newest["columns"] == ", ".join(c.name for c in table.public_columns)
            assert json.loads(newest["definition"])["id"] == table.id


def test_progress_and_latches_are_the_stores(shop):
    with open_snapshot(shop) as snapshot:
        (progress,) = read(snapshot, "shop.items$progress")
        latches = read(snapshot, "shop.items$latches")
    assert (progress["oldest_ts"], progress["resolved_ts"]) == (OLDEST_TS, 300)
    assert progress["position"] is None
    assert [(latch["kind"], latch["snapshot_ts"]) for latch in latches] == [("read", 300)]
    assert "id" not in latches[0]


def test_times_are_tidbs(tmp_path):
    now = from_physical_ms(1_700_000_000_123)
    store = StoreBuilder(tmp_path / "s", ITEMS).publish(now)
    with open_snapshot(store.path, TimeStamp(now)) as snapshot:
        (progress,) = read(snapshot, "shop.items$progress")
    assert progress["resolved"].isoformat() == "2023-11-14T22:13:20.123000+00:00"


def test_they_are_read_like_any_table(shop):
    with open_snapshot(shop) as snapshot:
        name = "SHOP.Items$FILES"
        assert read(snapshot, name, ["kind", "versions"], where="versions = 1") == [
            {"kind": "delta", "versions": 1}
        ]
        with pytest.raises(ColumnNotFoundError):
            snapshot.plan(name, ["none"])
        batches = snapshot.sql('SELECT sum(versions) FROM shop."items$files"')
        assert [batch.to_pylist() for batch in batches] == [[{"sum(versions)": 6}]]
    with connect(shop) as api:
        for kind in KINDS:
            plan = api.plan(f"shop.items${kind}", moment=Moment(200))
            rows = [row for batch in api.read(plan) for row in batch.to_pylist()]
            # No TiKV feeds this store.
            assert bool(rows) == (kind not in ("raft", "locks"))
            table = api.describe(f"shop.items${kind}")
            assert [c.name for c in table.columns] == pa.ipc.read_schema(
                pa.py_buffer(plan.arrow_schema)
            ).names


def test_what_is_about_no_table(shop):
    with open_snapshot(shop) as snapshot:
        names = ["shop.none$files", "shop.items$none", "shop.items$", "shop.$files", "$files"]
        # Metadata tables have no metadata, or each suffix would make another table.
        for name in (*names, "shop.items$files$files", "shop.items" + "$files" * 3_000):
            with pytest.raises(TableNotFoundError):
                snapshot.plan(name)


def test_a_real_table_goes_first(tmp_path):
    store = StoreBuilder(tmp_path / "s", ITEMS, DOLLARS).publish(200, {DOLLARS: [(3, 150, (3,))]})
    with open_snapshot(store.path) as snapshot:
        assert read(snapshot, "shop.items$files") == [{"own": 3}]
        assert len(read(snapshot, "shop.items$files$files")) == 1
