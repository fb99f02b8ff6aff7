"""Regions that no file reaches, over every way: reading, counting and administration."""

from contextlib import ExitStack

import pyarrow as pa
import pytest

from pyspark_theflash.cli.main import main
from pyspark_theflash.read.plan.snapshot import open_snapshot
from pyspark_theflash.service.wire.message import (
    Aggregate,
    Aggregation,
    Expression,
    Literal,
    SortKey,
)
from pyspark_theflash.testing.stores import StoreBuilder, column, id_column, table_info
from pyspark_theflash.tidb.codec.field_type import ColumnFlag, MySQLType
from tests.support.flight_client import FlightTransport
from tests.support.ways import FRAMED, Way, marked

ITEMS = table_info(
    7,
    "shop.items",
    [
        id_column(),
        column("name", MySQLType.VARCHAR, flen=20, flag=ColumnFlag.NOT_NULL),
        column("price", MySQLType.NEWDECIMAL, flen=6, decimal=2),
    ],
)
ROWS = [(n, 110, [n, ("tea", "milk")[n % 2], None]) for n in range(100)]
TEA = Expression(
    "=",
    arguments=(
        Expression("column", column="name"),
        Expression("literal", literal=Literal("string", "tea")),
    ),
)
BY_NAME = Aggregation(
    ("name",),
    (Aggregate("count"), Aggregate("max", Expression("column", column="id"))),
)
TOTAL = Aggregation((), (Aggregate("count", Expression("column", column="name")),))


@pytest.fixture(params=marked((*FRAMED, "flight")))
def way(request, tmp_path):
    with ExitStack() as undo:
        yield Way(request.param, tmp_path, undo)


@pytest.fixture(params=["above all rows", "rows collected", "all rows collected"])
def made(request, tmp_path):
    """A store with two regions, one or both of which have no file, and how many rows there are."""
    path = tmp_path / "store"
    builder = StoreBuilder(path, ITEMS).publish(200, {ITEMS: ROWS})
    left, cut = {
        "above all rows": (100, "1000"),
        "rows collected": (50, "50"),
        "all rows collected": (0, "50"),
    }[request.param]
    with ExitStack() as undo:
        api = Way("in process", tmp_path, undo).open(path)
        (region,) = api.regions("shop.items").regions
        api.split_region(7, region.region_id, cut)
        gone = [(n, 210, None) for n in range(left, 100)]
        builder.publish(300, {ITEMS: gone} if gone else None)
        api.collect_garbage(300)
        # If no region has a file, none is listed.
        assert [r.files for r in api.regions("shop.items").regions] == [1, 0][: 2 * bool(left)]
    return path, left


def counted(batches):
    return sum(batch.num_rows for batch in batches)


def test_readers(way, made):
    store, rows = made
    api = way.open(store)
    plan = api.plan("shop.items")
    assert counted(api.read(plan)) == rows
    if not isinstance(api._transport, FlightTransport):
        assert counted(api.read(plan, dictionaries=True)) == rows
        for split in plan.splits:
            with api.scan(split.ticket, dictionaries=True) as reader:
                assert reader.read_all().num_columns == 3
    assert counted(api.read(api.plan("shop.items", []))) == rows
    assert counted(api.read(api.plan("shop.items", ["name"], limit=1000))) == rows
    ordered = api.plan("shop.items", limit=1000, order=(SortKey("name"), SortKey("price")))
    assert counted(api.read(ordered)) == rows
    for filter, kept in ((None, rows), (TEA, rows // 2)):
        assert counted(api.read(api.plan("shop.items", filter=filter))) == kept
        table = pa.Table.from_batches(
            api.read(api.plan("shop.items", filter=filter, aggregation=BY_NAME)),
            schema=pa.schema([("name", "string"), ("a0", "int64"), ("a1", "int64")]),
        )
        assert sum(table["a0"].to_pylist()) == kept
        totals = api.read(api.plan("shop.items", filter=filter, aggregation=TOTAL))
        assert sum(row["a0"] for batch in totals for row in batch.to_pylist()) == kept
    assert api.digest("shop.items").rows == rows


def test_administration(way, made):
    store, rows = made
    api = way.open(store)
    for _ in range(2):
        api.flush()
        api.compact()
        api.collect_garbage(300)
        assert counted(api.read(api.plan("shop.items"))) == rows
    if rows:
        lower, upper = api.regions("shop.items").regions
        api.split_region(7, upper.region_id, "2000")
        api.split_region(7, lower.region_id, "10")
        first, second, third, fourth = api.regions("shop.items").regions
        api.merge_regions(7, third.region_id, fourth.region_id)
        api.merge_regions(7, first.region_id, second.region_id)
    regions = api.regions("shop.items").regions
    assert len(regions) == 2 * bool(rows)
    assert counted(api.read(api.plan("shop.items"))) == rows
    assert counted(api.read(api.plan("shop.items$regions"))) == len(regions)
    assert counted(api.read(api.plan("shop.items$partitions"))) == 1
    assert counted(api.read(api.plan("shop.items$files"))) == api.status().files


def test_without_an_api(made, capsys):
    store, rows = made
    with open_snapshot(store) as snapshot:
        assert counted(snapshot.reader("shop.items").to_reader()) == rows
        for query in (
            "SELECT count(*) FROM shop.items",
            "SELECT count(name) FROM shop.items",
            "SELECT count(*) FROM (SELECT DISTINCT id, name FROM shop.items)",
        ):
            with snapshot.sql(query) as result:
                ((count,),) = (tuple(r.values()) for b in result for r in b.to_pylist())
            assert count == rows
    for command in ("fsck", "regions", "status", "tables"):
        assert main([command, str(store)]) == 0
    assert "sound" in capsys.readouterr().out
