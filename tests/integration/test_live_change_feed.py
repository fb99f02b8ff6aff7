"""A writer follows the change feed of a store beside a real TiDB, and is killed; TiDB's answers.

The store is unistore with a change feed made for tests (`tests/peer`), not a TiKV.
"""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random
from typing import Final

import pytest

from pyspark_theflash.base.clock import Deadline, SystemClock
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.cli.jobs.sources import Network, Opener
from pyspark_theflash.cli.main import main
from pyspark_theflash.read.plan.wait import wait_until
from pyspark_theflash.replication.cdc.meta_schema import MetaSchema
from tests.integration.test_live_writer import DDL, TABLES, compare, under_load, wait_or_write, work
from tests.support.live_schema import STEPS, run
from tests.support.peer import Peer

pytestmark = [pytest.mark.peer, pytest.mark.slow]
CLOCK: Final = SystemClock()
_PROJECT: Final = Path(__file__).parents[2]
PARTITIONED = [
    "CREATE TABLE bank.part (id INT PRIMARY KEY, v INT) PARTITION BY RANGE (id)"
    " (PARTITION p0 VALUES LESS THAN (20), PARTITION p1 VALUES LESS THAN (40),"
    " PARTITION p2 VALUES LESS THAN (100000))",
    "CREATE TABLE bank.log (id BIGINT)",
    "CREATE TABLE bank.apart (id INT PRIMARY KEY, v INT)",
    "CREATE TABLE bank.rows (id INT, v INT) PARTITION BY RANGE (id)"
    " (PARTITION p0 VALUES LESS THAN (30), PARTITION p1 VALUES LESS THAN (100000))",
]
PARTITIONS = [
    "ALTER TABLE bank.part TRUNCATE PARTITION p0",
    "ALTER TABLE bank.rows REORGANIZE PARTITION p0, p1 INTO (PARTITION p0 VALUES LESS THAN (10),"
    " PARTITION p1 VALUES LESS THAN (50), PARTITION p2 VALUES LESS THAN (100000))",
    "ALTER TABLE bank.part EXCHANGE PARTITION p1 WITH TABLE bank.apart",
    "ALTER TABLE bank.part TRUNCATE PARTITION p0, p1",
    "ALTER TABLE bank.part REORGANIZE PARTITION p0, p1 INTO (PARTITION p0 VALUES LESS THAN (40))",
    "DROP TABLE bank.apart",
    "RECOVER TABLE bank.apart",
    "ALTER TABLE bank.apart MODIFY COLUMN v VARCHAR(20)",
    "ALTER TABLE bank.rows TRUNCATE PARTITION p1",
    "ALTER TABLE bank.rows DROP PARTITION p0",
]


class Follower:
    """A writer process, which is killed and started again every so often."""

    def __init__(self, peer: Peer, store: Path, *options: str) -> None:
        self._command = [
            *(sys.executable, "-m", "pyspark_theflash.cli.main", "writer", str(store)),
            *("--source", f"tikv:{peer.pd_address}", "--interval", "0.1", *options),
        ]
        self._peer, self._store = peer, store
        self._ended = threading.Event()
        self.kills = 0
        self._process = self._start()
        self._thread = threading.Thread(target=self._kill_often)

    def start(self) -> None:
        """Begin to kill it, when it follows the cluster."""
        self.reach(self._peer.tso())
        self._thread.start()

    def reach(self, ts: int) -> None:
        """Wait until a timestamp is readable."""
        deadline_ms = CLOCK.boottime_ms() + 60_000
        wait_until(self._store, TimeStamp(ts), deadline_ms, clock=CLOCK, fs=LocalFileSystem())

    def stop(self) -> int:
        """Stop killing, and end the writer gracefully; return its exit status."""
        self._ended.set()
        self._thread.join()
        # A process that has just started ends without an exit status.
        self.reach(self._peer.tso())
        self._process.terminate()
        return self._process.wait(60)

    def _start(self) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(self._command, cwd=_PROJECT)

    def _kill_often(self) -> None:
        rng = Random(5)
        while not self._ended.wait(rng.uniform(0, 4)):
            assert self._process.poll() is None, "the writer has ended"
            self._process.kill()
            self._process.wait()
            self.kills += 1
            self._process = self._start()
            # However long it takes on a busy machine, each process makes some progress.
            self.reach(self._peer.tso())


