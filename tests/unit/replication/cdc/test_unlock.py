"""Locks that hold the frontier are resolved, or only checked, by the client's policy."""

import logging
from collections.abc import Iterator

import pytest

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.cluster.located import RawKeyRange
from pyspark_theflash.cluster.pd import PDClient
from pyspark_theflash.cluster.resolve import LockPolicy
from pyspark_theflash.cluster.tikv.client import TiKVClient
from pyspark_theflash.replication.cdc.unlock import unlocker
from pyspark_theflash.tidb.codec.key import RawKey
from tests.support.fake_tikv import FakeTiKV
from tests.support.manual_clock import ManualClock

KEYS = RawKeyRange(RawKey(b"a"), RawKey(b"z"))


@pytest.fixture
def tikv() -> Iterator[FakeTiKV]:
    """Three regions, and a dead client's locks in them."""
    with FakeTiKV() as fake:
        for bound in (b"d", b"g"):
            fake.cluster.split(bound)
        model = fake.cluster.tikv
        model.prewrite(model.tso(), b"b", {b"b": b"x", b"e": b"x", b"h": None}, ttl_ms=100)
        model.pass_ms(101)
        yield fake


def unlock(tikv: FakeTiKV, policy: LockPolicy) -> None:
    clock = ManualClock()  # waits take no time
    with (
        PDClient([tikv.pd.address], clock=SystemClock()) as pd,
        TiKVClient(pd, clock=clock, policy=policy) as client,
    ):
        unlocker(client, clock)(KEYS)


def test_locks_of_a_dead_client_are_resolved(tikv: FakeTiKV) -> None:
    unlock(tikv, LockPolicy.RESOLVE)
    assert tikv.cluster.tikv.locks == {}


@pytest.mark.parametrize("policy", [LockPolicy.WAIT, LockPolicy.FAIL])
def test_nothing_is_written_otherwise(
    tikv: FakeTiKV, policy: LockPolicy, caplog: pytest.LogCaptureFixture
) -> None:
    before = tikv.cluster.tikv.state()
    with caplog.at_level(logging.WARNING):
        unlock(tikv, policy)
    assert tikv.cluster.tikv.state() == before
    assert "a lock holds the change feed" in caplog.text


def test_without_locks(tikv: FakeTiKV, caplog: pytest.LogCaptureFixture) -> None:
    tikv.cluster.tikv.locks.clear()
    unlock(tikv, LockPolicy.WAIT)
    assert caplog.text == ""


def test_a_store_that_does_not_answer_is_logged(
    tikv: FakeTiKV, caplog: pytest.LogCaptureFixture
) -> None:
    for store in (1, 2, 3):
        tikv.stop_store(store)
    unlock(tikv, LockPolicy.WAIT)
    assert "cannot be checked" in caplog.text
    for store in (1, 2, 3):
        tikv.start_store(store)
