"""A store that TiKV feeds, in this process: what readers get of files and memory together."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.errors import (
    ClusterMismatchError,
    FeedConflictError,
    LeaseExpiredError,
    NotCaughtUpError,
    OptionError,
    RaftFedError,
    RegionBehindError,
    RegionStoppedError,
    SnapshotTooOldError,
    StoreInUseError,
)
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.cli.jobs.learner import LearnerProcess, LearnerSettings, columns_of
from pyspark_theflash.cli.jobs.sources import Network
from pyspark_theflash.read.plan.snapshot import open_snapshot
from pyspark_theflash.service.client.theflash import TheFlash, connect
from pyspark_theflash.service.server.app import SocketServer
from pyspark_theflash.service.wire.message import (
    Aggregate,
    Aggregation,
    Expression,
    Literal,
    Moment,
    ReadOptions,
    Setting,
    SortKey,
)
from pyspark_theflash.service.wire.method import METHODS
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.storage.store.feed import Feed
from pyspark_theflash.testing.stores import StoreBuilder
from pyspark_theflash.tikv import origin as learned
from pyspark_theflash.tikv.flush import FlushLimits
from pyspark_theflash.tikv.read import open_tables
from pyspark_theflash.tikv.wire import decode_commands
from tests.support.fake_tikv import FakeTiKV
from tests.support.kv_table import HISTORY, TABLE, commit, key, locked
from tests.support.learn_command import write_schema
from tests.support.processes import wait_until
from tests.support.raft_cluster import Ends, Sender, cluster_of
from tests.support.raft_tikv import FakeRaftCluster, batch

FS, CLOCK = LocalFileSystem(), SystemClock()
NAME = TABLE.full_name
NEVER = FlushLimits(delay_ms=10**9)


class World:
    """A cluster with one table, and a folder for a store that learns it."""

    def __init__(self, folder: Path, cluster: FakeTiKV, ends: dict[int, int]) -> None:
        self.folder, self.cluster, self.ends = folder, cluster, ends
        self.tikv: FakeRaftCluster = cluster.cluster.raft
        self.sender = Sender(self.tikv, cluster.cluster.mutex)
        registry.create(folder / "store", registry.MAGIC, FS)
        write_schema(folder / "schema.json", HISTORY, 1 << 60)

    @property
    def store(self) -> Path:
        return self.folder / "store"

    def process(self, **changed: Any) -> LearnerProcess:
        settings: dict[str, Any] = {
            "listen": f"unix:{self.folder}/learner.sock",
            "network": Network((self.cluster.pd.address,)),
            "schema": f"file:{self.folder / 'schema.json'}",
            "limits": NEVER,
            "read_wait_ms": 20_000,
        }
        return LearnerProcess(self.store, LearnerSettings(**settings | changed), fs=FS, clock=CLOCK)

    @contextmanager
    def learning(self, **changed: Any) -> Iterator[tuple[LearnerProcess, TheFlash]]:
        """A running process, whose sender is connected, and its readers' way in."""
        with ExitStack() as undo:
            process = undo.enter_context(closing(self.process(**changed)))
            server = SocketServer(process.service, f"unix:{self.folder / 's'}", clock=CLOCK)
            undo.callback(server.stop)
            server.start()
            process.start()
            undo.callback(self.sender.close)
            self.sender.connect(process.server.address)
            over = threading.Event()
            polling = threading.Thread(target=_poll, args=(process, over))
            undo.callback(polling.join)
            undo.callback(over.set)
            polling.start()
            yield process, undo.enter_context(connect(server.address))

    def put(self, rows: dict[int, str | None], ts: int) -> None:
        with self.cluster.cluster.mutex:
            for handle, text in rows.items():
                commit(self.tikv, handle, ts, text)

    def lock(self, handle: int, start_ts: int, text: str, commit_ts: int | None) -> None:
        """A remaining lock; None: the outcome of its transaction is unknown."""
        if commit_ts is not None:
            self.ends[start_ts] = commit_ts
        with self.cluster.cluster.mutex:
            self.tikv.write(locked(handle, start_ts, text))


def _poll(process: LearnerProcess, over: threading.Event) -> None:
    while not over.wait(0.02):
        process.poll()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    ends: dict[int, int] = {}
    with cluster_of(FakeRaftCluster(), Ends(ends, 1)) as cluster:
        yield World(tmp_path, cluster, ends)


def read(api: TheFlash, ts: int | None = None, **options: Any) -> list[tuple[Any, ...]]:
    plan = api.plan(NAME, moment=Moment(ts), **options)
    rows = [tuple(row.values()) for batch in api.read(plan) for row in batch.to_pylist()]
    return sorted(rows)


def number(value: int) -> Expression:
    return Expression("literal", literal=Literal("int", str(value)))


ID = Expression("column", column="id")


