"""The feed of a simulated cluster delivers every change below its frontier, and nothing else."""

import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

import pytest

from pyspark_theflash.base.clock import Deadline
from pyspark_theflash.base.errors import (
    ChangeFeedError,
    ClusterMismatchError,
    PDUnavailableError,
    TiKVRefusedError,
)
from pyspark_theflash.base.types import PhysicalTableID, TimeStamp
from pyspark_theflash.cluster.located import LocatedRegion, RawKeyRange
from pyspark_theflash.cluster.tikv.regions import RegionCache
from pyspark_theflash.replication.cdc.feed import FeedLimits, TiKVChangeFeed
from pyspark_theflash.replication.cdc.streams import StreamEnd
from pyspark_theflash.replication.cdc.wire import COMMIT, PUT
from pyspark_theflash.tidb.codec.key import RawKey, encode_record_key
from pyspark_theflash.tidb.protocol._generated.kvproto import cdcpb_pb2
from tests.support.cdc_history import META, TABLES, FeedHistory, span_of
from tests.support.manual_clock import ManualClock
from tests.support.sim_cdc import CLUSTER, SimCdc, SimDirectory, SimStream, SimStreams

Event = cdcpb_pb2.Event
Unlock = Callable[[RawKeyRange], None]


def key(table_id: int, handle: int) -> RawKey:
    return encode_record_key(PhysicalTableID(table_id), handle)


SMALL = FeedLimits(prewrite_bytes=2000, large_bytes=10)


def run(history: FeedHistory, steps: int) -> None:
    for table_id in TABLES:
        history.subscribe(span_of(table_id))
    history.subscribe(META)
    for _ in range(steps):
        history.step()
    history.settle()


@pytest.mark.parametrize("is_old", [False, True])
@pytest.mark.parametrize("first", range(0, 40, 10))
def test_random_histories(*, is_old: bool, first: int) -> None:
    for seed in range(first, first + 10):
        history = FeedHistory(seed, is_old=is_old)
        run(history, 250)


@pytest.mark.parametrize("first", [0, 10])
def test_large_transactions_are_spilled(first: int, tmp_path: Path) -> None:
    for seed in range(first, first + 10):
        run(FeedHistory(seed, limits=SMALL, folder=tmp_path), 250)


# Single rules.


class SlowStreams(SimStreams):
    """Streams on which nothing arrives before the timeout."""

    def receive(self, timeout_ms: int) -> list[tuple[SimStream, bytes | StreamEnd]]:
        self.asleep(timeout_ms)
        return self._items()


class Scene:
    """A feed of one table, and a clock."""

    def __init__(self, *, is_old: bool = False, unlock: Unlock | None = None) -> None:
        self.sim, self.clock = SimCdc(random.Random(1), is_old=is_old), ManualClock()
        self.streams = SlowStreams(self.sim, self.clock.sleep_ms)
        self.sim.rng.randint = lambda low, high: high  # type: ignore[method-assign]
        self.feed = TiKVChangeFeed(
            RegionCache(SimDirectory(self.sim)),  # type: ignore[arg-type]
            self.streams,
            CLUSTER,
            clock=self.clock,
            unlock=unlock,
        )
        self.feed.subscribe(span_of(5), TimeStamp(50))

    def initialize(self) -> None:
        for _ in range(4):
            self.feed.poll(0)
            for each in self.sim.downstreams:
                self.sim.scan(each, 100)
        self.sim.tick()
        self.feed.poll(0)
        assert self.feed.resolved_ts == self.sim.ts

    @property
    def registered(self) -> list[tuple[int, int, int]]:
        """Region, request id and checkpoint_ts of all registrations."""
        requests = [r for r in self.sim.requests if not r.HasField("deregister")]
        return [(r.region_id, r.request_id, r.checkpoint_ts) for r in requests]


