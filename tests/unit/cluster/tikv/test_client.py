"""The client against a fake TiKV over gRPC: splits, moves, failures, wrong responses."""

import pytest

from pyspark_theflash.base.clock import Deadline, SystemClock
from pyspark_theflash.base.errors import (
    KeyIsLockedError,
    PDUnavailableError,
    RegionGapError,
    TheFlashError,
    TiKVRefusedError,
    TiKVUnavailableError,
)
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.cluster.located import RawKeyRange
from pyspark_theflash.cluster.lock import Lock, LockKind
from pyspark_theflash.cluster.pd import PDClient
from pyspark_theflash.cluster.tikv.client import TiKVClient
from pyspark_theflash.net.channel import grpc
from pyspark_theflash.tidb.codec.key import RawKey
from pyspark_theflash.tidb.protocol._generated.kvproto import errorpb_pb2, metapb_pb2
from tests.support.fake_tikv import FakeTiKV
from tests.support.manual_clock import ManualClock
from tests.support.tls import tls, trust

EVERYTHING = RawKeyRange(RawKey(b""), RawKey(b""))
KEYS = [RawKey(b"k%02d" % n) for n in range(20)]
UNAVAILABLE = (TiKVUnavailableError, PDUnavailableError)
"""Errors of a store that does not respond: the deadline may pass during a call of PD, too."""


def fill(tikv: FakeTiKV) -> TimeStamp:
    tikv.put({key: b"v" + key for key in KEYS})
    for at in (5, 10, 15):
        tikv.cluster.split(KEYS[at])
    return tikv.cluster.tikv.tso()


def scanned(client: TiKVClient, keys: RawKeyRange, ts: int, deadline: Deadline, **limits: int):
    pages = client.scan(keys, TimeStamp(ts), deadline, **limits)
    return [pair for page in pages for pair in page]


def values(keys=KEYS):
    return [(key, b"v" + key) for key in keys]


def test_reads_at_timestamps(tikv, client, soon):
    first = tikv.put({b"a": b"1", b"b": b"1"})
    second = tikv.put({b"a": b"2", b"b": None})
    assert client.get(RawKey(b"a"), first, soon) == b"1"
    assert client.get(RawKey(b"a"), second, soon) == b"2"
    assert client.get(RawKey(b"a"), TimeStamp(first - 1), soon) is None
    assert client.get(RawKey(b"b"), second, soon) is None
    assert scanned(client, EVERYTHING, second, soon) == [(b"a", b"2")]


def test_scans_over_regions(tikv, client, soon):
    ts = fill(tikv)
    assert scanned(client, EVERYTHING, ts, soon) == values()
    for limit in (1, 3, 5, 20):
        assert scanned(client, EVERYTHING, ts, soon, limit=limit) == values()
    assert scanned(client, RawKeyRange(KEYS[4], KEYS[11]), ts, soon, limit=2) == values(KEYS[4:11])
    assert scanned(client, RawKeyRange(KEYS[5], KEYS[5]), ts, soon) == []
    tikv.page = 2  # fewer keys than the limit do not end a region
    assert scanned(client, EVERYTHING, ts, soon) == values()


@pytest.mark.parametrize("change", ["split", "split, new is left", "merge", "leader", "peers"])
@pytest.mark.parametrize("is_pd_stale", [False, True])
def test_regions_that_change(tikv, client, soon, change, is_pd_stale):
    ts, cluster = fill(tikv), tikv.cluster
    assert scanned(client, EVERYTHING, ts, soon) == values()
    if is_pd_stale:
        tikv.pd.freeze()
    changes = 0

    def happens(name):
        nonlocal changes
        if changes == 8:
            tikv.pd.stale = None
        if changes == 8 or name != "KvScan":
            return
        key = KEYS[(3 * changes + 1) % 20]
        changes += 1
        if change.startswith("split"):
            cluster.split(key, new_is_left="left" in change)
        elif change == "merge":
            cluster.merge(key)
            tikv.pd.stale = None
        elif change == "leader":
            cluster.move_leader(key)
        else:
            cluster.change_peers(key)

    tikv.before = happens
    assert scanned(client, EVERYTHING, ts, Deadline(SystemClock(), 10_000), limit=3) == values()
    assert changes == 8