@contextmanager
def following(folder: Path, cdc: str, *options: str) -> Iterator[tuple[Peer, Path, Follower]]:
    store = folder / "store"
    assert main(["init", str(store)]) == 0
    with Peer(folder / "peer", cdc=cdc) as peer:
        follower = Follower(peer, store, *options)
        follower.start()
        try:
            yield peer, store, follower
        finally:
            status = follower.stop()
    assert status == 0


@pytest.mark.parametrize("cdc", ["v6.5", "v8.5"])
def test_a_live_tidb_reads_the_same(cdc: str, tmp_path: Path) -> None:
    with following(tmp_path, cdc) as (peer, store, follower):
        peer.sql("CREATE DATABASE bank", *TABLES)
        peer.sql(*(f"INSERT INTO bank.acc VALUES ({n}, 1000)" for n in range(40)))
        timestamps = under_load(peer, DDL, work)
        compared = sum(compare(peer, store, ts) for ts in timestamps)
        assert compared > 4 * len(timestamps)
    assert follower.kills


@pytest.mark.parametrize("cdc", ["v6.5", "v8.5"])
def test_partitions_and_recovered_tables(cdc: str, tmp_path: Path) -> None:
    with following(tmp_path, cdc) as (peer, store, follower):
        peer.sql("CREATE DATABASE bank", *PARTITIONED)
        peer.sql(*(f"INSERT INTO bank.rows VALUES ({n}, {n})" for n in range(60)))
        timestamps = under_load(peer, PARTITIONS, wait_or_write)
        assert sum(compare(peer, store, ts) for ts in timestamps) > len(timestamps)
    assert follower.kills


@pytest.mark.parametrize("cdc", ["v6.5", "v8.5"])
def test_the_schema_of_the_feed_equals_the_one_read_from_tikv(cdc: str, tmp_path: Path) -> None:
    with Peer(tmp_path / "peer", cdc=cdc) as peer, ExitStack() as undo:
        opener = Opener(Network(), LocalFileSystem(), CLOCK, undo)
        cluster = opener.cluster([peer.pd_address])
        begin = cluster.schema(None)
        feed = cluster.open_feed(cluster.pd.cluster_id(), None)
        schema = MetaSchema(begin, cluster.meta, feed, CLOCK)
        undo.callback(schema.close)
        start = history = schema.read(None, None)
        with peer.connect() as session:
            for step in STEPS:
                run(session, step)
        ts, deadline = TimeStamp(peer.tso()), Deadline(CLOCK, 60_000)
        while history.end_ts < ts and deadline.left_ms():
            schema.receive(100)
            history = schema.read(history, ts)
        polled = begin.read(start, history.end_ts)
    assert history.end_ts == polled.end_ts >= ts
    assert history.events == polled.events
    assert history.versions == polled.versions
    assert len(schema.take_restored()) == 2
    assert len(history.events) - len(start.events) > 60


def test_once_ends_at_the_current_timestamp(tmp_path: Path) -> None:
    store = tmp_path / "store"
    assert main(["init", str(store)]) == 0
    with Peer(tmp_path / "peer", cdc="v8.5") as peer:
        once = ["writer", str(store), "--source", f"tikv:{peer.pd_address}", "--once"]
        assert main(once) == 0
        peer.sql("CREATE DATABASE bank", "CREATE TABLE bank.t (id INT PRIMARY KEY, v INT)")
        peer.sql("INSERT INTO bank.t VALUES (1, 2)")
        ts = peer.tso()
        assert main(once) == 0
        assert compare(peer, store, ts) == 1
