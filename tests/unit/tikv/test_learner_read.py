"""Learner reads with one failure at a time."""

import pytest

from pyspark_theflash.base.clock import Deadline
from pyspark_theflash.base.errors import (
    KeyIsLockedError,
    RegionBehindError,
    RegionEpochNotMatchError,
    RegionGapError,
    RegionNotReadableError,
    TiKVUnavailableError,
)
from pyspark_theflash.base.types import RegionID, TimeStamp
from pyspark_theflash.cluster.located import RawKeyRange
from pyspark_theflash.cluster.lock import Lock, LockKind
from pyspark_theflash.cluster.resolve import LockPolicy, LockResolver
from pyspark_theflash.tidb.codec.key import RawKey
from pyspark_theflash.tikv.learner_read import CatchUp
from tests.support.manual_clock import ManualClock
from tests.support.sim_learner import LoggedCluster, LoggedTransactions, Pairs, SimReplica

KEYS = [b"m%d" % n for n in range(9)]
ALL = [RawKeyRange(RawKey(b"m"), RawKey(b"n"))]


class Scene:
    """Nine keys in three regions, completely applied."""

    def __init__(self) -> None:
        self.cluster = LoggedCluster()
        self.replica = SimReplica(self.cluster)
        self.put(*KEYS)
        for key in (KEYS[3], KEYS[6]):
            self.cluster.split(key)
        self.replica.apply_all()
        self.cluster.cached = [region.located() for region in self.cluster.sorted()]
        self.opened: list[dict[RegionID, int]] = []
        """The arguments of each attempt to open a view."""
        self.asleep = lambda _: None
        self.opening = lambda: None

    def put(self, *keys: bytes) -> int:
        tikv = self.cluster.tikv
        start = tikv.tso()
        self.cluster.run(lambda: tikv.prewrite(start, keys[0], {key: b"v" + key for key in keys}))
        commit = tikv.tso()
        self.cluster.run(lambda: tikv.commit(start, commit, keys))
        return commit

    def run(self, ts: int | None = None, policy=LockPolicy.WAIT) -> Pairs:
        at = self.cluster.tikv.tso() if ts is None else TimeStamp(ts)

        def open_at(versions):
            self.opened.append(versions)
            self.opening()
            return self.replica.open_at(ALL, versions)

        resolver = LockResolver(LoggedTransactions(self.cluster), policy)
        deadline = Deadline(ManualClock(lambda ms: self.asleep(ms)), 2000)
        view = CatchUp(self.cluster, self.replica, resolver, at).open(ALL, open_at, deadline)
        resolved = resolver.resolve(list(view.locks.values()), at, deadline)
        keys = sorted(view.records.keys() | view.locks.keys())
        pairs = [(key, view.get(key, at, resolved.ignored, resolved.committed)) for key in keys]
        return [(key, value) for key, value in pairs if value is not None]


def values(keys=KEYS):
    return [(key, b"v" + key) for key in keys]


def test_opens_a_view_of_all_regions():
    scene = Scene()
    assert scene.run() == values()
    assert scene.opened == [{region.id: region.epoch.version for region in scene.cluster.sorted()}]


def test_waits_for_the_log():
    scene = Scene()
    scene.put(b"m31", b"m71")
    waited = []

    def asleep(ms):
        waited.append(ms)
        if len(waited) > 20:
            scene.replica.apply_all()

    scene.asleep = asleep
    assert scene.run() == sorted([*values(), (b"m31", b"vm31"), (b"m71", b"vm71")])
    assert len(waited) > 20


def test_a_log_that_does_not_come():
    scene = Scene()
    scene.put(b"m31")
    with pytest.raises(RegionBehindError):
        scene.run()


def test_a_region_that_is_not_here():
    scene = Scene()
    region = scene.cluster.region_of(KEYS[4])
    del scene.replica.regions[region.id]
    with pytest.raises(RegionNotReadableError):
        scene.run()


def test_a_replica_that_knows_nothing_of_a_split():
    scene = Scene()
    scene.cluster.split(KEYS[1], new_is_left=True)
    scene.cluster.logs[scene.cluster.region_of(KEYS[1]).id].pop()
    scene.cluster.region_of(KEYS[1]).index -= 1
    with pytest.raises((RegionEpochNotMatchError, RegionNotReadableError)):
        scene.run()
    assert scene.opened == []


