"""The package's change feed of the tests' TiDB: what it delivers is what the store reads."""

import threading
from collections.abc import Iterator
from random import Random

import pytest

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.cluster.located import RawKeyRange
from pyspark_theflash.cluster.pd import PDClient
from pyspark_theflash.cluster.resolve import LockPolicy
from pyspark_theflash.cluster.tikv.client import TiKVClient
from pyspark_theflash.cluster.tikv.meta import TiKVMeta
from pyspark_theflash.replication.cdc.feed import TiKVChangeFeed
from pyspark_theflash.replication.cdc.streams import GrpcStreams
from pyspark_theflash.replication.cdc.unlock import unlocker
from pyspark_theflash.tidb.codec.key import RawKey, encode_record_key
from pyspark_theflash.tidb.protocol._generated.kvproto.cdcpb_pb2 import Error
from pyspark_theflash.tidb.schema.tidb import TidbSchemaSource
from tests.support.cdc_bank import ACCOUNTS, STEP, transact
from tests.support.cdc_client import soon
from tests.support.cdc_peer import CdcControl
from tests.support.kv_writer import KvWriter
from tests.support.peer import Peer
from tests.support.schema import tables_at

pytestmark = pytest.mark.peer

CLOCK = SystemClock()
META = RawKeyRange.of_prefix(b"mDB")
ROUNDS = 12
CHANGES = (
    "UPDATE feed.t SET n = {n} WHERE id = {key}",
    "UPDATE feed.t SET note = REPEAT('x', {n}) WHERE id = {key}",
    "DELETE FROM feed.t WHERE id = {key}",
    "REPLACE INTO feed.t VALUES ({key}, {n}, REPEAT('r', {n}))",
    "REPLACE INTO feed.c VALUES ('{key}', {n})",
    "SELECT * FROM feed.t WHERE id = {key} FOR UPDATE",
)


@pytest.fixture(scope="module", params=["v8.5", "v6.5"])
def peer(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Peer]:
    with Peer(tmp_path_factory.mktemp("peer"), cdc=request.param) as peer:
        peer.sql(
            "CREATE DATABASE feed",
            "CREATE TABLE feed.t (id BIGINT PRIMARY KEY, n BIGINT, note VARCHAR(900), KEY (n))",
            "CREATE TABLE feed.c (id VARCHAR(20) PRIMARY KEY CLUSTERED, n BIGINT)",
            *split(3),
            "INSERT INTO feed.t VALUES "
            + ", ".join(f"({n * STEP}, {n}, REPEAT('n', {n * 20}))" for n in range(ACCOUNTS)),
        )
        yield peer


@pytest.fixture(scope="module")
def client(peer: Peer) -> Iterator[TiKVClient]:
    with (
        PDClient([peer.pd_address], clock=CLOCK) as pd,
        TiKVClient(pd, clock=CLOCK, policy=LockPolicy.RESOLVE) as client,
    ):
        yield client


def split(regions: int) -> list[str]:
    return [
        "SET tidb_wait_split_region_finish = 0",
        f"SPLIT TABLE feed.t BETWEEN (0) AND ({ACCOUNTS * STEP}) REGIONS {regions}",
    ]


def write(peer: Peer, seed: int, over: threading.Event) -> None:
    """Transactions of all kinds, until the end."""
    random = Random(seed)
    with peer.connect() as session:
        while not over.is_set():
            transact(session, random, CHANGES)


def read(client: TiKVClient, keys: RawKeyRange, ts: TimeStamp) -> dict[bytes, bytes]:
    return {key: value for page in client.scan(keys, ts, soon()) for key, value in page}


