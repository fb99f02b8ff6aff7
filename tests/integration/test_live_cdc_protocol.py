"""The rules of the change feed, one by one, and errors and delays on demand."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from pyspark_theflash.base.clock import Deadline, SystemClock
from pyspark_theflash.base.types import PhysicalTableID, RegionEpoch
from pyspark_theflash.cluster.located import LocatedRegion, RawKeyRange
from pyspark_theflash.cluster.pd import PDClient
from pyspark_theflash.cluster.tikv.client import TiKVClient
from pyspark_theflash.cluster.tikv.wire.directory import Directory
from pyspark_theflash.net.channel import grpc
from pyspark_theflash.tidb.codec.key import RawKey, encode_record_key
from pyspark_theflash.tidb.protocol._generated.kvproto.cdcpb_pb2 import (
    ChangeDataEvent,
    ChangeDataRequest,
    Error,
    Event,
)
from tests.support.cdc_bank import table_id
from tests.support.cdc_client import Row, Row_Type, Stream, soon
from tests.support.cdc_peer import CdcControl
from tests.support.kv_writer import KvWriter
from tests.support.peer import Peer

pytestmark = [pytest.mark.peer, pytest.mark.slow]

CLOCK = SystemClock()
TABLE = PhysicalTableID(7_000)
WAIT_MS = 60_000
SHORT, LONG = b"\x80" + b"s" * 254, b"\x80" + b"l" * 255


@pytest.fixture(scope="module", params=["v8.5", "v6.5"])
def peer(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Peer]:
    with Peer(tmp_path_factory.mktemp("peer"), cdc=request.param) as peer:
        yield peer


@pytest.fixture(scope="module")
def pd(peer: Peer) -> Iterator[PDClient]:
    with PDClient([peer.pd_address], clock=CLOCK) as client:
        yield client


@pytest.fixture
def client(pd: PDClient) -> Iterator[TiKVClient]:
    with TiKVClient(pd, clock=CLOCK) as client:
        yield client


@pytest.fixture
def control(peer: Peer) -> CdcControl:
    return CdcControl(peer.cdc_control_url)


class Feed:
    """A stream with one region subscribed; `rows` are those received so far."""

    def __init__(self, peer: Peer, pd: PDClient, *, multiplexed: bool = False) -> None:
        self.stream = Stream(peer.kv_address, multiplexed=multiplexed)
        self.cluster_id = pd.cluster_id()
        self.rows: list[Row] = []
        self.errors: list[Error] = []
        self.resolved: list[tuple[int, ...]] = []
        self.ended: Any = None

    def register(
        self,
        region: LocatedRegion,
        checkpoint_ts: int,
        keys: RawKeyRange | None = None,
        **options: Any,
    ) -> None:
        cluster_id = options.pop("cluster_id", self.cluster_id)
        self.stream.register(cluster_id, region, checkpoint_ts, keys, **options)

    def until(self, condition: Callable[[], object]) -> None:
        """Receive until a condition holds."""
        deadline = Deadline(CLOCK, WAIT_MS)
        while not condition():
            message = self.stream.received.get(timeout=deadline.left_ms() / 1000)
            if isinstance(message, ChangeDataEvent):
                for event in message.events:
                    self.rows += event.entries.entries
                    self.errors += [event.error] if event.HasField("error") else []
                    if event.WhichOneof("event") == "resolved_ts":
                        self.resolved.append((event.resolved_ts, event.request_id, event.region_id))
                if message.HasField("resolved_ts"):
                    r = message.resolved_ts
                    self.resolved.append((r.ts, r.request_id, *r.regions))
            else:
                self.ended = message or "end"

    def error(self) -> Error:
        """Return the next error."""
        self.until(lambda: self.errors)
        return self.errors.pop(0)

    def until_row(self, kind: int, count: int = 1) -> None:
        self.until(lambda: self.errors or sum(row.type == kind for row in self.rows) >= count)
        assert not self.errors


@pytest.fixture
def feed(peer: Peer, pd: PDClient) -> Iterator[Feed]:
    feed = Feed(peer, pd, multiplexed=peer.cdc == "v8.5")
    yield feed
    feed.stream.close()


@pytest.fixture
def feed_v1(peer: Peer, pd: PDClient) -> Iterator[Feed]:
    feed = Feed(peer, pd)
    yield feed
    feed.stream.close()


@pytest.fixture
def region(client: TiKVClient) -> LocatedRegion:
    return client.regions.locate(key(0), soon())


def key(number: int) -> RawKey:
    return encode_record_key(TABLE, number)


def put(pd: PDClient, client: TiKVClient, values: dict[RawKey, bytes | None]) -> tuple[int, int]:
    """Commit changes; return the start_ts and the commit_ts."""
    start_ts = pd.tso()
    primary, *_ = values
    KvWriter(client).prewrite(start_ts, primary, values, ttl_ms=60_000)
    commit_ts = pd.tso()
    KvWriter(client).commit(start_ts, commit_ts, list(values))
    return start_ts, commit_ts


def shown(row: Row) -> tuple[Any, ...]:
    names = Row_Type.Name(row.type), Row.OpType.Name(row.op_type)
    return *names, row.start_ts, row.commit_ts, RawKey(row.key), row.value, row.old_value


def test_features(peer: Peer) -> None:
    def refused(features: str) -> object:
        stream = Stream(peer.kv_address, multiplexed=True, features=features)
        stream.half_close()
        error = stream.received.get(timeout=WAIT_MS / 1000)
        stream.close()
        return None if error is None else error.code()

    unimplemented = grpc.StatusCode.UNIMPLEMENTED
    assert refused("stream-multiplexing, more") == unimplemented
    is_implemented = peer.cdc == "v8.5"
    assert refused("stream-multiplexing") == (None if is_implemented else unimplemented)


def test_rejected(peer: Peer, feed_v1: Feed, region: LocatedRegion, pd: PDClient) -> None:
    feed, ts = feed_v1, pd.tso()
    register = partial(feed.register, region, ts)
    register(request_id=1, cluster_id=5)
    mismatch = feed.error().cluster_id_mismatch
    assert (mismatch.current, mismatch.request) == (feed.cluster_id, 5)
    register(kv_api=ChangeDataRequest.RawKV)
    assert feed.error().compatibility.required_version == "6.2.0"
    unknown = LocatedRegion(type(region.id)(999_999), region.range, region.epoch)
    feed.register(unknown, ts)
    assert feed.error().HasField("region_not_found")
    epoch = RegionEpoch(region.epoch.conf_ver, region.epoch.version + 1)
    feed.register(LocatedRegion(region.id, region.range, epoch), ts)
    (current,) = feed.error().epoch_not_match.current_regions
    assert (current.id, current.region_epoch.version) == (region.id, region.epoch.version)
    register(request_id=1)
    register(request_id=1)
    assert feed.error().duplicate_request.region_id == region.id
    if peer.cdc == "v6.5":
        register(request_id=2)
        assert feed.error().duplicate_request.region_id == region.id
        register(version="8.4.0")
        assert feed.error().compatibility.required_version == "8.5.0"
    else:
        register(request_id=2)
        feed.until_row(Row_Type.INITIALIZED, 2)


@pytest.mark.parametrize(
    ("version", "is_batched"), [("5.2.9", True), ("4.0.7", False), ("v8.5.0", False)]
)
def test_versions(
    feed_v1: Feed, region: LocatedRegion, pd: PDClient, version: str, is_batched: bool
) -> None:
    """Old and unreadable versions: the cluster id is not checked, resolved_ts comes by region."""
    feed_v1.register(region, pd.tso(), request_id=7, cluster_id=5, version=version)
    feed_v1.until(lambda: feed_v1.resolved)
    assert feed_v1.resolved[0][1:] == (0 if is_batched else 7, region.id)


def test_scan_and_live_rows(
    feed: Feed, pd: PDClient, client: TiKVClient, region: LocatedRegion
) -> None:
    a, b, c = key(1), key(2), key(3)
    first = put(pd, client, {a: b"\x80old", b: LONG})
    checkpoint_ts = pd.tso()
    second = put(pd, client, {a: SHORT})
    third = put(pd, client, {a: LONG, b: None})
    start_ts, writer = pd.tso(), KvWriter(client)
    writer.prewrite(start_ts, c, {c: b"\x80new"}, ttl_ms=60_000)
    feed.register(region, checkpoint_ts, RawKeyRange(a, key(9)), request_id=3)
    feed.until_row(Row_Type.INITIALIZED)
    assert [shown(row) for row in feed.rows] == [
        ("COMMITTED", "PUT", *third, a, LONG, SHORT),
        ("COMMITTED", "PUT", *second, a, SHORT, b"\x80old"),
        ("COMMITTED", "DELETE", *third, b, b"", LONG),
        ("PREWRITE", "PUT", start_ts, 0, c, b"\x80new", b""),
        ("INITIALIZED", "UNKNOWN", 0, 0, b"", b"", b""),
    ]
    # The lock holds back resolved_ts.
    feed.until(lambda: len(feed.resolved) > 2)
    assert {ts for ts, *_ in feed.resolved} == {start_ts}
    feed.rows.clear()
    commit_ts = pd.tso()
    writer.commit(start_ts, commit_ts, [c])
    feed.until(lambda: feed.resolved[-1][0] > commit_ts)
    fourth = put(pd, client, {a: b"\x80x", b: LONG})
    feed.until_row(Row_Type.COMMIT, 3)
    rows = {(row.type, row.key): shown(row) for row in feed.rows}
    assert first[1] < checkpoint_ts
    assert set(rows.values()) == {
        ("COMMIT", "PUT", start_ts, commit_ts, c, b"\x80new", b""),
        ("PREWRITE", "PUT", fourth[0], 0, a, b"\x80x", LONG),
        ("PREWRITE", "PUT", fourth[0], 0, b, LONG, b""),
        ("COMMIT", "PUT", *fourth, a, b"\x80x", b""),
        ("COMMIT", "PUT", *fourth, b, b"", b""),
    }


def test_one_phase(peer: Peer, feed: Feed, pd: PDClient) -> None:
    row_key = encode_record_key(create(peer, "one", "a BIGINT PRIMARY KEY, b INT"), 5)
    follow(feed, pd, row_key)
    peer.sql("INSERT INTO one.t VALUES (5, 6)", "UPDATE one.t SET b = 7")
    feed.until_row(Row_Type.COMMITTED, 2)
    inserted, updated = [row for row in feed.rows if row.type == Row_Type.COMMITTED]
    assert (inserted.key, inserted.old_value, updated.old_value) == (row_key, b"", inserted.value)
    assert not [row for row in feed.rows if row.type in {Row_Type.PREWRITE, Row_Type.COMMIT}]


def test_ranges(
    peer: Peer, feed: Feed, pd: PDClient, client: TiKVClient, region: LocatedRegion
) -> None:
    """Rows outside of the range come from v6.5, or where a bound of the range is empty."""
    checkpoint_ts = pd.tso()
    put(pd, client, {key(20): SHORT, key(30): SHORT, key(40): SHORT})
    feed.register(region, checkpoint_ts, RawKeyRange(key(25), key(35)), request_id=1)
    feed.until_row(Row_Type.INITIALIZED)
    put(pd, client, {key(21): SHORT, key(31): SHORT, key(41): SHORT})
    ts = pd.tso()
    feed.until(lambda: feed.resolved and feed.resolved[-1][0] > ts)
    keys = {row.key for row in feed.rows if row.key}
    inside = {key(30), key(31)}
    outside = {key(20), key(40), key(21), key(41)}
    assert keys == (inside if peer.cdc == "v8.5" else inside | outside)
    if peer.cdc == "v8.5":
        feed.rows.clear()
        feed.register(region, checkpoint_ts, RawKeyRange(key(25), RawKey(b"")), request_id=2)
        feed.until_row(Row_Type.INITIALIZED)
        assert {row.key for row in feed.rows} >= inside | outside


def test_deregister(
    peer: Peer, feed: Feed, region: LocatedRegion, pd: PDClient, client: TiKVClient
) -> None:
    other = client.regions.locate(RawKey(b"m"), soon())
    for each in (region, other):
        feed.register(each, pd.tso(), request_id=1)
    feed.until_row(Row_Type.INITIALIZED, 2)
    feed.stream.deregister(1, region.id)
    if peer.cdc == "v6.5":
        # It is taken for a registration without a cluster id.
        assert feed.error().cluster_id_mismatch.request == 0
        return
    assert feed.error().HasField("region_not_found")
    feed.register(region, pd.tso(), request_id=1)
    feed.until_row(Row_Type.INITIALIZED, 3)
    feed.stream.deregister(1)
    assert [feed.error().HasField("region_not_found") for _ in range(2)] == [True, True]


@pytest.mark.parametrize("held", ["snapshot", "scan"])
def test_live_rows_before_the_scan(
    feed: Feed,
    pd: PDClient,
    client: TiKVClient,
    region: LocatedRegion,
    control: CdcControl,
    held: Any,
) -> None:
    """The commit of a transaction comes before the scan has sent its prewrite, or its row."""
    a, checkpoint_ts, writer = key(50), pd.tso(), KvWriter(client)
    start_ts = pd.tso()
    writer.prewrite(start_ts, a, {a: SHORT}, ttl_ms=60_000)
    with control.held(held):
        feed.register(region, checkpoint_ts, RawKeyRange(a, key(59)))
        wait_for(lambda: [each["scanned"] for each in control.feeds()] == [held == "scan"])
        commit_ts = pd.tso()
        writer.commit(start_ts, commit_ts, [a])
        feed.until_row(Row_Type.COMMIT)
    feed.until_row(Row_Type.INITIALIZED)
    kinds = [Row_Type.Name(row.type) for row in feed.rows if row.key in {a, b""}]
    scanned = "COMMITTED" if held == "snapshot" else "PREWRITE"
    assert kinds == ["COMMIT", scanned, "INITIALIZED"]


def test_errors_on_demand(
    feed: Feed, pd: PDClient, region: LocatedRegion, control: CdcControl
) -> None:
    control.refuse(Error(server_is_busy={"reason": "test"}), region.id, times=2)
    for _ in range(2):
        feed.register(region, pd.tso())
        assert feed.error().server_is_busy.reason == "test"
    feed.register(region, pd.tso())
    feed.until_row(Row_Type.INITIALIZED)
    assert (
        control.send(Event(entries={"entries": [{"type": "COMMIT", "key": b"k"}]}), region.id) == 1
    )
    feed.until_row(Row_Type.COMMIT)
    assert control.send(Event(resolved_ts=5), region.id) == 1
    feed.until(lambda: 5 in {ts for ts, *_ in feed.resolved})
    assert control.fail(Error(congested={"region_id": region.id}), region.id) == 1
    assert feed.error().congested.region_id == region.id
    assert control.feeds() == []
    assert control.cut(int(grpc.StatusCode.UNAVAILABLE.value[0])) == 1
    feed.until(lambda: feed.ended)
    assert feed.ended.code() == grpc.StatusCode.UNAVAILABLE


def test_what_can_be_held(
    feed: Feed, pd: PDClient, region: LocatedRegion, control: CdcControl
) -> None:
    feed.register(region, pd.tso())
    feed.until(lambda: feed.resolved)
    with control.held("resolved"):
        ts = pd.tso()
        assert all(each["resolved_ts"] < ts for each in control.feeds())
    feed.until(lambda: feed.resolved[-1][0] > ts)
    with control.held("send"):
        reached = pd.tso()
        wait_for(lambda: control.feeds()[0]["resolved_ts"] > reached)
        assert feed.stream.received.qsize() <= 1
    feed.until(lambda: feed.resolved[-1][0] > reached)


def test_split(peer: Peer, feed: Feed, pd: PDClient) -> None:
    """The last test: it changes the regions."""
    # TiDB itself splits off the region of a new table.
    table_id = create(peer, "parts", "a BIGINT PRIMARY KEY")
    region = follow(feed, pd, encode_record_key(table_id, 0))
    peer.sql(
        "SET tidb_wait_split_region_finish = 0",
        "SPLIT TABLE parts.t BETWEEN (0) AND (90000) REGIONS 3",
    )
    regions = feed.error().epoch_not_match.current_regions
    assert len(regions) >= 3
    assert regions[0].id == region.id
    assert regions[0].region_epoch.version == region.epoch.version + 1
    assert {each.region_epoch.version for each in regions[1:]} == {1}


def wait_for(condition: Callable[[], object]) -> None:
    deadline = soon()
    while not condition():
        assert deadline.sleep_ms(20)


def follow(feed: Feed, pd: PDClient, key: RawKey) -> LocatedRegion:
    """Subscribe the region of a table that may be splitting."""
    while not any(row.type == Row_Type.INITIALIZED for row in feed.rows):
        region = Directory(pd).region_of(key, soon())
        assert region is not None
        feed.register(region, pd.tso(), RawKeyRange.of_prefix(key[:9]))
        feed.until(lambda: feed.errors or feed.rows)
        feed.errors.clear()
    return region


def create(peer: Peer, database: str, columns: str) -> PhysicalTableID:
    """Create a table `t` in a new database; return its id."""
    peer.sql(f"CREATE DATABASE {database}", f"CREATE TABLE {database}.t ({columns})")
    return table_id(peer, database, "t")