ERRORS = {
    "busy": errorpb_pb2.Error(server_is_busy=errorpb_pb2.ServerIsBusy(reason="q", backoff_ms=30)),
    "stale command": errorpb_pb2.Error(stale_command=errorpb_pb2.StaleCommand()),
    "not leader, nobody is": errorpb_pb2.Error(not_leader=errorpb_pb2.NotLeader()),
    "epoch, no regions": errorpb_pb2.Error(epoch_not_match=errorpb_pb2.EpochNotMatch()),
    "not found": errorpb_pb2.Error(region_not_found=errorpb_pb2.RegionNotFound()),
    "other store": errorpb_pb2.Error(store_not_match=errorpb_pb2.StoreNotMatch()),
    "not ready": errorpb_pb2.Error(read_index_not_ready=errorpb_pb2.ReadIndexNotReady()),
    "merging": errorpb_pb2.Error(proposal_in_merging_mode=errorpb_pb2.ProposalInMergingMode()),
    "max_ts": errorpb_pb2.Error(max_timestamp_not_synced=errorpb_pb2.MaxTimestampNotSynced()),
    "witness": errorpb_pb2.Error(is_witness=errorpb_pb2.IsWitness()),
    "of a newer TiKV": errorpb_pb2.Error(message="something else"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_of_regions(tikv, client, soon, name):
    ts = fill(tikv)
    tikv.faults = [ERRORS[name]] * 3
    assert scanned(client, EVERYTHING, ts, soon) == values()
    tikv.faults = [ERRORS[name]]
    assert client.get(KEYS[0], ts, soon) == b"vk00"
    assert tikv.faults == []


@pytest.mark.parametrize("name", ["busy", "not found"])
def test_errors_of_regions_that_do_not_pass(tikv, client, name):
    ts = fill(tikv)
    tikv.faults = [ERRORS[name]] * 10_000
    with pytest.raises(UNAVAILABLE):
        client.get(KEYS[0], ts, Deadline(SystemClock(), 400))


def test_flashback_is_not_waited_for(tikv, client, soon):
    ts = fill(tikv)
    tikv.faults = [errorpb_pb2.Error(FlashbackInProgress=errorpb_pb2.FlashbackInProgress())]
    with pytest.raises(TiKVRefusedError, match="FlashbackInProgress"):
        scanned(client, EVERYTHING, ts, soon)


def test_a_store_that_moves(tikv, client):
    ts, deadline = fill(tikv), Deadline(SystemClock(), 10_000)
    assert client.get(KEYS[0], ts, deadline) == b"vk00"
    tikv.stop_store(1)
    tikv.start_store(1)
    assert client.get(KEYS[0], ts, deadline) == b"vk00"


def test_a_store_that_dies(tikv, client):
    ts, deadline = fill(tikv), Deadline(SystemClock(), 10_000)
    assert client.get(KEYS[0], ts, deadline) == b"vk00"
    tikv.stop_store(1)
    with pytest.raises(UNAVAILABLE, match=r"UNAVAILABLE|DEADLINE_EXCEEDED"):
        client.get(KEYS[0], ts, Deadline(SystemClock(), 400))
    tikv.cluster.move_leader(KEYS[0], 2)
    assert client.get(KEYS[0], ts, deadline) == b"vk00"


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNKNOWN])
def test_failures_that_pass(tikv, client, soon, code):
    ts = fill(tikv)
    tikv.failures = [code, code]
    assert client.get(KEYS[0], ts, soon) == b"vk00"


def test_a_store_that_does_not_know_the_call(tikv, client, soon):
    ts = fill(tikv)
    tikv.failures = [grpc.StatusCode.UNIMPLEMENTED]
    with pytest.raises(TiKVRefusedError, match="KvGet: UNIMPLEMENTED"):
        client.get(KEYS[0], ts, soon)


def test_a_gap_is_no_answer(tikv, client):
    ts = fill(tikv)
    tikv.pd.freeze()
    del tikv.pd.stale[2]
    with pytest.raises(RegionGapError, match=KEYS[10].hex()):
        scanned(client, EVERYTHING, ts, Deadline(ManualClock(), 700))
    with pytest.raises(RegionGapError):
        client.regions.cover([EVERYTHING], Deadline(ManualClock(), 700))