def test_no_leader():
    scene = Scene()
    scene.cluster.move_leader(KEYS[4], 0)
    with pytest.raises(TiKVUnavailableError, match="gives no read index"):
        scene.run()


def test_a_gap():
    scene = Scene()
    del scene.replica.regions[scene.cluster.cached.pop(1).id]
    with pytest.raises(RegionGapError, match=KEYS[3].hex()):
        scene.run()


@pytest.mark.parametrize("new_is_left", [False, True])
def test_only_read_indexes_of_changed_regions_are_requested_again(new_is_left, monkeypatch):
    scene = Scene()
    requested = []
    read_index = scene.cluster.read_index

    def spy(region, *rest):
        requested.append(region.range.start)
        return read_index(region, *rest)

    monkeypatch.setattr(scene.cluster, "read_index", spy)

    def opening():
        if len(scene.opened) == 1:
            scene.cluster.split(KEYS[4], new_is_left=new_is_left)
            scene.replica.apply_all()

    scene.opening = opening
    assert scene.run() == values()
    assert requested[:3] == [b"", KEYS[3], KEYS[6]]
    assert requested[3:] == [KEYS[3], KEYS[3], KEYS[4]]


@pytest.mark.parametrize("number", [2, 3, 4])
def test_a_split_that_takes_keys_away(number):
    scene = Scene()
    ticks = 0

    def tick():
        nonlocal ticks
        ticks += 1
        if ticks == number:
            scene.cluster.split(KEYS[1])
            scene.put(KEYS[2])
            scene.replica.apply_all()

    at = scene.cluster.tikv.tso()
    scene.cluster.tick = tick
    assert scene.run(ts=at) == values()
    assert ticks > 5


def test_a_lock_in_memory_is_waited_for_and_then_the_log():
    """Async commit: the last key is not in the log yet when the read index is requested."""
    scene = Scene()
    cluster, tikv = scene.cluster, scene.cluster.tikv
    start = tikv.tso()
    floor = TimeStamp(start + 1)
    at = {"min_commit_ts": floor, "ttl_ms": 100}
    cluster.run(
        lambda: tikv.prewrite(start, KEYS[7], {KEYS[7]: b"new"}, secondaries=[KEYS[8]], **at)
    )
    held = Lock(RawKey(KEYS[8]), LockKind.PUT, RawKey(KEYS[7]), start, 100, min_commit_ts=floor)
    cluster.memory_locks[KEYS[8]] = held
    scene.replica.apply_all()
    ts = TimeStamp(start + 1000)
    with pytest.raises(KeyIsLockedError):
        scene.run(ts, LockPolicy.FAIL)

    slept = 0

    def asleep(ms):
        nonlocal slept
        slept += 1
        if slept == 3:
            cluster.memory_locks.clear()
            cluster.run(
                lambda: tikv.prewrite(start, KEYS[7], {KEYS[8]: b"new"}, secondaries=[], **at)
            )
            cluster.run(lambda: tikv.commit(start, floor, [KEYS[7], KEYS[8]]))
        if slept > 30:
            scene.replica.apply_all()

    scene.asleep = asleep
    expected = [*values(KEYS[:7]), (KEYS[7], b"new"), (KEYS[8], b"new")]
    assert scene.run(ts=ts) == expected
    assert slept > 30


def test_a_lock_that_is_committed_is_read_through():
    scene = Scene()
    tikv, cluster = scene.cluster.tikv, scene.cluster
    start = tikv.tso()
    new = {KEYS[0]: b"new", KEYS[4]: b"new"}
    cluster.run(lambda: tikv.prewrite(start, KEYS[0], new))
    scene.replica.apply_all()
    cluster.run(lambda: tikv.commit(start, tikv.tso(), [KEYS[0]]))
    scene.asleep = lambda _: scene.replica.apply_all()
    assert dict(scene.run()) == {**dict(values()), **new}
    assert KEYS[4] in tikv.locks