def test_a_silent_region_is_requested_again() -> None:
    scene = Scene()
    scene.sim.split(bytes(key(5, 4)))
    scene.initialize()
    before, ids = len(scene.registered), sorted(r.id for r in scene.sim.regions)
    for _ in range(40):
        scene.sim.tick(regions=[r for r in scene.sim.regions if r.id == ids[0]])
        scene.feed.poll(2000)
    again = scene.registered[before:]
    assert [region for region, _, _ in again] == [ids[1]]
    scene.initialize()


class SlowRegions:
    """Regions of a PD that takes 3 s for each lookup."""

    def __init__(self, regions: RegionCache, clock: ManualClock) -> None:
        self._regions, self._clock = regions, clock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._regions, name)

    def cover(self, ranges: Iterable[RawKeyRange], deadline: Deadline) -> Any:
        if not deadline.sleep_ms(3000) or not deadline.left_ms():
            raise PDUnavailableError("pd", "DEADLINE_EXCEEDED")
        return self._regions.cover(ranges, deadline)


def test_a_slow_pd_is_given_more_time() -> None:
    scene = Scene()
    regions = cast("RegionCache", scene.feed._regions)
    scene.feed._regions = SlowRegions(regions, scene.clock)  # type: ignore[assignment]
    for _ in range(20):
        scene.feed.poll(2000)
    assert scene.registered
    scene.initialize()


def test_silent_regions_of_a_whole_stream_close_it() -> None:
    scene = Scene()
    scene.initialize()
    reached = scene.feed.resolved_ts
    for _ in range(40):
        scene.feed.poll(2000)
    assert [each.is_open for each in scene.streams.open_streams] == [False, True]
    assert scene.registered[-1][2] == reached
    scene.initialize()


def test_a_pause_of_the_reader_is_no_silence() -> None:
    scene = Scene()
    scene.initialize()
    scene.clock.sleep_ms(10 * 60_000)
    scene.feed.poll(0)
    scene.feed.poll(2000)
    assert len(scene.registered) == 1


def test_locks_are_checked_if_the_progress_stops() -> None:
    checked: list[RawKeyRange] = []
    scene = Scene(unlock=checked.append)
    scene.initialize()
    txn = scene.sim.begin({bytes(key(5, 1)): b"x"})
    scene.sim.prewrite(txn, txn.writes)
    for _ in range(20):
        scene.sim.tick()
        scene.feed.poll(1000)
    assert scene.feed.resolved_ts == txn.start_ts
    assert checked == [span_of(5)]
    scene.sim.commit(txn, txn.writes)
    for _ in range(20):
        scene.sim.tick()
        scene.feed.poll(1000)
    assert len(checked) == 1


def test_locks_are_checked_if_streams_end_before_a_request_has_waited_long_enough() -> None:
    checked: list[RawKeyRange] = []
    scene = Scene(unlock=checked.append)
    scene.initialize()
    txn = scene.sim.begin({bytes(key(5, 1)): b"x"})
    scene.sim.prewrite(txn, txn.writes)
    for _ in range(3):
        for _ in range(9):
            scene.sim.tick()
            scene.feed.poll(1000)
            for each in scene.sim.downstreams:
                scene.sim.scan(each, 100)
        for stream in scene.streams.open_streams:
            scene.sim.cut(stream)
    assert checked


def test_events_of_an_ended_request_are_ignored() -> None:
    scene = Scene()
    scene.initialize()
    other = span_of(6)
    scene.feed.subscribe(other, TimeStamp(60))
    scene.initialize()
    assert scene.registered == [(1, 1, 50), (1, 2, 60)]
    scene.feed.unsubscribe(other)
    scene.sim.one_phase({bytes(key(6, 1)): b"ignored", bytes(key(5, 1)): b"x"})
    scene.sim.tick()
    scene.feed.poll(0)
    (chunk,) = scene.feed.take(scene.feed.resolved_ts).versions
    assert chunk.table_id.tolist() == [5]
    scene.feed.subscribe(other, TimeStamp(70))
    scene.feed.poll(0)
    assert scene.registered[-1] == (1, 2, 70)