def test_files_and_memory_are_one(world: World) -> None:
    world.put({n: f"old {n}" for n in range(6)}, 10)
    with world.learning() as (process, api):
        world.sender.install(world.tikv.regions[1])
        files = [(n, f"old {n}") for n in range(6)]
        assert read(api) == files
        world.put({1: "new 1", 7: "new 7"}, 20)
        world.put({2: None, 5: "newer 5"}, 30)
        world.sender.send()
        both = [(0, "old 0"), (1, "new 1"), (3, "old 3"), (4, "old 4"), (5, "newer 5")]
        both.append((7, "new 7"))
        at_20 = [*files[:1], (1, "new 1"), *files[2:], (7, "new 7")]
        for _ in ("in memory", "in files", "again"):
            assert read(api, 10) == files
            assert read(api, 20) == at_20
            assert read(api, 30) == read(api) == both
            assert read(api, columns=["v"]) == sorted((v,) for _, v in both)
            assert read(api, where="id % 2 = 1 and id <> 3") == [both[1], *both[4:]]
            is_above = Expression(">", arguments=(ID, number(3)))
            assert read(api, filter=is_above) == both[3:]
            count = Aggregation((), (Aggregate("count"), Aggregate("sum", ID)))
            counted = read(api, aggregation=count)
            assert (sum(n for n, _ in counted), sum(s or 0 for _, s in counted)) == (6, 20)
            first = read(api, limit=2, order=[SortKey("id", descending=True)])
            assert {(7, "new 7"), (5, "newer 5")} <= set(first) <= set(both)
            assert api.digest(NAME).rows == 6
            api.flush()
        assert process.server.address


def test_a_bulk_load_is_shown_and_an_error_of_reads(world: World) -> None:
    with world.learning() as (process, api):
        world.sender.install(world.tikv.regions[1])
        world.put({1: "a"}, 10)
        world.sender.send()
        assert read(api, 10) == [(1, "a")]
        before = process.figures()
        assert before["regions"] == {"followed": 1, "stopped": 0}
        assert before["cache_bytes"]
        with world.cluster.cluster.mutex:
            world.tikv.ingest("write", [(key(2), b"a file's value")], b"u")
        world.sender.send()
        wait_until(lambda: process.figures()["regions"] == {"followed": 0, "stopped": 1})
        with pytest.raises(RegionStoppedError, match="bulk load"):
            read(api, 20)


def test_what_sparks_source_asks(world: World) -> None:
    world.put({1: "a", 2: "b"}, 10)
    with world.learning() as (_, api):
        world.sender.install(world.tikv.regions[1])
        world.put({1: "c"}, 20)
        world.sender.send()
        settings = (Setting("table", NAME), Setting("columns", "v"))
        reading = api.call(METHODS["PrepareRead"], ReadOptions(settings), 20_000)
        assert [column.name for column in reading.table.columns] == ["v"]
        fixed = reading.request.moment.snapshot_ts
        assert fixed > 25
        assert read(api, fixed, columns=["v"]) == [("b",), ("c",)]


def test_a_plan_stays_what_it_was(world: World) -> None:
    world.put({1: "a", 2: "b"}, 10)
    with world.learning() as (_, api):
        world.sender.install(world.tikv.regions[1])
        world.put({1: "c"}, 20)
        world.sender.send()
        plan = api.plan(NAME, moment=Moment(25))
        snapshot = api.snapshot(Moment(15))
        world.put({1: "d", 2: None, 3: "e"}, 22)
        world.sender.send()
        api.flush()
        api.compact()
        rows = [row["v"] for batch in api.read(plan) for row in batch.to_pylist()]
        assert sorted(rows) == ["b", "c"]
        later = api.plan(NAME, moment=Moment(handle=snapshot.handle))
        assert sorted(r["v"] for b in api.read(later) for r in b.to_pylist()) == ["a", "b"]
        world.put({1: "f"}, 40)
        world.sender.send()
        memory = api.plan(NAME, moment=Moment(45))
    with world.learning() as (_, api):
        # What was in memory then is not there any more; what is in files is.
        with pytest.raises(LeaseExpiredError):
            list(api.read(memory))
        assert sorted(r["v"] for b in api.read(later) for r in b.to_pylist()) == ["a", "b"]
        world.sender.send()
        assert read(api, 45) == [(1, "f"), (3, "e")]


