"""`SparkSnapshot`: several tables at one timestamp, beside a writer."""

import threading
from pathlib import Path

import pytest
from chispa import assert_df_equality
from pyspark.errors import AnalysisException

from pyspark_theflash import SparkSnapshot
from pyspark_theflash.base.errors import (
    AuthenticationError,
    NotCaughtUpError,
    OptionError,
    StoreNotFoundError,
)
from pyspark_theflash.testing.stores import StoreBuilder, column, id_column, table_info
from pyspark_theflash.tidb.codec.field_type import MySQLType
from tests.support.serving import serving_secured
from tests.support.sources import server_options

BALANCE = column("balance", MySQLType.LONGLONG)
LEFT = table_info(1, "bank.left", [id_column(), BALANCE])
RIGHT = table_info(2, "bank.right", [id_column(), BALANCE])
ACCOUNTS = range(1, 11)
OPENING = 100


class Transfers(threading.Thread):
    """A writer that moves money from the left to the right, one transaction a publication."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.builder = StoreBuilder(path, LEFT, RIGHT)
        opening = [(account, 150, (account, OPENING)) for account in ACCOUNTS]
        self.builder.publish(200, {LEFT: opening, RIGHT: opening})
        self.done = threading.Event()
        self.count = 0

    def run(self) -> None:
        while not self.done.is_set():
            round_, account = divmod(self.count, len(ACCOUNTS))
            self.count, commit_ts = self.count + 1, 210 + 10 * self.count
            left = (account + 1, commit_ts, (account + 1, OPENING - 1 - round_))
            right = (account + 1, commit_ts, (account + 1, OPENING + 1 + round_))
            self.builder.publish(commit_ts, {LEFT: [left], RIGHT: [right]})


@pytest.fixture
def transfers(tmp_path):
    thread = Transfers(tmp_path / "store")
    thread.start()
    yield thread
    thread.done.set()
    thread.join()


MOVED = """
    SELECT min(l.balance + r.balance), max(l.balance + r.balance), sum(r.balance - 100), count(*)
    FROM left l JOIN right r USING (id)
"""


def test_a_join_does_not_tear_while_a_writer_goes_on(spark, transfers):
    path, moved = transfers.builder.path, []
    for _ in range(4):
        snapshot = SparkSnapshot(spark, path)
        snapshot.create_views()
        least, most, so_far, accounts = spark.sql(MOVED).head()
        assert (least, most, accounts) == (2 * OPENING, 2 * OPENING, len(ACCOUNTS))
        moved.append(so_far)
        assert spark.sql(MOVED).head() == (least, most, so_far, accounts)
    assert moved == sorted(moved)
    assert moved[0] < moved[-1]


@pytest.fixture
def path(tmp_path):
    """At 150 both tables have two rows; at 250 one has three."""
    builder = StoreBuilder(tmp_path / "store", LEFT, RIGHT)
    two = [(1, 150, (1, 10)), (2, 150, (2, 20))]
    return builder.publish(300, {LEFT: [*two, (3, 250, (3, 30))], RIGHT: two}).path


def test_tables_and_their_options(spark, path):
    snapshot = SparkSnapshot(spark, path, 150, all_as_text=True)
    assert snapshot.tables == ["bank.left", "bank.right"]
    assert snapshot.snapshot_ts == 150
    table = snapshot.table("bank.left", where="id > 1", columns="balance,id")
    expected = spark.createDataFrame([("20", "2")], "balance string, id string")
    assert_df_equality(table, expected, ignore_nullable=True)
    assert snapshot.table("bank.left", all_as_text=False).dtypes[0] == ("id", "bigint")


def test_without_a_timestamp_it_is_the_newest_for_good(spark, path):
    snapshot = SparkSnapshot(spark, str(path))
    builder_ts = snapshot.snapshot_ts
    assert builder_ts == 300
    assert SparkSnapshot(spark, path, 249).table("bank.left").count() == 2
    assert snapshot.table("bank.left").count() == 3


def test_at_a_server(spark, path, tmp_path):
    with serving_secured(path, tmp_path) as server:
        options = server_options(server.address)
        store = options.pop("store")
        snapshot = SparkSnapshot(spark, store, 200, **options)
        assert snapshot.tables == ["bank.left", "bank.right"]
        assert snapshot.table("bank.left").count() == 2
        with pytest.raises(AuthenticationError, match="requires a token"):
            SparkSnapshot(spark, store, **{n: o for n, o in options.items() if n != "token"})


def test_views_of_some(spark, path):
    snapshot = SparkSnapshot(spark, path)
    for view in ("left", "right"):
        spark.catalog.dropTempView(view)
    snapshot.create_views(["bank.right"])
    assert spark.table("right").count() == 2
    assert not spark.catalog.tableExists("left")


def test_views_of_one_name_are_refused_not_replaced(spark, tmp_path):
    other = table_info(3, "other.Left", [id_column()])
    odd = table_info(4, "other.odd-`name", [id_column()])
    builder = StoreBuilder(tmp_path / "store", LEFT, other, odd)
    snapshot = SparkSnapshot(spark, builder.publish(300).path)
    with pytest.raises(OptionError, match=r"bank\.left and other\.Left would both be the view"):
        snapshot.create_views()
    snapshot.create_views(["other.odd-`name"])
    assert spark.sql("SELECT * FROM `odd-``name`").count() == 0


def test_errors(spark, path):
    with pytest.raises(StoreNotFoundError):
        SparkSnapshot(spark, "/no/where")
    with pytest.raises(NotCaughtUpError):
        SparkSnapshot(spark, path, 301, wait_for_ts=0.1)
    with pytest.raises(NotCaughtUpError):
        SparkSnapshot(spark, path, max_staleness=60)
    with pytest.raises(OptionError, match="max_staleness"):
        SparkSnapshot(spark, path, 150, max_staleness=60)
    with pytest.raises(AnalysisException, match="OptionError: option 'versionAsOf'"):
        SparkSnapshot(spark, path, versionAsOf="150").table("bank.left")
