"""The learner with a small table: regions, flushes, snapshots, full disks, missing schemas."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyspark_theflash.base.clock import Deadline, SystemClock
from pyspark_theflash.base.errors import (
    CacheFullError,
    CorruptionError,
    InternalError,
    NotCaughtUpError,
    OptionError,
    PDUnavailableError,
    RaftCommandError,
    RegionBehindError,
    RegionEpochNotMatchError,
    RegionGapError,
    RegionNotReadableError,
    RegionStoppedError,
    RowMissingError,
    SchemaOutdatedError,
    StoreFullError,
    TheFlashError,
    TiKVUnavailableError,
)
from pyspark_theflash.base.failpoint import armed
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.base.types import RegionID, TimeStamp
from pyspark_theflash.replication.apply.tables import PhysicalTables
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.storage.mvcc.project import scan_column
from pyspark_theflash.storage.store import manifest
from pyspark_theflash.storage.store.folder import StoreIdentity
from pyspark_theflash.storage.store.stopped import STOPPED_KIND, stopped_regions
from pyspark_theflash.testing.memory import MemoryEngine
from pyspark_theflash.tidb.schema.history import SchemaHistory
from pyspark_theflash.tikv.flush import FlushLimits, OwnThread
from pyspark_theflash.tikv.learner import Learner
from pyspark_theflash.tikv.read import open_tables
from pyspark_theflash.tikv.region_snapshot import SnapshotBuilder
from pyspark_theflash.tikv.wire import decode_commands
from tests.support.kv_table import HISTORY, TABLE, commit, committed, key, locked
from tests.support.learning import Learning
from tests.support.percolator_records import write_record
from tests.support.raft_tikv import Change, FakeRaftCluster, FakeRegion, at_ts, batch, ts_of
from tests.support.row_oracle import decode_row_v2
from tests.support.same_thread import SameThread
from tests.support.table_rows import read_rows

LONG = "long" * 100
CLOCK = SystemClock()


@pytest.fixture(params=["memory", "magic"])
def learning(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Learning]:
    folder = tmp_path / "store" if request.param == "magic" else None
    made = Learning(FakeRaftCluster(), HISTORY, folder)
    yield made
    made.close()


def texts(learning: Learning, ts: int) -> dict[int, str]:
    return {handle: row[1] for handle, row in learning.rows(TABLE, ts).items()}


def send(learning: Learning) -> None:
    """Send all commands since the last call."""
    learning.send(entry for _, _, entry in learning.tikv.log[learning.sent :])
    learning.sent = len(learning.tikv.log)


def applied(learning: Learning, region: int = 1) -> int:
    state = learning.learner.store.region(RegionID(region))
    assert state is not None
    return state.applied.applied_index


def durable(learning: Learning, region: int = 1) -> int:
    (answer,) = learning.learner.store.durable_states([RegionID(region)])
    assert answer.state is not None
    return answer.state.applied_index


def test_rows_before_and_after_a_flush(learning: Learning) -> None:
    commit(learning.tikv, 1, 10, "a")
    commit(learning.tikv, 2, 12, LONG)
    send(learning)
    before = durable(learning)
    assert texts(learning, 20) == {1: "a", 2: LONG}
    assert durable(learning) == before < applied(learning)
    learning.learner.flush()
    assert durable(learning) == applied(learning)
    commit(learning.tikv, 1, 20, None)
    commit(learning.tikv, 3, 21, "c")
    send(learning)
    assert [texts(learning, ts) for ts in (9, 10, 19, 20, 21)] == [
        {},
        {1: "a"},
        {1: "a", 2: LONG},
        {2: LONG},
        {2: LONG, 3: "c"},
    ]


def test_what_was_not_flushed_is_sent_again(learning: Learning) -> None:
    commit(learning.tikv, 1, 10, "a")
    learning.tikv.write(locked(2, 11, LONG))
    learning.tikv.write(locked(3, 11, "c", primary=2))
    send(learning)
    learning.learner.flush()
    commit(learning.tikv, 1, 20, "b")
    send(learning)
    learning.kill()
    assert texts(learning, 50) == {1: "a"}
    assert len(learning.learner.store.cache.locks) == 2
    learning.send(entry for _, _, entry in learning.tikv.log)
    learning.tikv.write([*committed_of(2, 11, 30, None), *committed_of(3, 11, 30, "c")])
    send(learning)
    assert texts(learning, 50) == {1: "b", 2: LONG, 3: "c"}
    assert len(learning.learner.store.cache.locks) == 0
    assert len(learning.learner.store.cache.defaults) == 0


def committed_of(handle: int, start_ts: int, ts: int, text: str | None) -> list[Change]:
    """Return the changes that commit a lock; a long row stays in the default column family."""
    short = None if text is None else committed(handle, ts, text)[0][2]
    record = write_record("P", start_ts)
    if short is not None:
        record += short[short.index(b"v") :]
    return [("write", at_ts(key(handle), ts), record), ("lock", key(handle), None)]


def test_pending_entries_are_written_once(learning: Learning) -> None:
    for handle in range(200):
        learning.tikv.write(locked(handle, 11, f"{handle}", primary=0))
    send(learning)
    learning.learner.flush()
    store = learning.learner.store
    assert len(store._pending) == 1
    commit(learning.tikv, 1000, 15, "x")
    send(learning)
    learning.learner.flush()
    assert len(store._pending) == 1
    changes = [c for h in range(100) for c in committed_of(h, 11, 20, str(h))]
    learning.tikv.write(changes)
    send(learning)
    learning.learner.flush()
    learning.kill()
    assert len(learning.learner.store.cache.locks) == 100
    assert texts(learning, 20) == {**{h: str(h) for h in range(100)}, 1000: "x"}


def test_what_is_mostly_dead_is_written_anew(
    learning: Learning, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyspark_theflash.tikv.pending_records._SPARE_BYTES", 0)
    for start_ts in range(10, 60, 5):
        for handle in range(20):
            learning.tikv.write(locked(handle, start_ts, "v", primary=0))
        send(learning)
        learning.learner.flush()
        learning.tikv.write(
            [c for h in range(20) for c in committed_of(h, start_ts, start_ts + 2, "v")]
        )
        send(learning)
        learning.learner.flush()
    assert len(learning.learner.store._pending) < 5
    learning.kill()
    assert len(learning.learner.store.cache.locks) == 0


# Regions.


def test_splits_and_merges_move_no_row(learning: Learning) -> None:
    tikv = learning.tikv
    for handle in range(10):
        commit(tikv, handle, 10 + handle, str(handle))
    tikv.split([key(3), key(6)])
    for handle in range(10):
        commit(tikv, handle, 30 + handle, f"new {handle}")
    left, middle, right = sorted(tikv.regions.values(), key=lambda r: r.start)
    tikv.merge(middle, left)
    tikv.merge(right, left, roll_back=True)
    commit(tikv, 5, 60, "last")
    send(learning)
    expected = {h: f"new {h}" for h in range(10)} | {5: "last"}
    assert texts(learning, 100) == expected
    store = learning.learner.store
    assert [(s.region.start, s.region.end) for s in store.regions()] == [
        (b"", key(6)),
        (key(6), b""),
    ]
    for state in store.regions():
        assert state.region.epoch.version == tikv.regions[state.id].version
        assert state.region.epoch.conf_ver == tikv.regions[state.id].conf_ver
        assert state.peer is not None
        assert state.peer.store_id == 77
    learning.learner.flush()
    learning.kill()
    assert texts(learning, 100) == expected
    assert len(learning.learner.store.regions()) == 2


def test_a_gap_is_no_answer(learning: Learning) -> None:
    tikv = learning.tikv
    tikv.split([key(3), key(6)])
    send(learning)
    middle = tikv.region_of(key(4))
    learning.send([tikv.destroy(middle)])
    with pytest.raises(RegionGapError):
        learning.rows(TABLE, 50)
    learning.install(middle)
    assert texts(learning, 50) == {}


def test_a_merging_region_is_not_read(learning: Learning) -> None:
    tikv = learning.tikv
    tikv.split([key(3)])
    left, right = sorted(tikv.regions.values(), key=lambda r: r.start)
    tikv.merge(right, left)
    log = [entry for _, _, entry in tikv.log]
    learning.send(log[:2])
    with pytest.raises(RegionNotReadableError, match="merging"):
        learning.rows(TABLE, 50)
    learning.learner.flush()
    learning.kill()
    with pytest.raises(RegionNotReadableError, match="merging"):
        learning.rows(TABLE, 50)
    learning.send(log)
    assert texts(learning, 50) == {}


def test_a_merge_before_its_source_has_come_so_far(learning: Learning) -> None:
    tikv = learning.tikv
    tikv.split([key(3)])
    left, right = sorted(tikv.regions.values(), key=lambda r: r.start)
    tikv.merge(right, left)
    log = [entry for _, _, entry in tikv.log]
    with pytest.raises(RaftCommandError, match="must be applied up to index"):
        learning.send([log[0], log[2]])
    with pytest.raises(InternalError, match="the learner has failed"):
        learning.send([log[1]])
    learning.kill()
    learning.send(log)
    assert len(learning.learner.store.regions()) == 1


def test_epochs_and_indexes_of_a_read(learning: Learning) -> None:
    tikv = learning.tikv
    commit(tikv, 1, 10, "a")
    send(learning)
    store = learning.learner.store
    open_tables(store, TABLE.physical_ids, TimeStamp(50), versions={RegionID(1): 1})
    tikv.split([key(3)])
    send(learning)
    with pytest.raises(RegionEpochNotMatchError):
        open_tables(store, TABLE.physical_ids, TimeStamp(50), versions={RegionID(1): 1})
    index = applied(learning)
    store.wait_applied(RegionID(1), index, Deadline(CLOCK, 0))
    with pytest.raises(RegionBehindError):
        store.wait_applied(RegionID(1), index + 1, Deadline(CLOCK, 20))
    with pytest.raises(RegionNotReadableError):
        store.wait_applied(RegionID(99), 1, Deadline(CLOCK, 20))


def test_a_peer_that_is_taken_away(learning: Learning) -> None:
    tikv = learning.tikv
    region = tikv.regions[1]
    region.peers = region.peers[:1]
    rng = random.Random()
    rng.choice = lambda _: "ChangePeer"  # type: ignore[method-assign,assignment]
    tikv.change_nothing(region, rng)
    send(learning)
    assert not learning.learner.store.regions()
    learning.learner.flush()
    learning.kill()
    assert not learning.learner.store.regions()


# Snapshots.


def test_a_snapshot_over_older_rows(learning: Learning) -> None:
    """Versions collected by TiKV before a snapshot are not visible here either."""
    tikv = learning.tikv
    for handle, text in ((1, "stays"), (2, "goes"), (3, "goes, comes back"), (4, LONG), (5, "a")):
        commit(tikv, handle, 10, text)
    send(learning)
    learning.learner.flush()
    commit(tikv, 2, 20, None)
    commit(tikv, 3, 21, None)
    commit(tikv, 4, 22, "short")
    commit(tikv, 5, 23, None)
    tikv.write(_collected(tikv, 30))
    commit(tikv, 3, 40, "back")
    commit(tikv, 6, 41, "new")
    learning.install(tikv.regions[1])
    learning.sent = len(tikv.log)
    for ts in (30, 39, 40, 50):
        assert texts(learning, ts) == _truth(tikv, ts), ts
    learning.install(tikv.regions[1])
    assert texts(learning, 50) == {1: "stays", 3: "back", 4: "short", 6: "new"}
    commit(tikv, 2, 60, "again")
    send(learning)
    learning.learner.flush()
    learning.kill()
    assert texts(learning, 60) == {1: "stays", 2: "again", 3: "back", 4: "short", 6: "new"}


def _collected(tikv: FakeRaftCluster, safe_point: int) -> list[Change]:
    """Return the changes of a GC, after registering commits without transactions in the fake."""
    _learn_writes(tikv)
    return tikv.collect(safe_point)


def _learn_writes(tikv: FakeRaftCluster) -> None:
    tikv.writes.clear()
    for write_key, record in tikv.cfs["write"].items():
        ts = ts_of(write_key)
        entry = (ts, chr(record[0]), ts - 1)
        tikv.writes.setdefault(write_key[:-8], []).append(entry)


def _truth(tikv: FakeRaftCluster, ts: int) -> dict[int, str]:
    _learn_writes(tikv)
    rows = tikv.read(b"t", ts)
    types = {2: TABLE.columns[1].type}
    return {
        int.from_bytes(raw[11:], "big") - 2**63: decode_row_v2(row, types)[2]
        for raw, row in rows.items()
    }


def test_garbage_collected_through_raft_hides_nothing(learning: Learning) -> None:
    tikv = learning.tikv
    commit(tikv, 1, 10, LONG)
    commit(tikv, 1, 20, LONG + "2")
    commit(tikv, 2, 10, "x")
    commit(tikv, 2, 15, None)
    tikv.write(_collected(tikv, 25))
    send(learning)
    assert texts(learning, 30) == {1: LONG + "2"}


def test_a_snapshot_of_parts_of_different_moments(learning: Learning) -> None:
    """A commit is in the snapshot, its row in the log; later commits are delayed until then."""
    tikv = learning.tikv
    tikv.write(locked(1, 9, LONG))
    tikv.write(committed_of(1, 9, 10, None))
    commit(tikv, 1, 20, "second")
    commit(tikv, 2, 12, "other")
    row = tikv.cfs["default"].pop(at_ts(key(1), 9))
    learning.install(tikv.regions[1])
    learning.sent = len(tikv.log)
    with pytest.raises(RowMissingError):
        learning.rows(TABLE, 15)
    assert texts(learning, 9) == {}
    commit(tikv, 1, 30, "third")
    send(learning)
    learning.learner.flush()
    learning.kill()
    with pytest.raises(RowMissingError):
        learning.rows(TABLE, 35)
    tikv.write([("default", at_ts(key(1), 9), row)])
    send(learning)
    expected = [{1: LONG}, {1: LONG, 2: "other"}, {1: "second", 2: "other"}]
    assert [texts(learning, ts) for ts in (10, 15, 25)] == expected
    learning.learner.flush()
    assert texts(learning, 35) == {1: "third", 2: "other"}
    assert len(learning.learner.store.cache.orphans) == 0


@pytest.mark.parametrize("is_one_batch", [False, True])
def test_a_delayed_commit_that_is_rewritten(learning: Learning, is_one_batch: bool) -> None:
    """The rollback of another transaction rewrites the record before its row has arrived."""
    tikv = learning.tikv
    tikv.write(locked(1, 9, LONG))
    tikv.write(committed_of(1, 9, 10, None))
    row = tikv.cfs["default"].pop(at_ts(key(1), 9))
    learning.install(tikv.regions[1])
    learning.sent = len(tikv.log)
    commit(tikv, 1, 20, "second")
    if is_one_batch:
        tikv.write(locked(1, 29, LONG))
        tikv.write(committed_of(1, 29, 30, None))
    for start_ts, fence in ((9, 20), *(((29, 0),) if is_one_batch else ())):
        record = write_record("P", start_ts, overlapped_rollback=True, gc_fence=fence)
        tikv.write([("write", at_ts(key(1), start_ts + 1), record)])
    send(learning)
    tikv.write([("default", at_ts(key(1), 9), row)])
    send(learning)
    assert texts(learning, 15) == {1: LONG}
    assert texts(learning, 25) == {1: "second"}
    if is_one_batch:
        assert texts(learning, 35) == {1: LONG}


def test_a_commit_without_its_row(learning: Learning) -> None:
    learning.tikv.write([("write", at_ts(key(1), 10), write_record("P", 9))])
    send(learning)
    store = learning.learner.store
    for _ in range(2):
        with pytest.raises(CorruptionError, match="no row"):
            store.regions()
    with pytest.raises(CorruptionError, match="no row"):
        learning.learner.flush()
    assert learning.learner.failure is not None


def test_snapshots_that_do_not_fit(learning: Learning) -> None:
    tikv = learning.tikv
    tikv.split([key(3)])
    send(learning)
    whole = FakeRaftCluster()
    whole.regions[1].id = 7
    with pytest.raises(RaftCommandError, match="has keys of region"):
        learning.install(whole.regions[1])
    whole.regions[1].version = 9
    learning.tikv = whole
    learning.install(whole.regions[1])
    assert [s.id for s in learning.learner.store.regions()] == [7]
    builder = SnapshotBuilder(limit_bytes=10)
    chunks = list(whole.snapshot(whole.regions[1]))
    with pytest.raises(CacheFullError):
        builder.add(chunks[0])


# Ranges and files.


def test_a_range_is_deleted(learning: Learning) -> None:
    tikv = learning.tikv
    for handle in range(6):
        commit(tikv, handle, 10, LONG if handle % 2 else "short")
    send(learning)
    learning.learner.flush()
    commit(tikv, 3, 20, "newer")
    tikv.write(locked(4, 30, "lock"))
    commit(tikv, 8, 30, "not in it")
    tikv.delete_range(key(2), key(5))
    commit(tikv, 4, 40, "after")
    send(learning)
    expected = {0: "short", 1: LONG, 4: "after", 5: LONG, 8: "not in it"}
    assert texts(learning, 50) == expected
    learning.send(entry for _, _, entry in tikv.log)
    learning.learner.flush()
    learning.kill()
    learning.send(entry for _, _, entry in tikv.log)
    assert texts(learning, 50) == expected


def test_a_file_of_a_bulk_load(learning: Learning) -> None:
    tikv = learning.tikv
    commit(tikv, 1, 10, "a")
    rows = [committed(h, 20, LONG if h % 2 else str(h)) for h in range(100, 120)]
    pairs = [(cf, k, v) for changes in rows for cf, k, v in changes if v is not None]
    for cf in ("default", "write"):
        tikv.ingest(cf, [(k, v) for c, k, v in pairs if c == cf], cf.encode())
    commit(tikv, 100, 30, "changed")
    send(learning)
    values = texts(learning, 50)
    assert len(values) == 21
    assert (values[100], values[101], values[102]) == ("changed", LONG, "102")


def reading_no_files(learning: Learning, engine: MemoryEngine) -> Learner:
    return Learner(SameThread(engine), lambda _: learning.tables, CLOCK)


def install(learner: Learner, tikv: FakeRaftCluster, region: FakeRegion) -> None:
    builder = SnapshotBuilder()
    for chunk in tikv.snapshot(region):
        builder.add(chunk)
    learner.install(builder.finish())


def test_a_bulk_load_that_cannot_be_followed() -> None:
    """Its region stops, with an error for reads above it; other regions and old reads continue."""
    learning, engine = Learning(FakeRaftCluster(), HISTORY, None), MemoryEngine()
    tikv, learner = learning.tikv, reading_no_files(learning, engine)
    tikv.split([key(50)])
    ingesting, other = (RegionID(tikv.region_of(key(handle)).id) for handle in (1, 60))

    def send_all() -> None:
        learner.apply(decode_commands(batch(entry for _, _, entry in tikv.log[start:])))

    install(learner, tikv, tikv.regions[ingesting])
    install(learner, tikv, tikv.regions[other])
    start = len(tikv.log)
    commit(tikv, 1, 10, "a")
    before = learner.store.region(ingesting)
    loaded = [(k, v) for cf, k, v in committed(5, 15, "b") if cf == "write" and v is not None]
    tikv.ingest("write", loaded, b"u")
    commit(tikv, 2, 20, "after")
    commit(tikv, 60, 30, "other")
    for _ in range(2):  # TiKV sends it again.
        send_all()
    now = Deadline(CLOCK, 0)
    stopped, followed = (learner.store.region(region) for region in (ingesting, other))
    assert before is not None
    assert stopped is not None
    assert followed is not None
    assert followed.applied.applied_index == tikv.regions[other].index
    index = stopped.applied.applied_index
    learner.store.wait_applied(ingesting, index, now)
    learner.store.wait_applied(other, followed.applied.applied_index, now)
    with pytest.raises(RegionStoppedError, match=rf"stays at index {index}: .*bulk load"):
        learner.store.wait_applied(ingesting, index + 1, now)
    assert learner.store.is_changed
    learner.flush()
    assert not learner.store.is_changed
    (recorded,) = stopped_regions(engine.read([STOPPED_KIND]))
    assert (recorded.region_id, recorded.applied_index) == (ingesting, index)
    learner = reading_no_files(learning, engine)
    assert list(learner.store.stopped) == [ingesting]
    send_all()
    with pytest.raises(RegionStoppedError, match=rf"stays at index {index}: .*bulk load"):
        learner.store.wait_applied(ingesting, index + 1, now)
    install(learner, tikv, tikv.regions[ingesting])
    learner.store.wait_applied(ingesting, index + 2, now)
    assert not learner.store.stopped
    assert stopped_regions(engine.read([STOPPED_KIND])) == []
    learning.close()


def test_a_region_that_stays_is_merged() -> None:
    """The target stays before the merge, until a snapshot of it comes; other regions continue."""
    learning = Learning(FakeRaftCluster(), HISTORY, None)
    tikv, learner = learning.tikv, reading_no_files(learning, MemoryEngine())
    tikv.split([key(50), key(80)])
    left, middle, other = (tikv.region_of(key(handle)) for handle in (1, 60, 90))
    for region in (left, middle, other):
        install(learner, tikv, region)
    loaded = [(k, v) for cf, k, v in committed(5, 15, "b") if cf == "write" and v is not None]
    start = len(tikv.log)
    tikv.ingest("write", loaded, b"u")
    commit(tikv, 60, 20, "before")
    tikv.merge(left, middle)
    commit(tikv, 60, 30, "after")
    commit(tikv, 90, 40, "other")
    for _ in range(2):  # TiKV sends it again.
        learner.apply(decode_commands(batch(entry for _, _, entry in tikv.log[start:])))
    assert sorted(learner.store.stopped) == sorted([left.id, middle.id])
    stopped = learner.store.region(RegionID(middle.id))
    assert stopped is not None
    index, now = stopped.applied.applied_index, Deadline(CLOCK, 0)
    with pytest.raises(RegionStoppedError, match=rf"merge of region {left.id} at index"):
        learner.store.wait_applied(RegionID(middle.id), index + 1, now)
    learner.store.wait_applied(RegionID(other.id), other.index, now)
    install(learner, tikv, middle)
    assert not learner.store.stopped
    learner.store.wait_applied(RegionID(middle.id), middle.index, now)
    learning.close()


# Memory, disk, schema.


def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    learning = Learning(FakeRaftCluster(), HISTORY, tmp_path / "store")
    commit(learning.tikv, 1, 10, "a")
    send(learning)

    def full() -> None:
        raise OSError(28, "No space left on device")

    with armed("magic.before_file", full), pytest.raises(StoreFullError):
        learning.learner.flush()
    commit(learning.tikv, 1, 20, "b")
    send(learning)
    assert [texts(learning, ts) for ts in (10, 20)] == [{1: "a"}, {1: "b"}]
    learning.learner.flush()
    assert durable(learning) == applied(learning)
    assert [texts(learning, ts) for ts in (10, 20)] == [{1: "a"}, {1: "b"}]
    commit(learning.tikv, 1, 30, "c")
    with armed("magic.before_file", full), pytest.raises(StoreFullError):
        learning.install(learning.tikv.regions[1])
    before = durable(learning)
    learning.install(learning.tikv.regions[1])
    assert durable(learning) == applied(learning) > before
    learning.kill()
    assert texts(learning, 30) == {1: "c"}
    learning.close()


def test_compaction_changes_nothing(learning: Learning) -> None:
    columns = [scan_column(TABLE, c) for c in TABLE.columns]
    for ts in range(10, 40):
        commit(learning.tikv, ts % 4, ts, str(ts))
        send(learning)
        learning.learner.flush()
        if not ts % 5:
            learning.engine.compact(TABLE.physical_ids[0], columns)
    assert learning.learner.flusher.touched == {TABLE.physical_ids[0]}
    for ts in range(10, 40):
        expected = {t % 4: str(t) for t in range(10, ts + 1)}
        assert texts(learning, ts) == expected


def test_a_schema_that_is_not_there_yet() -> None:
    learning = Learning(FakeRaftCluster(), HISTORY, None)
    schemas = [PhysicalTables(SchemaHistory(HISTORY.start_ts, TimeStamp(15), HISTORY.events, ()))]
    published = [manifest.ManifestChange([manifest.Record("schema", "k", b"v")])]
    engine = MemoryEngine()
    learner = Learner(SameThread(engine), lambda _: schemas[-1], CLOCK, extra=lambda: published[0])
    builder = SnapshotBuilder()
    for chunk in learning.tikv.snapshot(learning.tikv.regions[1]):
        builder.add(chunk)
    learner.install(builder.finish())
    commit(learning.tikv, 1, 20, "a")
    learner.apply(decode_commands(batch(entry for _, _, entry in learning.tikv.log)))
    with pytest.raises(SchemaOutdatedError):
        learner.flush()
    schemas.append(PhysicalTables(HISTORY))
    learner.flush()
    assert engine.stats(engine.read([]), TABLE.physical_ids[0]).rows == 1
    assert engine.read(["schema"]).of_kind("schema") == {"k": b"v"}
    learner.close()
    learning.close()


@pytest.mark.parametrize(
    "failure",
    [
        PDUnavailableError("pd:1", "gone"),
        TiKVUnavailableError("region 1", "has no leader"),
        NotCaughtUpError(19, 20),
        RegionGapError("00", "ff"),
    ],
    ids=lambda e: type(e).__name__,
)
def test_a_schema_that_nobody_can_be_asked_for(failure: TheFlashError) -> None:
    learning, failures = Learning(FakeRaftCluster(), HISTORY, None), [failure, failure]
    engine = MemoryEngine()

    def schema(ts: TimeStamp) -> PhysicalTables:
        if ts == 20 and failures:
            raise failures.pop()
        return PhysicalTables(HISTORY)

    learner = Learner(SameThread(engine), schema, CLOCK, limits=FlushLimits(rows_bytes=1))
    builder = SnapshotBuilder()
    for chunk in learning.tikv.snapshot(learning.tikv.regions[1]):
        builder.add(chunk)
    learner.install(builder.finish())
    commit(learning.tikv, 1, 20, "a")
    learner.apply(decode_commands(batch(entry for _, _, entry in learning.tikv.log)))
    with pytest.raises(type(failure)):
        learner.tick()
    with pytest.raises(type(failure)):
        learner.flush()
    learner.flush()
    assert engine.stats(engine.read([]), TABLE.physical_ids[0]).rows == 1
    learner.close()
    learning.close()


def test_memory_is_bounded() -> None:
    limits = FlushLimits(rows_bytes=1 << 40, memory_bytes=20_000)
    learning = Learning(FakeRaftCluster(), HISTORY, None, limits)
    for handle in range(100):
        commit(learning.tikv, handle, 10 + handle, LONG)
        send(learning)
        assert learning.learner.store.size_bytes < 30_000
    assert learning.learner.flusher.rows > 0
    with pytest.raises(CacheFullError, match="transactions that have not ended"):
        _lock_ever_more(learning)
    assert learning.learner.store.size_bytes < 30_000
    assert len(texts(learning, 400)) == 100
    learning.close()


def test_memory_that_nobody_has_room_for() -> None:
    for memory_bytes in (0, 1 << 31):
        with pytest.raises(OptionError, match="memory_bytes"):
            FlushLimits(memory_bytes=memory_bytes)


def _lock_ever_more(learning: Learning) -> None:
    for handle in range(100):
        learning.tikv.write(locked(handle, 500, LONG))
        send(learning)


def test_an_engine_in_a_thread_of_its_own(tmp_path: Path) -> None:
    fs, path = LocalFileSystem(), tmp_path / "store"
    identity = registry.create(path, registry.MAGIC, fs)
    tikv = FakeRaftCluster()
    worker = OwnThread(lambda: registry.open_engine(path, identity, fs, CLOCK))
    limits = FlushLimits(rows_bytes=5_000, delay_ms=20)
    learner = Learner(worker, lambda _: PhysicalTables(HISTORY), CLOCK, limits=limits)
    builder = SnapshotBuilder()
    for chunk in tikv.snapshot(tikv.regions[1]):
        builder.add(chunk)
    learner.install(builder.finish())
    for handle in range(300):
        commit(tikv, handle, 10 + handle, LONG)
        learner.apply(decode_commands(batch([tikv.log[-1][2]])))
        learner.tick()
        if handle % 10 == 0:
            ts = 10 + handle // 2
            assert _handles(learner, path, identity, ts) == list(range(ts - 9))
    learner.close()
    assert learner.flusher.rows == 300
    again = OwnThread(lambda: registry.open_engine(path, identity, fs, CLOCK))
    second = Learner(again, lambda _: PhysicalTables(HISTORY), CLOCK)
    state = second.store.region(RegionID(1))
    assert state is not None
    assert state.applied.applied_index == tikv.regions[1].index
    second.close()


def _handles(learner: Learner, path: Path, identity: StoreIdentity, ts: int) -> list[int]:
    """Reads while the engine's thread publishes."""
    reader = registry.open_reader(path, identity, LocalFileSystem(), CLOCK)
    (view,) = open_tables(learner.store, TABLE.physical_ids, TimeStamp(ts))
    stored, columns = reader.read([]), [scan_column(TABLE, TABLE.columns[0])]
    batches = read_rows(view, reader, stored, PhysicalTables(HISTORY), columns)
    handles = [handle for each in batches for handle in each.column(0).to_pylist()]
    reader.close()
    return sorted(handles)


def test_an_engine_that_does_not_open() -> None:
    def fails() -> MemoryEngine:
        raise StoreFullError("there")

    with pytest.raises(StoreFullError):
        OwnThread(fails)