def test_no_pd(tikv, client):
    fill(tikv)
    tikv.pd.failures = [grpc.StatusCode.UNAVAILABLE] * 1000
    with pytest.raises(PDUnavailableError):
        client.get(KEYS[0], TimeStamp(1), Deadline(SystemClock(), 150))


def test_covering(tikv, client, soon):
    fill(tikv)
    wanted = [RawKeyRange(KEYS[3], KEYS[7]), RawKeyRange(KEYS[14], KEYS[19])]
    parts = [part for _, each in client.regions.cover(wanted, soon) for part in each]
    assert parts == [
        RawKeyRange(KEYS[3], KEYS[5]),
        RawKeyRange(KEYS[5], KEYS[7]),
        RawKeyRange(KEYS[14], KEYS[15]),
        RawKeyRange(KEYS[15], KEYS[19]),
    ]
    calls = len(tikv.pd.calls)
    client.regions.cover(wanted, soon)
    assert len(tikv.pd.calls) == calls


def test_many_regions_are_asked_for_at_once(tikv, client, soon):
    keys = [b"r%04d" % n for n in range(300)]
    for key in keys:
        tikv.cluster.split(key)
    assert len(client.regions.cover([EVERYTHING], soon)) == 301
    assert tikv.pd.calls == ["ScanRegions"] * 3


def test_a_store_that_has_not_heard_of_a_split(tikv, client, soon):
    ts = fill(tikv)
    assert client.get(KEYS[7], ts, soon) == b"vk07"
    region = client.regions.locate(KEYS[7], soon)
    before = metapb_pb2.Region(id=region.id, region_epoch=metapb_pb2.RegionEpoch(version=1))
    behind = errorpb_pb2.EpochNotMatch(current_regions=[before])
    tikv.faults = [errorpb_pb2.Error(epoch_not_match=behind)]
    calls = len(tikv.pd.calls)
    assert client.get(KEYS[7], ts, soon) == b"vk07"
    assert client.regions.locate(KEYS[7], soon) == region
    assert len(tikv.pd.calls) == calls


def test_stores_by_tls(soon):
    with FakeTiKV(tls("server")) as fake:
        ts = fake.put({b"a": b"1"})
        with PDClient([fake.pd.address], tls("client"), clock=SystemClock()) as pd:
            with TiKVClient(pd, tls("client"), clock=SystemClock()) as client:
                assert client.get(RawKey(b"a"), ts, soon) == b"1"
            for files in (None, trust(), tls("client", "other-ca")):
                client = TiKVClient(pd, files, clock=SystemClock())
                with client, pytest.raises(UNAVAILABLE):
                    client.get(RawKey(b"a"), ts, Deadline(SystemClock(), 200))


# Locks.


def lock_some(tikv: FakeTiKV, ttl_ms: int) -> int:
    model = tikv.cluster.tikv
    start = model.tso()
    model.prewrite(start, KEYS[0], {KEYS[0]: b"x", KEYS[7]: b"x", KEYS[16]: None}, ttl_ms=ttl_ms)
    return start


def test_locks_of_a_committed_transaction_are_read_through(tikv, client, soon):
    fill(tikv)
    start = lock_some(tikv, 10**6)
    commit = tikv.cluster.tikv.tso()
    tikv.cluster.tikv.commit(start, commit, [KEYS[0]])
    before = tikv.cluster.tikv.state()
    expected = {**dict(values()), KEYS[0]: b"x", KEYS[7]: b"x"}
    del expected[KEYS[16]]
    assert dict(scanned(client, EVERYTHING, commit, soon, limit=4)) == expected
    assert client.get(KEYS[7], commit, soon) == b"x"
    assert client.get(KEYS[16], commit, soon) is None
    assert dict(scanned(client, EVERYTHING, commit - 1, soon)) == dict(values())
    assert tikv.cluster.tikv.state() == before


def test_locks_of_a_dead_client(tikv, client, resolving, soon):
    fill(tikv)
    start = lock_some(tikv, 100)
    ts = tikv.cluster.tikv.tso()
    with pytest.raises(KeyIsLockedError, match=f"transaction start_ts={start}"):
        scanned(client, EVERYTHING, ts, Deadline(SystemClock(), 200))
    tikv.cluster.tikv.pass_ms(101)
    assert scanned(resolving, EVERYTHING, ts, soon) == values()
    # The other locks were ignored without a call.
    assert tikv.cluster.tikv.locks.keys() == {KEYS[7], KEYS[16]}
    assert resolving.get(KEYS[7], ts, soon) == b"vk07"
    assert resolving.get(KEYS[16], ts, soon) == b"vk16"
    assert tikv.cluster.tikv.locks == {}


