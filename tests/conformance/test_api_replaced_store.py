"""A store's folder is replaced while it is open: new rows or a typed error, never old rows."""

import shutil
from contextlib import ExitStack, closing

import pytest

from pyspark_theflash.base.errors import (
    LatchNotFoundError,
    LeaseExpiredError,
    StoreNotFoundError,
    StoreReplacedError,
    TicketError,
)
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.read.plan.snapshot import open_snapshot
from pyspark_theflash.service.wire.message import (
    Aggregate,
    Aggregation,
    Expression,
    Literal,
    Moment,
)
from pyspark_theflash.storage.store.folder import open_manifest
from pyspark_theflash.storage.store.manifest import ManifestChange
from pyspark_theflash.testing.stores import StoreBuilder, column, id_column, table_info
from pyspark_theflash.tidb.codec.field_type import MySQLType
from tests.support.ways import FRAMED, Way, marked

ITEMS = table_info(7, "shop.items", [id_column(), column("price", MySQLType.LONG)])
EVERY = Aggregation((), (Aggregate("sum", Expression("column", column="price")),))
SOME = Expression(
    ">",
    arguments=(
        Expression("column", column="price"),
        Expression("literal", literal=Literal("int", "5")),
    ),
)
ENDED = (TicketError, LeaseExpiredError, LatchNotFoundError)


@pytest.fixture(params=marked((*FRAMED, "flight")))
def way(request, tmp_path):
    with ExitStack() as undo:
        yield Way(request.param, tmp_path, undo)


def versions(prices):
    return {ITEMS: [(n, 110, [n, price]) for n, price in enumerate(prices)]}


def seen(api):
    """The prices, by a scan, a filter and an aggregate, each of which may be remembered."""
    plan = api.plan("shop.items")
    prices = sorted(row["price"] for batch in api.read(plan) for row in batch.to_pylist())
    some = api.read(api.plan("shop.items", ["price"], filter=SOME))
    assert sorted(r["price"] for b in some for r in b.to_pylist()) == [p for p in prices if p > 5]
    totals = api.read(api.plan("shop.items", aggregation=EVERY))
    assert [row["a0"] for batch in totals for row in batch.to_pylist()] == [sum(prices)]
    return plan, prices


def made_anew(store, spare):
    shutil.rmtree(store)
    StoreBuilder(store, ITEMS).publish(200, versions([7, 8, 9]))


def moved_into_place(store, spare):
    StoreBuilder(spare / "other", ITEMS).publish(200, versions([7, 8, 9]))
    shutil.rmtree(store)
    (spare / "other").rename(store)


def restored(store, spare):
    """From a backup of before its rows; others come in files of the same numbers."""
    shutil.rmtree(store)
    shutil.copytree(spare / "backup", store)
    StoreBuilder(store, ITEMS).publish(200, versions([7, 8, 9]))


HOW = [made_anew, moved_into_place, restored]


@pytest.fixture
def store(tmp_path):
    path = tmp_path / "store"
    builder = StoreBuilder(path, ITEMS)
    shutil.copytree(path, tmp_path / "backup")
    return builder.publish(200, versions([1, 2, 3])).path


@pytest.mark.parametrize("replace", HOW)
def test_a_server_answers_from_what_is_there(way, store, tmp_path, replace):
    api = way.open(store)
    snapshot = api.snapshot()
    plan, prices = seen(api)
    assert prices == [1, 2, 3]
    replace(store, tmp_path)
    for _ in range(2):
        assert seen(api)[1] == [7, 8, 9]
        assert seen(way.open(store))[1] == [7, 8, 9]
        with pytest.raises(ENDED):
            list(api.read(plan))
        with pytest.raises(ENDED):
            api.plan("shop.items", moment=Moment(handle=snapshot.handle))
        with pytest.raises(ENDED):
            api.renew(snapshot)


def test_a_folder_that_is_gone(way, store):
    api = way.open(store)
    plan, _ = seen(api)
    shutil.rmtree(store)
    for _ in range(2):
        with pytest.raises(StoreNotFoundError):
            api.plan("shop.items")
        with pytest.raises((StoreNotFoundError, TicketError)):
            list(api.read(plan))


@pytest.mark.parametrize("replace", HOW)
def test_a_snapshot_ends(store, tmp_path, replace):
    with open_snapshot(store) as snapshot:
        assert sum(batch.num_rows for batch in snapshot.scan("shop.items")) == 3
        replace(store, tmp_path)
        with pytest.raises(StoreReplacedError):
            list(snapshot.scan("shop.items"))


@pytest.mark.parametrize("replace", HOW)
def test_a_manifest_ends(store, tmp_path, replace):
    fs = LocalFileSystem()
    with closing(open_manifest(store, fs)) as manifest:
        token = manifest.take_token()
        replace(store, tmp_path)
        for use in (
            lambda: manifest.read([]),
            lambda: manifest.commit(ManifestChange(), token),
            manifest.take_token,
        ):
            with pytest.raises(StoreReplacedError):
                use()
    with closing(open_manifest(store, fs)) as manifest:
        manifest.read([])


def test_an_older_state_in_the_same_file(store, tmp_path):
    fs = LocalFileSystem()
    shutil.rmtree(tmp_path / "backup")
    shutil.copytree(store, tmp_path / "backup")
    with closing(open_manifest(store, fs)) as manifest:
        token = manifest.take_token()
        manifest.commit(ManifestChange(), token)
        # The effect of a copy over the files, as far as SQLite notices it.
        with closing(open_manifest(tmp_path / "backup", fs)) as backup:
            backup._db.backup(manifest._db)
        shutil.copy(tmp_path / "backup" / "ack", store / "ack")
        with pytest.raises(StoreReplacedError):
            manifest.read([])
