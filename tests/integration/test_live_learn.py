"""`theflash learn` beside a real TiDB and PD: what is read at a TSO is what TiDB reads there."""

import threading
from pathlib import Path
from random import Random

import pytest

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.cluster.pd import PDClient
from pyspark_theflash.cluster.tikv.wire.directory import Directory
from pyspark_theflash.service.client.theflash import TheFlash, connect
from pyspark_theflash.service.wire.message import Moment
from pyspark_theflash.storage.engine import registry
from tests.support.learn_command import learning
from tests.support.live_feed import LiveFeed
from tests.support.mysql import MySqlError
from tests.support.peer import Peer

pytestmark = [pytest.mark.peer, pytest.mark.slow]

CLOCK = SystemClock()
ACCOUNTS, BALANCE, STEP = 40, 1000, 10_000
SNAPSHOTS = 15


def transfer(peer: Peer, seed: int, over: threading.Event) -> None:
    """SQL that moves money, of both kinds of transactions."""
    random = Random(seed)
    with peer.connect() as session:
        while not over.is_set():
            a, b = (n * STEP for n in random.sample(range(ACCOUNTS), 2))
            try:
                session.query(f"BEGIN {random.choice(['OPTIMISTIC', 'PESSIMISTIC'])}")
                session.query(f"UPDATE bank.acc SET balance = balance - 1 WHERE id = {a}")
                session.query(f"UPDATE bank.acc SET balance = balance + 1 WHERE id = {b}")
                session.query("ROLLBACK" if random.random() < 0.1 else "COMMIT")
            except MySqlError:
                session.query("ROLLBACK")


def read(api: TheFlash, moment: Moment) -> tuple[int, dict[int, tuple[int, str]]]:
    plan = api.plan("bank.acc", moment=moment)
    rows = [row for batch in api.read(plan) for row in batch.to_pylist()]
    by_id = {row["id"]: (row["balance"], row["note"]) for row in rows}
    assert len(by_id) == len(rows)
    return plan.snapshot.snapshot_ts, by_id


def read_by_tidb(peer: Peer, ts: int) -> dict[int, tuple[int, str]]:
    with peer.connect() as session:
        session.query(f"SET tidb_snapshot = {ts}")
        rows = session.query("SELECT id, balance, note FROM bank.acc")
    return {int(i or 0): (int(b or 0), str(note)) for i, b, note in rows}


def test_bank_at_tidbs_timestamps(tmp_path: Path) -> None:
    tap = tmp_path / "tap.jsonl"
    registry.create(tmp_path / "store", registry.MAGIC, LocalFileSystem())
    with Peer(tmp_path / "peer", tap=tap) as peer, PDClient([peer.pd_address], clock=CLOCK) as pd:
        peer.sql(
            # The store calculates their commit_ts before a lock is visible.
            "SET GLOBAL tidb_enable_async_commit = OFF",
            "SET GLOBAL tidb_enable_1pc = OFF",
            "CREATE DATABASE bank",
            "CREATE TABLE bank.acc "
            "(id BIGINT PRIMARY KEY, balance BIGINT NOT NULL, note VARCHAR(400))",
            "SET tidb_wait_split_region_finish = 0",
            f"SPLIT TABLE bank.acc BETWEEN (0) AND ({ACCOUNTS * STEP}) REGIONS 8",
            "INSERT INTO bank.acc VALUES "
            + ", ".join(f"({n * STEP}, {BALANCE}, REPEAT('n', {n * 8}))" for n in range(ACCOUNTS)),
        )
        feed = LiveFeed(tap, Directory(pd))
        over = threading.Event()
        threads = [threading.Thread(target=transfer, args=(peer, n, over)) for n in range(2)]
        with learning(tmp_path / "store", peer.pd_address) as learn, connect(learn.serve) as api:
            feed.start(learn.listen)
            for thread in threads:
                thread.start()
            try:
                seen = [read(api, Moment()) for _ in range(SNAPSHOTS)]
                seen += [read(api, Moment(seen[0][0], wait_ms=20_000))]
            finally:
                over.set()
                for thread in threads:
                    thread.join()
                feed.stop()
            assert learn.stop() == 0
        for ts, rows in seen:
            assert sum(balance for balance, _ in rows.values()) == ACCOUNTS * BALANCE
            assert rows == read_by_tidb(peer, ts)
        assert len({tuple(rows.items()) for _, rows in seen}) > 3