def test_locks_of_async_commit_in_many_regions(tikv, resolving, soon):
    ts, model = fill(tikv), tikv.cluster.tikv
    start = model.tso()
    every = dict.fromkeys(KEYS, b"x")
    primary, *others = KEYS
    at = {"ttl_ms": 100, "min_commit_ts": start + 1}
    model.prewrite(start, primary, {primary: b"x"}, secondaries=others, **at)
    model.prewrite(start, primary, dict.fromkeys(others, b"x"), secondaries=[], **at)
    model.pass_ms(101)
    tikv.cluster.split(KEYS[3])
    assert dict(scanned(resolving, EVERYTHING, model.tso(), soon)) == every
    assert model.locks == {}
    assert scanned(resolving, EVERYTHING, ts, soon) == values()


# Read indices and old versions.


def test_read_index(tikv, client, soon):
    ts = fill(tikv)
    ((region, ranges),) = client.regions.cover([RawKeyRange(KEYS[11], KEYS[12])], soon)
    index = client.read_index(region, ranges, ts, soon)
    assert index == tikv.cluster.region_of(KEYS[11]).index
    held = Lock(KEYS[11], LockKind.PUT, KEYS[0], TimeStamp(ts - 1), min_commit_ts=TimeStamp(ts))
    tikv.cluster.memory_locks[KEYS[11]] = held
    assert client.read_index(region, ranges, ts, soon).start_ts == ts - 1
    tikv.cluster.split(KEYS[12])
    assert client.read_index(region, ranges, ts, soon) is None
    ((region, ranges),) = client.cover(ranges, soon)
    tikv.cluster.memory_locks.clear()
    assert client.read_index(region, ranges, ts, soon) == tikv.cluster.region_of(KEYS[11]).index
    tikv.stop_store(1)
    assert client.read_index(region, ranges, ts, soon) is None


def test_all_versions_of_a_key(tikv, client, soon):
    commits = [tikv.put({b"m": value}) for value in (b"1", b"2" * 300, None)]
    model = tikv.cluster.tikv
    model.rollback(model.tso(), [b"m"])
    model.prewrite(start := model.tso(), b"m", {b"m": b"4"})
    versions = client.mvcc_get(RawKey(b"m"), soon)
    assert [(w.commit_ts, w.value) for w in versions.writes] == [
        (commits[0], b"1"),
        (commits[1], b"2" * 300),
        (commits[2], None),
    ]
    assert versions.locked_ts == start
    assert client.mvcc_get(RawKey(b"x"), soon).writes == ()


def test_no_answer_is_ever_partial(tikv, client):
    """After a failure, the yielded keys are a prefix, followed by an error."""
    ts = fill(tikv)
    for served in (0, 1, 3, 6):
        calls = 0

        def fails(name, served=served):
            nonlocal calls
            calls += name == "KvScan"
            if calls > served:
                tikv.faults = [ERRORS["busy"]]

        tikv.before = fails
        pages, got = client.scan(EVERYTHING, ts, Deadline(SystemClock(), 100), 3), []
        with pytest.raises(TheFlashError):
            got.extend(pair for page in pages for pair in page)
        assert got == values()[: len(got)]
        tikv.before, tikv.faults = lambda _: None, []


def test_locks_of_a_range(tikv, client, soon):
    fill(tikv)
    start = lock_some(tikv, 100)
    tikv.cluster.split(KEYS[9])
    keys = RawKeyRange(KEYS[1], KEYS[16])
    locks = client.scan_locks(keys, start, soon)
    assert [(lock.key, lock.primary, lock.start_ts) for lock in locks] == [
        (KEYS[7], KEYS[0], start)
    ]
    every = client.scan_locks(EVERYTHING, start, soon)
    assert [lock.key for lock in every] == [KEYS[0], KEYS[7], KEYS[16]]
    assert client.scan_locks(EVERYTHING, TimeStamp(start - 1), soon) == []
