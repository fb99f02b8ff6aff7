"""A real TiDB writes to our pump, and what the store says is what that TiDB says.

Every table is read at timestamps that PD handed out while transactions and DDL went on, from the
store and, by `tidb_snapshot`, from TiDB.
"""

import json
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.errors import UnsupportedError
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.cli.main import main
from pyspark_theflash.read.plan.snapshot import open_snapshot
from pyspark_theflash.read.plan.wait import wait_until
from tests.support.live_writer import following
from tests.support.mysql import MySqlError
from tests.support.peer import Peer

pytestmark = [pytest.mark.peer, pytest.mark.slow]
CLOCK = SystemClock()
WRITERS = 3
TABLES = [
    "CREATE TABLE bank.acc (id INT PRIMARY KEY, balance BIGINT NOT NULL)",
    "CREATE TABLE bank.log (what VARCHAR(20), at DATETIME(6), amount DECIMAL(20,4))",
    "CREATE TABLE bank.part (id INT PRIMARY KEY, v INT) PARTITION BY RANGE (id)"
    " (PARTITION p0 VALUES LESS THAN (20), PARTITION p1 VALUES LESS THAN (100000))",
    "CREATE TABLE bank.named (k VARCHAR(20) COLLATE utf8mb4_general_ci, v JSON,"
    " w INT AS (LENGTH(k)) VIRTUAL, PRIMARY KEY (k) CLUSTERED)",
]
DDL = [
    "ALTER TABLE bank.acc ADD COLUMN note VARCHAR(20) DEFAULT 'none'",
    "ALTER TABLE bank.log MODIFY COLUMN amount VARCHAR(40)",
    "ALTER TABLE bank.part REORGANIZE PARTITION p1 INTO (PARTITION p1 VALUES LESS THAN (40),"
    " PARTITION p2 VALUES LESS THAN (100000))",
    "ALTER TABLE bank.part TRUNCATE PARTITION p0",
    "ALTER TABLE bank.log ADD COLUMN more INT DEFAULT 5",
    "ALTER TABLE bank.acc DROP COLUMN note",
    "RENAME TABLE bank.log TO bank.journal",
    "CREATE TABLE bank.later (id INT PRIMARY KEY, d DATE)",
    "TRUNCATE TABLE bank.named",
]
PARTITIONED = [
    "CREATE TABLE bank.part (id INT PRIMARY KEY, v INT) PARTITION BY RANGE (id)"
    " (PARTITION p0 VALUES LESS THAN (20), PARTITION p1 VALUES LESS THAN (40),"
    " PARTITION p2 VALUES LESS THAN (100000))",
    "CREATE TABLE bank.log (id BIGINT)",
    "CREATE TABLE bank.apart (id INT PRIMARY KEY, v INT)",
]
PARTITIONS = [
    *["ALTER TABLE bank.part TRUNCATE PARTITION p0"] * 4,
    "ALTER TABLE bank.part EXCHANGE PARTITION p1 WITH TABLE bank.apart",
    *["ALTER TABLE bank.part TRUNCATE PARTITION p0, p1"] * 2,
    "ALTER TABLE bank.part EXCHANGE PARTITION p1 WITH TABLE bank.apart",
    "ALTER TABLE bank.part DROP PARTITION p0",
]


def work(peer: Peer, seed: int, ended: threading.Event) -> None:
    """Transactions on all tables; those that TiDB refuses are left out."""
    rng = Random(seed)
    with peer.connect() as session:
        while not ended.is_set():
            a, b, amount = rng.randrange(40), rng.randrange(40), rng.randrange(100)
            value = json.dumps({"n": [amount, None]})
            for statement in (
                "BEGIN",
                f"UPDATE bank.acc SET balance = balance - {amount} WHERE id = {a}",
                f"UPDATE bank.acc SET balance = balance + {amount} WHERE id = {b}",
                f"INSERT INTO bank.log (what, amount) VALUES ('{a} to {b}', {amount}.5)",
                f"REPLACE INTO bank.part VALUES ({rng.randrange(90)}, {amount})",
                f"REPLACE INTO bank.named (k, v) VALUES ('{rng.choice('aAb')}{a % 3}', '{value}')",
                f"DELETE FROM bank.part WHERE id = {rng.randrange(90)}",
                "COMMIT" if rng.random() < 0.9 else "ROLLBACK",
            ):
                with suppress(MySqlError):
                    session.query(statement)


def wait_or_write(peer: Peer, seed: int, ended: threading.Event) -> None:
    """Transactions that write to the partitioned table early, or late."""
    rng = Random(seed)
    with peer.connect() as session:
        while not ended.is_set():
            write = f"REPLACE INTO bank.part VALUES ({rng.randrange(60)}, {rng.randrange(100)})"
            wait = f"DO SLEEP({rng.random() / 5})"
            middle = (wait, write) if rng.random() < 0.7 else (write, wait)
            other = f"INSERT INTO bank.log VALUES ({rng.randrange(1 << 60)})"
            for statement in ("BEGIN", other, *middle, "COMMIT"):
                with suppress(MySqlError):
                    session.query(statement)


def test_a_live_tidb_reads_the_same(tmp_path: Path) -> None:
    store = tmp_path / "store"
    with following(tmp_path, store) as peer:
        peer.sql("CREATE DATABASE bank", *TABLES)
        peer.sql(*(f"INSERT INTO bank.acc VALUES ({n}, 1000)" for n in range(40)))
        timestamps = under_load(peer)
        compared = sum(compare(peer, store, ts) for ts in timestamps)
        assert compared > 4 * len(timestamps)


