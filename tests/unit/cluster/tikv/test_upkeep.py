"""A store's service safe point and heartbeats, against a fake PD."""

import pytest

from pyspark_theflash.base.errors import SnapshotTooOldError
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.cluster.tikv.upkeep import HEARTBEAT_MS, Heartbeat, SharedHold, store_of_ours
from pyspark_theflash.cluster.tikv.wire.directory import Directory
from tests.support.manual_clock import ManualClock

CALL = "UpdateServiceGCSafePoint"


@pytest.fixture
def directory(pd):
    return Directory(pd)


def calls(tikv):
    return tikv.pd.calls.count(CALL)


def test_one_hold_for_all(tikv, directory):
    held, clock = tikv.pd.service_safe_points, ManualClock()
    hold = SharedHold(directory, "us", clock=clock)
    hold.ensure(TimeStamp(50))
    hold.ensure(TimeStamp(70))
    assert (held[b"us"], hold.held, calls(tikv)) == (50, 50, 1)
    hold.ensure(TimeStamp(40))
    assert held[b"us"] == 40
    hold.follow(lambda: TimeStamp(70))
    assert held[b"us"] == 70
    before = calls(tikv)
    hold.follow(lambda: TimeStamp(70))
    assert calls(tikv) == before
    clock.now_ms += 100_000
    hold.follow(lambda: TimeStamp(70))
    assert calls(tikv) == before + 1
    hold.follow(lambda: None)
    assert held == {b"gc_worker": 0}
    hold.ensure(TimeStamp(80))
    hold.close()
    assert held == {b"gc_worker": 0}


def test_what_comes_too_late(tikv, directory):
    tikv.pd.service_safe_points[b"gc_worker"] = 60
    hold = SharedHold(directory, "us", clock=ManualClock())
    with pytest.raises(SnapshotTooOldError):
        hold.ensure(TimeStamp(50))
    assert hold.held is None
    # The safe point still protects the newer latches.
    hold.follow(lambda: TimeStamp(50))
    assert tikv.pd.service_safe_points[b"us"] == 60
    with pytest.raises(SnapshotTooOldError):
        hold.ensure(TimeStamp(50))
    hold.ensure(TimeStamp(61))


def test_a_hold_that_has_run_out_is_taken_again(tikv, directory):
    clock = ManualClock()
    hold = SharedHold(directory, "us", clock=clock)
    hold.ensure(TimeStamp(50))
    clock.now_ms += 300_000
    assert hold.held is None
    hold.ensure(TimeStamp(90))
    assert tikv.pd.service_safe_points[b"us"] == 90


def test_signs_of_life(tikv, directory, tmp_path):
    clock = ManualClock()
    ours = store_of_ours(9, "127.0.0.1:3930", clock)
    heartbeat = Heartbeat(directory, ours, tmp_path, lambda: 4, clock)
    heartbeat.register()
    (store,) = tikv.pd.put
    assert (store.id, store.address) == (9, "127.0.0.1:3930")
    assert [(label.key, label.value) for label in store.labels] == [("engine", "theflash")]
    clock.now_ms += HEARTBEAT_MS
    heartbeat.beat()
    heartbeat.beat()
    clock.now_ms += HEARTBEAT_MS
    heartbeat.beat()
    first, second = tikv.pd.heartbeats
    assert (first.store_id, first.region_count, second.store_id) == (9, 4, 9)
    assert first.capacity >= first.available > 0