@pytest.mark.parametrize("is_old", [False, True])
def test_a_commit_before_its_prewrite_after_the_scan(*, is_old: bool) -> None:
    """tiflow issue 454: TiKV sent them in this order for a region that was initialized.

    The region is requested again from its own progress, and the scan has the transaction.
    """
    scene = Scene(is_old=is_old)
    scene.initialize()
    progress, before = scene.feed.resolved_ts, len(scene.registered)
    scene.sim.one_phase({bytes(key(5, 2)): b"before"})
    txn = scene.sim.begin({bytes(key(5, 1)): b"x"})
    scene.sim.prewrite(txn, txn.writes)
    scene.sim.commit(txn, txn.writes)
    stream = scene.sim.downstreams[-1].stream
    stream.out[-2:] = stream.out[:-3:-1]
    scene.sim.tick()
    scene.feed.poll(0)
    assert scene.feed.resolved_ts == progress
    for _ in range(10):
        scene.feed.poll(2000)
    assert scene.registered[before:][-1][2] == progress
    scene.initialize()
    chunks = list(scene.feed.take(scene.feed.resolved_ts).versions)
    commits = sorted(ts for chunk in chunks for ts in chunk.commit_ts.tolist())
    assert (len(commits), commits[-1]) == (2, txn.commit_ts)


def test_the_same_contradiction_again_is_an_error() -> None:
    scene = Scene()
    scene.initialize()
    row = Event.Row(type=COMMIT, op_type=PUT, key=bytes(key(5, 1)), start_ts=90, commit_ts=9000)

    def send() -> None:
        (each,) = scene.sim.downstreams
        entries = Event.Entries(entries=[row])
        event = Event(region_id=1, request_id=each.request_id, entries=entries)
        each.stream.out.append(cdcpb_pb2.ChangeDataEvent(events=[event]).SerializeToString())

    send()
    for _ in range(10):
        scene.feed.poll(2000)
    scene.initialize()
    send()
    with pytest.raises(ChangeFeedError, match="committed but not prewritten"):
        scene.feed.poll(0)


def test_changes_of_a_removed_span_are_not_delivered() -> None:
    scene = Scene()
    scene.feed.subscribe(span_of(6), TimeStamp(60))
    scene.initialize()
    scene.sim.one_phase({bytes(key(6, 1)): b"x", bytes(key(5, 1)): b"x"})
    scene.feed.poll(0)
    scene.feed.unsubscribe(span_of(6))
    scene.sim.tick()
    scene.feed.poll(0)
    (chunk,) = scene.feed.take(scene.feed.resolved_ts).versions
    assert chunk.table_id.tolist() == [5]


def test_old_stores_get_further_streams_for_further_spans() -> None:
    scene = Scene(is_old=True)
    scene.initialize()
    for table_id in (6, 7, 8, 9):
        scene.feed.subscribe(span_of(table_id), TimeStamp(60))
        scene.initialize()
    assert all(request == 0 for _, request, _ in scene.registered if request != 1)
    # The fifth closed the second to the fourth, whose requests are now one.
    assert sum(each.is_open for each in scene.streams.open_streams) == 3
    scene.sim.one_phase({bytes(key(t, 1)): b"x" for t in (5, 6, 7, 8, 9)})
    scene.sim.tick()
    scene.feed.poll(0)
    chunks = list(scene.feed.take(scene.feed.resolved_ts).versions)
    assert sorted(t for chunk in chunks for t in chunk.table_id.tolist()) == [5, 6, 7, 8, 9]


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (cdcpb_pb2.Error(cluster_id_mismatch={"current": 5, "request": 7}), ClusterMismatchError),
        (cdcpb_pb2.Error(compatibility={"required_version": "9.0.0"}), TiKVRefusedError),
    ],
)
def test_errors_that_do_not_pass(error: cdcpb_pb2.Error, kind: type[Exception]) -> None:
    scene = Scene()
    scene.sim.next_errors.append(error)
    with pytest.raises(kind):
        scene.feed.poll(0)


