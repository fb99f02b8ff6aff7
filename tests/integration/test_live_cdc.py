"""The change feed of the tests' TiDB, followed by a client of the tests' own.

What it delivers is compared with what the store reads at the same timestamps.
"""

import threading
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from random import Random

import pytest

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.cluster.located import RawKeyRange
from pyspark_theflash.cluster.pd import PDClient
from pyspark_theflash.cluster.resolve import LockPolicy
from pyspark_theflash.cluster.tikv.client import TiKVClient
from pyspark_theflash.tidb.codec.key import RawKey
from pyspark_theflash.tidb.protocol._generated.kvproto.cdcpb_pb2 import Error
from tests.support import cdc_bank
from tests.support.cdc_client import Follower, soon
from tests.support.cdc_peer import CdcControl
from tests.support.kv_writer import STAGES, KvWriter, WriteRefused
from tests.support.peer import Peer

pytestmark = [pytest.mark.peer, pytest.mark.slow]

CLOCK = SystemClock()
META, TABLES = RawKeyRange.of_prefix(b"m"), RawKeyRange.of_prefix(b"t")
SNAPSHOTS = 40
# So short that a resolved_ts that overlooks a prewrite in flight is found.
INTERVAL_MS = 5


@pytest.fixture(scope="module", params=["v8.5", "v6.5"])
def peer(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Peer]:
    folder = tmp_path_factory.mktemp("peer")
    with Peer(folder, cdc=request.param, cdc_interval_ms=INTERVAL_MS) as peer:
        yield peer


@pytest.fixture
def multiplexed(peer: Peer) -> bool:
    return peer.cdc == "v8.5"


@pytest.fixture
def control(peer: Peer) -> CdcControl:
    return CdcControl(peer.cdc_control_url)


@pytest.fixture(scope="module")
def pd(peer: Peer) -> Iterator[PDClient]:
    with PDClient([peer.pd_address], clock=CLOCK) as client:
        yield client


@pytest.fixture
def client(pd: PDClient) -> Iterator[TiKVClient]:
    with TiKVClient(pd, clock=CLOCK, policy=LockPolicy.RESOLVE) as client:
        yield client


def write(peer: Peer, seed: int, over: threading.Event) -> None:
    random = Random(seed)
    with peer.connect() as session:
        while not over.is_set():
            cdc_bank.transact(session, random)


def read(client: TiKVClient, keys: RawKeyRange, ts: TimeStamp) -> dict[RawKey, bytes]:
    return dict(pair for page in client.scan(keys, ts, soon()) for pair in page)


def test_every_change_is_delivered(
    peer: Peer, pd: PDClient, client: TiKVClient, control: CdcControl, multiplexed: bool
) -> None:
    """Also those of clients that died, and through splits, errors and cut streams."""
    rows, begin, over, random = cdc_bank.create(peer), pd.tso(), threading.Event(), Random(7)
    threads = [threading.Thread(target=write, args=(peer, seed, over)) for seed in range(3)]
    snapshots = {begin: read(client, META, begin) | read(client, TABLES, begin)}
    writer = KvWriter(client)
    disturbances = iter(
        [
            lambda: cdc_bank.split(peer, 9),
            lambda: control.fail(Error(not_leader={})),
            lambda: control.cut(),
            lambda: control.refuse(Error(server_is_busy={"reason": "test"}), times=5),
            lambda: control.fail(Error(congested={})),
            lambda: cdc_bank.split(peer, 25),
            *(partial(cdc_bank.run_ddl, peer, n) for n in range(2)),
        ]
    )
    followed = Follower(
        pd, peer.kv_address, [META, TABLES], checkpoint_ts=begin, multiplexed=multiplexed
    )
    with followed as follower:
        for thread in threads:
            thread.start()
        try:
            for number in range(SNAPSHOTS):
                follower.follow_to(pd.tso(), soon())
                ts = pd.tso()
                snapshots[ts] = read(client, META, ts) | read(client, TABLES, ts)
                if number % 5 == 2:
                    next(disturbances, lambda: None)()
                if number % 6 == 4:
                    keys = random.sample([k for k in snapshots[ts] if k in rows], 2)
                    with suppress(WriteRefused):
                        writer.swap(keys, random.choice(STAGES), ttl_ms=1)
        finally:
            over.set()
            for thread in threads:
                thread.join()
        end = pd.tso()
        snapshots[end] = read(client, META, end) | read(client, TABLES, end)
        follower.follow_to(end, soon())
    base = snapshots[begin]
    for ts, expected in snapshots.items():
        assert replayed(follower, base, ts) == expected, ts
    assert follower.seen.keys() >= {"PREWRITE", "COMMIT", "COMMITTED", "ROLLBACK", "lost stream"}
    assert follower.seen.keys() >= {"epoch_not_match", "not_leader", "server_is_busy", "congested"}
    for key in {key for key, _ in follower.changes}:
        for w in client.mvcc_get(RawKey(key), soon()).writes:
            if begin < w.commit_ts <= end:
                change = follower.changes[key, w.commit_ts]
                assert (change.start_ts, change.value) == (w.start_ts, w.value or None)


def replayed(follower: Follower, base: dict[RawKey, bytes], ts: int) -> dict[RawKey, bytes]:
    """Return what exists at a timestamp: the changes since the first snapshot, applied to it."""
    rows = dict(base)
    for (key, commit_ts), change in sorted(follower.changes.items(), key=lambda item: item[0][1]):
        if commit_ts <= ts and change.value is None:
            rows.pop(RawKey(key), None)
        elif commit_ts <= ts and change.value is not None:
            rows[RawKey(key)] = change.value
    return dict(sorted(rows.items()))
