"""`theflash follow` with a live cluster: load, changes and DDL, killed, and compared with TiDB."""

import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.read.plan.snapshot import open_snapshot
from tests.support.live_changes import LiveChanges
from tests.support.mysql import MySqlConnection
from tests.support.peer import Peer
from tests.support.progress import read_progress

pytestmark = [pytest.mark.peer]

CLOCK = SystemClock()
KILLS = 6
WAIT_MS = 600_000
DDL = (
    "ALTER TABLE shop.a ADD COLUMN extra INT NOT NULL DEFAULT 5",
    "CREATE TABLE shop.created (id INT PRIMARY KEY, v INT)",
    "INSERT INTO shop.created VALUES (1, 1), (2, 2)",
    "ALTER TABLE shop.a MODIFY COLUMN v VARCHAR(20)",
    "TRUNCATE TABLE shop.truncated",
    "INSERT INTO shop.truncated VALUES (7, 7)",
    "ALTER TABLE shop.parts ADD PARTITION (PARTITION p2 VALUES LESS THAN (30000))",
    "ALTER TABLE shop.a DROP COLUMN w",
    "ALTER TABLE shop.parts REORGANIZE PARTITION p1 INTO (PARTITION q VALUES LESS THAN (7000), "
    "PARTITION r VALUES LESS THAN (20000))",
    "RENAME TABLE shop.rowid TO shop.renamed",
    "DROP TABLE shop.truncated",
)


@pytest.fixture(params=["v6.5", "v8.5"])
def peer(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Peer]:
    with Peer(tmp_path / "peer", cdc=request.param) as peer:
        peer.sql(
            "CREATE DATABASE shop",
            "CREATE TABLE shop.a (id INT PRIMARY KEY, v INT, w VARCHAR(20))",
            "CREATE TABLE shop.rowid (a INT, b INT)",
            "CREATE TABLE shop.common (k VARCHAR(20), v INT, PRIMARY KEY (k) CLUSTERED)",
            "CREATE TABLE shop.truncated (id INT PRIMARY KEY, v INT)",
            "CREATE TABLE shop.parts (id INT PRIMARY KEY, v INT) PARTITION BY RANGE (id) "
            "(PARTITION p0 VALUES LESS THAN (1000), PARTITION p1 VALUES LESS THAN (20000))",
        )
        for low in range(0, 4000, 1000):
            numbers = range(low, low + 1000)
            for table, rows in {
                "a": (f"({n}, {n % 10}, 'w{n}')" for n in numbers),
                "rowid": (f"({n}, {n % 10})" for n in numbers),
                "common": (f"('k{n}', {n % 10})" for n in numbers),
                "truncated": (f"({n}, {n})" for n in numbers),
                "parts": (f"({n}, {n})" for n in numbers),
            }.items():
                peer.sql(f"INSERT INTO shop.{table} VALUES {','.join(rows)}")
        peer.sql("SPLIT TABLE shop.a BY (1000), (2000)", "SPLIT TABLE shop.rowid BY (500), (2500)")
        yield peer


def change(session: MySqlConnection, rng: random.Random) -> None:
    n = rng.randrange(6000)
    session.query("ROLLBACK")
    session.query("BEGIN")
    session.query(f"UPDATE shop.a SET v = v + 1 WHERE id % 50 = {n % 50}")
    session.query(f"REPLACE INTO shop.a (id, v) VALUES ({n}, {n % 100})")
    session.query(f"REPLACE INTO shop.common VALUES ('k{n}', {n})")
    session.query(f"DELETE FROM shop.common WHERE k = 'k{n * 7 % 6000}'")
    session.query(f"INSERT INTO shop.parts VALUES ({n}, 1) ON DUPLICATE KEY UPDATE v = v + 1")
    session.query("COMMIT")


def start(peer: Peer, store: Path, *more: str) -> "subprocess.Popen[bytes]":
    module = (sys.executable, "-m", "pyspark_theflash.cli.main")
    options = ("--pd", peer.pd_address, "--tables", "shop.*", *more)
    return subprocess.Popen([*module, "follow", str(store), *options])


def compare(peer: Peer, store: Path, ts: int, db: str = "shop") -> int:
    """Compare all tables of a database with TiDB at a timestamp; return the number of rows."""
    count = 0
    with open_snapshot(store, TimeStamp(ts)) as snapshot, peer.connect() as session:
        session.query(f"SET tidb_snapshot = {ts}")
        names = {f"{db}.{row[0]}" for row in session.query(f"SHOW TABLES FROM {db}")}
        assert {t.full_name for t in snapshot.tables() if t.db == db} == names
        for name in sorted(names):
            columns = list(zip(*snapshot.texts(snapshot.plan(name)), strict=True))
            ours = [[v for part in column for v in part.to_pylist()] for column in columns]
            theirs = Counter(session.query(f"SELECT * FROM {name}"))
            assert Counter(zip(*ours, strict=True)) == theirs, (name, ts)
            count += len(theirs)
    return count


def reach(process: "subprocess.Popen[bytes]", store: Path, ts: int) -> None:
    """Wait until a store is readable at a timestamp."""
    deadline_ms = CLOCK.boottime_ms() + WAIT_MS
    while (progress := read_progress(store)) is None or progress.resolved_ts < ts:
        assert process.poll() is None
        assert CLOCK.boottime_ms() < deadline_ms
        CLOCK.sleep_ms(50)


def test_a_cluster_is_followed(peer: Peer, tmp_path: Path) -> None:
    store, rng = tmp_path / "store", random.Random(7)
    with LiveChanges(peer, change, 5):
        process = start(peer, store)
        while not (store / "format").exists():
            assert process.poll() is None
            CLOCK.sleep_ms(20)
        reach(process, store, 1)
        for number, statement in enumerate(DDL):
            peer.sql(statement)
            if number < KILLS:
                CLOCK.sleep_ms(rng.randrange(1500))
                process.send_signal(signal.SIGKILL)
                process.wait()
                process = start(peer, store)
                reach(process, store, ts := peer.tso())
                compare(peer, store, ts)
    ts = peer.tso()
    reach(process, store, ts)
    assert compare(peer, store, ts) > 10_000
    process.terminate()
    assert process.wait(60) == 0
    command = [sys.executable, "-m", "pyspark_theflash.cli.main", "verify", str(store)]
    command += ["--pd", peer.pd_address, "--at", str(ts)]
    verify = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert verify.returncode == 0, verify.stdout