@pytest.mark.parametrize(
    ("error", "least_ms"),
    [
        (cdcpb_pb2.Error(server_is_busy={"reason": "scans"}), 1000),
        (cdcpb_pb2.Error(server_is_busy={"reason": "scans", "backoff_ms": 5000}), 5000),
        (cdcpb_pb2.Error(congested={"region_id": 1}), 1000),
        (cdcpb_pb2.Error(region_not_found={}), 20),
        (cdcpb_pb2.Error(), 500),
    ],
)
def test_pauses_grow(error: cdcpb_pb2.Error, least_ms: int) -> None:
    scene = Scene()
    scene.sim.next_errors += [error] * 6
    pauses, last_ms = [], scene.clock.now_ms
    for _ in range(2000):
        count = len(scene.registered)
        scene.feed.poll(50)
        if len(scene.registered) > count:
            pauses.append(scene.clock.now_ms - last_ms)
            last_ms = scene.clock.now_ms
        if len(scene.registered) == 7:
            break
    assert pauses[1] >= least_ms
    assert pauses[-1] > pauses[1] or least_ms == 5000
    assert pauses[-1] <= 25_000
    scene.initialize()


def test_a_refused_stream_and_one_without_a_feed() -> None:
    for end in (
        StreamEnd("PERMISSION_DENIED: no", is_refused=True),
        StreamEnd("UNIMPLEMENTED: no", is_unimplemented=True),
    ):
        scene = Scene(is_old=end.is_unimplemented)
        for _ in range(2 + end.is_unimplemented):
            scene.feed.poll(0)
        scene.streams.open_streams[-1].out.append(end)
        with pytest.raises(TiKVRefusedError):
            scene.feed.poll(0)


def test_a_message_that_is_none() -> None:
    scene = Scene()
    scene.initialize()
    scene.streams.open_streams[-1].out.append(b"\xff")
    with pytest.raises(TiKVRefusedError, match="the change feed"):
        scene.feed.poll(0)


def test_many_regions_are_looked_up_together() -> None:
    """After the end of a stream, PD is not asked for each table."""
    scans: list[RawKeyRange] = []

    class Counting(SimDirectory):
        def scan_regions(self, keys: RawKeyRange, deadline: Deadline) -> list[LocatedRegion]:
            scans.append(keys)
            return super().scan_regions(keys, deadline)

    scene, tables = Scene(), range(6, 306)
    scene.feed._regions = RegionCache(Counting(scene.sim))  # type: ignore[arg-type, assignment]
    for table_id in tables:
        scene.sim.split(bytes(encode_record_key(PhysicalTableID(table_id), b"")))
        scene.feed.subscribe(span_of(table_id), TimeStamp(60))
    scene.initialize()
    assert len(scans) == 3
    assert len(scene.registered) == 1 + len(tables)
    scene.streams.open_streams[-1].out.append(StreamEnd("the store is gone"))
    scene.feed.poll(0)
    scene.clock.sleep_ms(1000)
    scene.initialize()
    assert len(scans) == 6
    assert len(scene.registered) == 2 * (1 + len(tables))


def test_without_pd_the_frontier_waits() -> None:
    scene = Scene()
    scene.initialize()
    scene.sim.fail(scene.sim.downstreams[0], cdcpb_pb2.Error(region_not_found={}))

    class Gone(SimDirectory):
        def scan_regions(self, keys: RawKeyRange, deadline: Deadline) -> list[LocatedRegion]:
            raise PDUnavailableError("PD", "gone")

    scene.feed._regions = RegionCache(Gone(scene.sim))  # type: ignore[arg-type, assignment]
    for _ in range(10):
        scene.feed.poll(1000)
    reached, count = scene.feed.resolved_ts, len(scene.registered)
    scene.feed._regions = RegionCache(SimDirectory(scene.sim))  # type: ignore[arg-type, assignment]
    for _ in range(20):
        scene.feed.poll(1000)
    assert scene.registered[count:] != []
    assert {ts for _, _, ts in scene.registered[count:]} == {reached}
    scene.initialize()
