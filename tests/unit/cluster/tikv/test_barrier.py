"""A store's GC barrier, against a fake PD."""

import pytest

from pyspark_theflash.base.errors import GCBarrierLostError
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.cluster.tikv import barrier as module
from pyspark_theflash.cluster.tikv.barrier import GCBarrier, barrier_name
from pyspark_theflash.cluster.tikv.wire.directory import Directory
from pyspark_theflash.net.channel import grpc
from tests.support.manual_clock import ManualClock
from tests.support.processes import wait_until

NAME = barrier_name("7")


@pytest.fixture
def barrier(pd):
    return GCBarrier(Directory(pd), NAME, clock=ManualClock())


def test_a_barrier_moves_and_outlives_its_holder(tikv, barrier):
    held = tikv.pd.service_safe_points
    barrier.hold(TimeStamp(50))
    assert held == {b"gc_worker": 0, NAME.encode(): 50}
    barrier.hold(TimeStamp(70))
    barrier.check(TimeStamp(0))
    barrier.close()
    assert held[NAME.encode()] == 70


def test_a_barrier_below_the_safe_point_is_lost(tikv, barrier):
    tikv.pd.service_safe_points[b"gc_worker"] = 60
    with pytest.raises(GCBarrierLostError, match="load it again") as lost:
        barrier.hold(TimeStamp(59))
    assert (lost.value.ts, lost.value.safe_point) == (59, 60)
    with pytest.raises(GCBarrierLostError):
        barrier.check(TimeStamp(59))
    barrier.check(TimeStamp(60))
    barrier.hold(TimeStamp(60))
    barrier.check(TimeStamp(0))


def test_a_renewal_that_fails_is_reported_only_if_the_barrier_is_lost(tikv, barrier, caplog):
    barrier.hold(TimeStamp(50))
    tikv.pd.failures = [grpc.StatusCode.INVALID_ARGUMENT]
    assert not barrier.renew(lambda: TimeStamp(51))
    assert "not renewed" in caplog.text
    barrier.check(TimeStamp(0))
    tikv.pd.service_safe_points = {b"gc_worker": 60}  # PD has dropped ours, and TiKV went on
    assert not barrier.renew(lambda: TimeStamp(51))
    with pytest.raises(GCBarrierLostError):
        barrier.check(TimeStamp(51))


def test_a_thread_renews(tikv, pd, monkeypatch):
    monkeypatch.setattr(module, "_LOOK_S", 0.01)
    clock = ManualClock()
    barrier = GCBarrier(Directory(pd), NAME, clock=clock)
    barrier.hold(TimeStamp(50))
    called = tikv.pd.calls.count("UpdateServiceGCSafePoint")
    newest = [TimeStamp(70)]
    barrier.start(lambda: newest[0])
    clock.now_ms += 60_000
    wait_until(lambda: tikv.pd.service_safe_points[NAME.encode()] == 70)
    barrier.close()
    assert tikv.pd.calls.count("UpdateServiceGCSafePoint") == called + 1