def test_locks_are_met_and_shown(world: World) -> None:
    world.put({1: "a", 2: "b", 3: "c"}, 10)
    with world.learning(read_wait_ms=3_000) as (_, api):
        world.sender.install(world.tikv.regions[1])
        world.lock(1, 20, "committed", 25)
        world.lock(2, 21, "rolled back", 0)
        world.sender.send()
        assert read(api, 30) == [(1, "committed"), (2, "b"), (3, "c")]
        assert read(api, 24) == [(1, "a"), (2, "b"), (3, "c")]
        plan = api.plan(f"{NAME}$locks")
        rows = [row for batch in api.read(plan) for row in batch.to_pylist()]
        shown = [(r["handle"], r["kind"], r["start_ts"], r["ttl_ms"]) for r in rows]
        assert shown == [("1", "put", 20, 3000), ("2", "put", 21, 3000)]
        assert all(r["is_primary"] and r["primary_in"] == f"table {TABLE.id}" for r in rows)
        assert "rolled back" not in str(rows)
        raft = api.plan(f"{NAME}$raft")
        (region,) = (row for batch in api.read(raft) for row in batch.to_pylist())
        index = world.tikv.regions[1].index
        assert (region["region_id"], region["applied_index"]) == (1, index)
        assert region["durable_index"] < index
        api.flush()
        (region,) = (r for b in api.read(api.plan(f"{NAME}$raft")) for r in b.to_pylist())
        assert region["durable_index"] == index


def test_what_cannot_be_read(world: World) -> None:
    world.put({1: "a"}, 10)
    with world.learning(read_wait_ms=300) as (_, api):
        world.sender.install(world.tikv.regions[1])
        world.put({1: "b"}, 20)
        with pytest.raises(RegionBehindError):
            read(api)
    with world.learning() as (_, api):
        world.sender.send()
        assert read(api) == [(1, "b")]
        with pytest.raises(NotCaughtUpError):
            read(api, 1 << 50)
        with pytest.raises(SnapshotTooOldError):
            read(api, 0)
        with pytest.raises(RaftFedError):
            open_snapshot(world.store, TimeStamp(20))
        with pytest.raises(StoreInUseError):
            world.process()


def test_what_readers_need_is_held_at_pd(world: World) -> None:
    held = world.cluster.pd.service_safe_points
    world.put({1: "a"}, 10)
    with world.learning() as (_, api):
        world.sender.install(world.tikv.regions[1])
        snapshot = api.snapshot(Moment(50))
        (ours,) = (ts for service, ts in held.items() if service.startswith(b"theflash-"))
        assert ours == 50
        older = api.snapshot(Moment(40))
        assert 40 in held.values()
        # PD would let TiKV collect up to 60, which a read at 30 comes too late for.
        held[b"gc_worker"] = 60
        with pytest.raises(SnapshotTooOldError):
            api.snapshot(Moment(30))
        report = api.collect_garbage(55)
        assert report.startswith("safe point 5:") or "safe point" in report
        api.release(older)
        api.release(snapshot)
    assert not [service for service in held if service.startswith(b"theflash-")]


def test_a_store_of_pds(world: World) -> None:
    with world.learning(advertise="127.0.0.1:3930"):
        (store,) = world.cluster.pd.put
        assert (store.address, store.labels[0].value) == ("127.0.0.1:3930", "theflash")
        deadline_ms = CLOCK.boottime_ms() + 20_000
        while not world.cluster.pd.heartbeats:
            assert CLOCK.boottime_ms() < deadline_ms
            CLOCK.sleep_ms(50)
        assert world.cluster.pd.heartbeats[0].store_id == store.id
    with world.learning(advertise="127.0.0.1:3931"):
        assert world.cluster.pd.put[-1].id == store.id


def test_stores_that_something_else_feeds(world: World, tmp_path: Path) -> None:
    with closing(world.process()):
        pass
    world.cluster.pd.cluster_id += 1
    with pytest.raises(ClusterMismatchError):
        world.process()
    settings = LearnerSettings(f"unix:{tmp_path}/s", Network((world.cluster.pd.address,)))
    rows = {TABLE: [(1, 150, (1, "a"))]}
    for feed, error in ((Feed.STREAM, OptionError), (Feed.API, FeedConflictError)):
        other = StoreBuilder(tmp_path / feed.value, TABLE, feed=feed).publish(200, rows)
        with pytest.raises(error, match=r"binlog|API"):
            LearnerProcess(other.path, settings, fs=FS, clock=CLOCK)


def test_a_region_that_leaves_while_a_read_is_planned(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache had it covered, and the files, which are looked at later, have lost its rows."""
    world.put({n: f"old {n}" for n in range(6)}, 10)
    with world.learning() as (process, api):
        region = world.tikv.regions[1]
        world.sender.install(region)
        files = read(api)
        assert len(files) == 6
        coming = threading.Timer(0.3, lambda: world.sender.install(region))
        learner = process._learner

        def leaves_afterwards(*arguments: Any, **options: Any) -> Any:
            views = open_tables(*arguments, **options)
            if not coming.is_alive() and not coming.finished.is_set():
                learner.apply(decode_commands(batch([world.tikv.destroy(region)])))
                learner.purge_left(columns_of)
                coming.start()
            return views

        monkeypatch.setattr(learned, "open_tables", leaves_afterwards)
        assert read(api) == files
        coming.join()