def test_transactions_that_meet_a_table_before_or_after_its_partitions_change(
    tmp_path: Path,
) -> None:
    """The binlog contains neither the partition nor the version of the table; TiKV does."""
    store = tmp_path / "store"
    with following(tmp_path, store, "tikv") as peer:
        peer.sql("CREATE DATABASE bank", *PARTITIONED)
        timestamps = under_load(peer, PARTITIONS, wait_or_write)
        assert sum(compare(peer, store, ts) for ts in timestamps) > len(timestamps)


def test_transactions_that_are_older_than_the_tables_they_write_to(tmp_path: Path) -> None:
    store = tmp_path / "store"
    with following(tmp_path, store) as peer, peer.connect() as session:
        created = "CREATE TABLE bank.t (id INT)"
        peer.sql("CREATE DATABASE bank", created)
        peer.sql("CREATE DATABASE other", "CREATE TABLE other.t (id INT)")
        for number, statements in enumerate(
            [
                ["TRUNCATE TABLE bank.t"],
                ["DROP TABLE bank.t", created],
                ["DROP TABLE bank.t", "RECOVER TABLE bank.t"],
                ["DROP DATABASE bank", "CREATE DATABASE bank", created],
            ]
        ):
            session.query("BEGIN")
            session.query("INSERT INTO other.t VALUES (1)")
            peer.sql(*statements)
            session.query(f"INSERT INTO bank.t VALUES ({number})")
            session.query("COMMIT")
            assert compare(peer, store, peer.tso()) == 1


def test_a_change_that_cannot_be_told_fails_reads_of_its_column_alone(tmp_path: Path) -> None:
    store = tmp_path / "store"
    with following(tmp_path, store) as peer:
        row = "'[1]', '\"300\"', '2020-07-01 01:02:03.5', 7)"
        peer.sql(
            "CREATE DATABASE bank",
            "CREATE TABLE bank.t (id INT PRIMARY KEY, j JSON, b JSON, ts TIMESTAMP(3), v INT)",
            f"INSERT INTO bank.t VALUES (1, {row}",
        )
        # TiDB refuses it, after it has made a hidden column.
        with pytest.raises(MySqlError):
            peer.sql("ALTER TABLE bank.t MODIFY j INT")
        peer.sql(
            f"INSERT INTO bank.t VALUES (2, {row}",
            # JSON's 300 is 300 in TINYINT, too.
            "ALTER TABLE bank.t MODIFY b TINYINT",
            "SET time_zone = 'America/New_York'",
            "ALTER TABLE bank.t MODIFY ts DATETIME",
            "INSERT INTO bank.t VALUES (3, 'null', 1, '2020-07-01', 8)",
        )
        ts = TimeStamp(peer.tso())
        theirs = peer.sql("SELECT id, j, ts, v FROM bank.t")
        deadline_ms = CLOCK.boottime_ms() + 60_000
        wait_until(store, ts, deadline_ms, clock=CLOCK, fs=LocalFileSystem())
        for _ in range(2):
            with open_snapshot(store, ts) as snapshot:
                plan = snapshot.plan("bank.t", ["id", "j", "ts", "v"])
                ours = [row for part in snapshot.texts(plan) for row in zip(*part, strict=True)]
                assert {tuple(str(v) for v in row) for row in ours} == set(theirs)
                with pytest.raises(UnsupportedError, match="outside the column's range"):
                    list(snapshot.scan("bank.t", ["b"]))
            assert main(["compact", str(store)]) == 0


def under_load(
    peer: Peer, ddl: Sequence[str] = DDL, work: Callable[[Peer, int, threading.Event], None] = work
) -> list[int]:
    """Timestamps of moments while writers and DDL were at work."""
    ended = threading.Event()
    workers = [threading.Thread(target=work, args=(peer, n, ended)) for n in range(WRITERS)]
    for worker in workers:
        worker.start()
    timestamps = []
    for statement in ddl:
        changed = threading.Thread(target=change, args=(peer, statement))
        for _ in range(4):
            CLOCK.sleep_ms(300)
            timestamps.append(peer.tso())
        changed.start()
        while changed.is_alive():
            changed.join(0.5)
            timestamps.append(peer.tso())
    ended.set()
    for worker in workers:
        worker.join()
    return [*timestamps, peer.tso()]


def change(peer: Peer, statement: str) -> None:
    """Run DDL; TiDB itself gives up REORGANIZE where it has copied and inserted a key."""
    try:
        peer.sql(statement)
    except MySqlError as error:
        if "Duplicate entry" not in str(error):
            raise


def compare(peer: Peer, store: Path, ts: int) -> int:
    """All tables at a timestamp, here and there; returns how many."""
    wait_until(
        store,
        TimeStamp(ts),
        CLOCK.boottime_ms() + 60_000,
        clock=CLOCK,
        fs=LocalFileSystem(),
    )
    with open_snapshot(store, TimeStamp(ts)) as snapshot, peer.connect() as session:
        session.query(f"SET tidb_snapshot = {ts}")
        session.query("SET time_zone = '+00:00'")
        names = {row[0] for row in session.query("SHOW TABLES FROM bank")}
        assert {t.name for t in snapshot.tables() if t.db == "bank"} == names
        for name in names:
            plan = snapshot.plan(f"bank.{name}")
            columns = list(zip(*snapshot.texts(plan), strict=True))
            ours = [[v for part in column for v in part.to_pylist()] for column in columns]
            theirs = session.query(f"SELECT * FROM bank.{name}")
            assert Counter(zip(*ours, strict=True)) == Counter(map(tuple, theirs)), (name, ts)
    return len(names)