class Copy:
    """Keys and values that are kept current with a feed."""

    def __init__(self, client: TiKVClient, cluster_id: int, spans: list[RawKeyRange]) -> None:
        self.client, self.cluster_id, self.spans = client, cluster_id, spans
        self.ts = client.now(soon())
        self.values: dict[bytes, bytes] = {}
        for span in spans:
            self.values |= read(client, span, self.ts)
        self.open()

    def open(self) -> None:
        streams = GrpcStreams(self.client.directory, None)
        self.feed = TiKVChangeFeed(
            self.client.regions,
            streams,
            self.cluster_id,
            clock=CLOCK,
            unlock=unlocker(self.client, CLOCK),
        )
        for span in self.spans:
            self.feed.subscribe(span, self.ts)

    def follow(self, ts: TimeStamp) -> None:
        """Apply all changes up to a timestamp."""
        deadline = soon()
        while self.feed.resolved_ts < ts:
            self.feed.poll(1000)
            assert deadline.left_ms(), f"the frontier stays at {self.feed.resolved_ts}"
        changes: list[tuple[int, bytes, bytes | None]] = []
        taken = self.feed.take(ts)
        changes += [(each.commit_ts, each.key, each.value) for each in taken.meta]
        for versions in (*taken.versions, *taken.large):
            columns = (versions.commit_ts, versions.table_id, versions.op)
            rows = zip(*(c.tolist() for c in columns), strict=True)
            pairs = zip(versions.handles.to_pylist(), versions.values.to_pylist(), strict=True)
            for (commit_ts, table_id, op), (handle, value) in zip(rows, pairs, strict=True):
                key = encode_record_key(table_id, handle)
                changes.append((commit_ts, key, value if op else None))
        for commit_ts, key, value in sorted(changes, key=lambda each: each[:2]):
            assert self.ts < commit_ts <= ts
            if value is None:
                self.values.pop(key, None)
            else:
                self.values[key] = value
        self.ts = ts

    def check(self) -> None:
        expected: dict[bytes, bytes] = {}
        for span in self.spans:
            expected |= read(self.client, span, self.ts)
        assert self.values == expected


def cluster_id_of(peer: Peer) -> int:
    with PDClient([peer.pd_address], clock=CLOCK) as pd:
        return pd.cluster_id()


def spans_of(client: TiKVClient) -> list[RawKeyRange]:
    ts = client.now(soon())
    tables = tables_at(TidbSchemaSource(TiKVMeta(client), CLOCK).read(ts), ts)
    followed = [table for table in tables if table.full_name in ("feed.t", "feed.c")]
    prefixes = [encode_record_key(table.physical_ids[0], b"") for table in followed]
    assert len(prefixes) == 2
    return [*map(RawKeyRange.of_prefix, prefixes), META]


def test_a_copy_is_kept_current(peer: Peer, client: TiKVClient) -> None:
    """Through splits, errors, cut streams, DDL, restarts and writes by several sessions."""
    control, over, random = CdcControl(peer.cdc_control_url), threading.Event(), Random(5)
    copy = Copy(client, cluster_id_of(peer), spans_of(client))
    threads = [threading.Thread(target=write, args=(peer, seed, over)) for seed in range(2)]
    disturbances = [
        lambda: peer.sql(*split(random.randint(4, 12))),
        lambda: control.fail(Error(not_leader={})),
        lambda: control.fail(Error(congested={"region_id": 1})),
        lambda: control.refuse(Error(server_is_busy={"reason": "test"}), times=2),
        lambda: control.fail(Error(region_not_found={})),
        lambda: control.cut(),
        lambda: peer.sql(f"ALTER TABLE feed.t ADD COLUMN c{random.getrandbits(30)} INT DEFAULT 5"),
        lambda: (copy.feed.close(), copy.open()),
        lambda: None,
    ]
    for thread in threads:
        thread.start()
    try:
        for number in range(ROUNDS):
            disturbances[number % len(disturbances)]()
            copy.follow(client.now(soon()))
            copy.check()
    finally:
        over.set()
        for thread in threads:
            thread.join()
    copy.follow(client.now(soon()))
    copy.check()
    copy.feed.close()


def test_a_dead_clients_lock_is_resolved(peer: Peer, client: TiKVClient) -> None:
    """Otherwise it would hold the frontier."""
    copy = Copy(client, cluster_id_of(peer), spans_of(client))
    copy.follow(client.now(soon()))
    writer = KvWriter(client)
    key = RawKey(next(key for key in sorted(copy.values) if key[:1] == b"t"))
    writer.prewrite(client.now(soon()), key, {key: copy.values[key]}, ttl_ms=1)
    copy.follow(client.now(soon()))
    copy.check()
    copy.feed.close()
