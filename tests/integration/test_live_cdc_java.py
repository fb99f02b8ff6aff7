"""The tests' change feed read by TiKV's Java client, which shares no code with it."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.cluster.located import RawKeyRange
from pyspark_theflash.cluster.pd import PDClient
from pyspark_theflash.tidb.codec.key import RawKey, encode_record_key
from tests.support import cdc_bank
from tests.support.cdc_client import Change, Follower, soon
from tests.support.cdc_java import JavaFeed, NotHereError, fetch
from tests.support.exchanges import COMPACT, SCENARIOS
from tests.support.mysql import MySqlError
from tests.support.peer import Peer
from tests.support.suite import read_statements

pytestmark = [pytest.mark.peer, pytest.mark.slow]

TRANSACTIONS = 150
PATIENCE_MS = 240_000


def changes_of(rows: list[list[str]], last_ts: int) -> dict[tuple[bytes, int], Change]:
    """Return the committed changes up to a timestamp."""
    prewrites, changes = dict[tuple[str, str], list[str]](), dict[tuple[bytes, int], Change]()
    for row in rows:
        kind, op, start_ts, commit_ts, key, *_ = row
        if kind == "PREWRITE":
            prewrites[key, start_ts] = row
        elif kind == "ROLLBACK":
            prewrites.pop((key, start_ts), None)
        elif int(commit_ts) <= last_ts:
            content = row if kind == "COMMITTED" else prewrites.pop((key, start_ts))
            value, old_value = (bytes.fromhex(part.strip("-")) for part in content[5:])
            change = Change(int(start_ts), None if op == "DELETE" else value, old_value)
            assert changes.setdefault((bytes.fromhex(key), int(commit_ts)), change) == change
    return changes


@pytest.fixture(autouse=True)
def _client() -> None:
    try:
        fetch()
    except NotHereError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("release", ["v6.5", "v8.5"])
def test_java_client_receives_the_same(tmp_path: Path, release: str) -> None:
    """It reads a history with splits by its scan, and then live rows.

    It cannot follow a split: it does not look at the errors of regions.
    """
    random = Random(11)
    with (
        Peer(tmp_path / "peer", cdc=release) as peer,
        PDClient([peer.pd_address], clock=SystemClock()) as pd,
        peer.connect() as session,
    ):
        begin, keys = pd.tso(), cdc_bank.create(peer)
        for number in range(TRANSACTIONS):
            cdc_bank.transact(session, random)
            if number % 50 == 25:
                cdc_bank.split(peer, number)
        follower = Follower(
            pd,
            peer.kv_address,
            [keys],
            checkpoint_ts=begin,
            multiplexed=release == "v8.5",
        )
        with follower, JavaFeed(peer.pd_address, keys, begin, tmp_path / "java") as java:
            deadline = soon()
            while not java.has_started():
                assert deadline.sleep_ms(50)
            follower.follow_to(pd.tso(), soon())
            for _ in range(TRANSACTIONS):
                cdc_bank.transact(session, random)
            end = pd.tso()
            follower.follow_to(end, soon())
            rows = java.rows_to(end)
    expected = {k: change for k, change in follower.changes.items() if k[1] <= end}
    assert changes_of(rows, end) == expected
    assert len(expected) > TRANSACTIONS
    assert {row[0] for row in rows} >= {"PREWRITE", "COMMIT", "COMMITTED"}


def exchange_statements() -> list[str]:
    """The scenarios, each in its own database."""
    statements = []
    for name, scenario in SCENARIOS.items():
        statements += [f"CREATE DATABASE {name}", f"USE {name}"]
        statements += [each for each in scenario if each != COMPACT]
    return statements


def play(peer: Peer, statements: Sequence[str]) -> int:
    """Run captured statements with every kind of commit; return how many TiDB accepted."""
    accepted, random = 0, Random(5)
    with peer.connect() as session:
        for statement in statements:
            for name in ("async_commit", "1pc"):
                session.query(f"SET tidb_enable_{name} = {random.randint(0, 1)}")
            with suppress(MySqlError):
                session.query(statement)
                accepted += 1
    return accepted


def first_key(peer: Peer, database: str) -> RawKey:
    """Create a table, which has its own region; return its first key."""
    peer.sql(f"CREATE DATABASE {database}", f"CREATE TABLE {database}.t (a INT PRIMARY KEY)")
    return encode_record_key(cdc_bank.table_id(peer, database, "t"), b"")


@pytest.mark.parametrize("release", ["v6.5", "v8.5"])
@pytest.mark.parametrize("statements", [read_statements, exchange_statements])
def test_captured_workloads(
    tmp_path: Path, statements: Callable[[], list[str]], release: str
) -> None:
    """It reads their history by its scan, after a split by each new table and partition."""
    with (
        Peer(tmp_path / "peer", cdc=release) as peer,
        PDClient([peer.pd_address], clock=SystemClock()) as pd,
    ):
        begin = pd.tso()
        first = first_key(peer, "theflash_first")
        accepted = play(peer, statements())
        keys, end = RawKeyRange(first, first_key(peer, "theflash_last")), pd.tso()
        follower = Follower(
            pd, peer.kv_address, [keys], checkpoint_ts=begin, multiplexed=release == "v8.5"
        )
        with follower, JavaFeed(peer.pd_address, keys, begin, tmp_path / "java") as java:
            follower.follow_to(end, soon(PATIENCE_MS))
            rows = java.rows_to(end, PATIENCE_MS / 1000)
    expected = {k: change for k, change in follower.changes.items() if k[1] <= end}
    assert changes_of(rows, end) == expected
    assert accepted > 100
    assert len(expected) > accepted / 4
