"""Tables that enter a live store with rows, beside transactions, with a load that is killed."""

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyspark_theflash.base.errors import SnapshotTooOldError
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.read.plan.snapshot import open_snapshot
from tests.integration.test_live_follow import compare, reach
from tests.support.live_changes import LiveChanges
from tests.support.mysql import MySqlConnection
from tests.support.peer import Peer
from tests.support.processes import children, is_stopped, wait_until

pytestmark = [pytest.mark.peer]

WAIT_MS = 240_000
STOPS_READERS = """
import os, signal, sys

def stop(*_):
    os.kill(os.getpid(), signal.SIGSTOP)

if "pyspark_theflash.replication.load.process" in sys.orig_argv:
    stop()
elif "pyspark_theflash.cli.main" in sys.orig_argv:
    from pyspark_theflash.replication.load.process import ReaderThread
    ReaderThread._read = stop
"""
"""A module that each Python process imports when it starts: a process that reads a load is stopped,
and so is a follower whose thread reads a small one."""
EXCHANGE = "ALTER TABLE shop.parts EXCHANGE PARTITION p1 WITH TABLE other.swap"
STEPS = (
    EXCHANGE,
    "RENAME TABLE other.renamed TO shop.renamed",
    "RECOVER TABLE shop.dropped",
    EXCHANGE,
    "",  # --add
)
WRITTEN = ("shop.a", "shop.parts", "other.swap", "other.renamed", "shop.renamed", "stock.items")


@pytest.fixture(params=["v6.5", "v8.5"])
def peer(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Peer]:
    with Peer(tmp_path / "peer", cdc=request.param) as peer:
        columns = "(id INT PRIMARY KEY, v INT)"
        parts = "PARTITION p0 VALUES LESS THAN (1000), PARTITION p1 VALUES LESS THAN (9000)"
        peer.sql(
            *("CREATE DATABASE shop", "CREATE DATABASE other", "CREATE DATABASE stock"),
            f"CREATE TABLE shop.a {columns}",
            f"CREATE TABLE shop.parts {columns} PARTITION BY RANGE (id) ({parts})",
            f"CREATE TABLE shop.dropped {columns}",
            f"CREATE TABLE other.swap {columns}",
            f"CREATE TABLE other.renamed {columns}",
            f"CREATE TABLE stock.items {columns}",
            "CREATE TABLE stock.rowid (a INT, b INT)",
        )
        for table in ("shop.a", "shop.parts", "shop.dropped", "other.renamed", "stock.items"):
            rows = ",".join(f"({n}, {n % 7})" for n in range(0, 4000, 2))
            peer.sql(f"INSERT INTO {table} VALUES {rows}")
        rows = ",".join(f"({n}, 5)" for n in range(1000, 4000, 3))
        peer.sql(f"INSERT INTO other.swap VALUES {rows}", f"INSERT INTO stock.rowid VALUES {rows}")
        peer.sql(
            "SPLIT TABLE stock.items BY (500), (1000), (1500), (2000), (2500)",
            "DROP TABLE shop.dropped",
        )
        yield peer


def change(session: MySqlConnection, rng: random.Random) -> None:
    table, n = rng.choice(WRITTEN), rng.randrange(1000, 5000)
    session.query(f"REPLACE INTO {table} VALUES ({n}, {rng.randrange(100)})")
    session.query(f"DELETE FROM {table} WHERE id = {rng.randrange(1000, 5000)}")


class Follower:
    """A process that follows the cluster, and may be stopped when it begins to read a load."""

    def __init__(self, peer: Peer, store: Path, *more: str, stops: Path | None = None) -> None:
        module = (sys.executable, "-m", "pyspark_theflash.cli.main", "follow", str(store))
        options = ("--pd", peer.pd_address, "--tables", "shop.*", *more)
        env = {**os.environ} if stops is None else {**os.environ, "PYTHONPATH": str(stops)}
        self.process = subprocess.Popen([*module, *options], env=env)

    def __enter__(self) -> "Follower":
        return self

    def __exit__(self, *_: object) -> None:
        """End it if the test has failed."""
        self.process.kill()
        self.process.wait()

    def kill_in_load(self) -> None:
        """Kill it when it has begun to read a load, by a thread or by processes."""
        pid = self.process.pid
        wait_until(lambda: self._runs() and any(map(is_stopped, [pid, *children(pid)])), WAIT_MS)
        readers = children(pid)
        self.process.kill()
        for reader in readers:
            os.kill(reader, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        self.process.terminate()
        assert self.process.wait(120) == 0

    def _runs(self) -> bool:
        assert self.process.poll() is None
        return True


def test_tables_enter_a_live_store(peer: Peer, tmp_path: Path) -> None:
    store, stops = tmp_path / "store", tmp_path / "stops"
    stops.mkdir()
    (stops / "sitecustomize.py").write_text(STOPS_READERS)
    with Follower(peer, store) as follower:
        wait_until(lambda: (store / "format").exists(), WAIT_MS)
        reach(follower.process, store, 1)
        reach(follower.process, store, begun := peer.tso())
        follower.stop()
    with LiveChanges(peer, change, 3):
        for statement in STEPS:
            add = () if statement else ("--add", "stock.*")
            with Follower(peer, store, *add, stops=stops) as follower:
                if statement:
                    peer.sql(statement)
                follower.kill_in_load()
            with Follower(peer, store) as follower:
                reach(follower.process, store, ts := peer.tso())
                assert compare(peer, store, ts) > 3000
                reach(follower.process, store, peer.tso())
                follower.stop()
    with Follower(peer, store) as follower:
        reach(follower.process, store, ts := peer.tso())
        follower.stop()
    assert compare(peer, store, ts) > 5000
    assert compare(peer, store, ts, "stock") > 2000
    read_below_their_loads(store, begun)


def read_below_their_loads(store: Path, begun: int) -> None:
    """Tables that entered cannot be read at a timestamp from before."""
    with open_snapshot(store, TimeStamp(begun)) as snapshot:
        assert sum(batch.num_rows for batch in snapshot.scan("shop.a")) > 0
        for name in ("stock.items", "stock.rowid", "other.renamed"):
            with pytest.raises(SnapshotTooOldError):
                snapshot.table(name)
