"""Our client of TiKV and PD against a real PD and a store that speaks TiKV's protocol.

What is read at a timestamp is compared with what TiDB reads there (`tidb_snapshot`), under
transfers in SQL and clients that were killed with their locks on.
"""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from random import Random

import pytest

from pyspark_theflash.base.clock import Deadline, SystemClock
from pyspark_theflash.base.errors import KeyIsLockedError
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.base.types import PhysicalTableID, SchemaVersion, TimeStamp
from pyspark_theflash.cli.jobs.sources import Network, Opener
from pyspark_theflash.cluster.located import RawKeyRange
from pyspark_theflash.cluster.pd import PDClient
from pyspark_theflash.cluster.resolve import LockPolicy
from pyspark_theflash.cluster.tikv.client import TiKVClient
from pyspark_theflash.cluster.tikv.meta import TiKVMeta
from pyspark_theflash.cluster.tikv.upkeep import SharedHold
from pyspark_theflash.cluster.tikv.wire.directory import Store, StoreStats
from pyspark_theflash.tidb.codec.key import RawKey, decode_record_key, encode_record_key
from pyspark_theflash.tidb.codec.row import ColumnSpec, RowBuffer
from pyspark_theflash.tidb.codec.row_v2 import decode_rows_v2
from pyspark_theflash.tidb.schema.model import TableInfo
from pyspark_theflash.tidb.schema.status_api import StatusApi
from pyspark_theflash.tidb.schema.tidb import TidbSchemaSource
from tests.support.kv_writer import STAGES, KvWriter, dies_at
from tests.support.live_schema import STEPS, run, shown_by_history, shown_by_tidb
from tests.support.mysql import MySqlError
from tests.support.peer import Peer
from tests.support.schema import tables_at

pytestmark = [pytest.mark.peer, pytest.mark.slow]

CLOCK = SystemClock()
ACCOUNTS, BALANCE = 40, 1000
STEP = 10_000
TTL_MS = 1500


def soon() -> Deadline:
    return Deadline(CLOCK, 20_000)


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    with Peer(tmp_path_factory.mktemp("peer")) as peer:
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
def resolving(pd: PDClient) -> Iterator[TiKVClient]:
    with TiKVClient(pd, clock=CLOCK, policy=LockPolicy.RESOLVE) as client:
        yield client


@pytest.fixture
def bank(peer: Peer, client: TiKVClient) -> TableInfo:
    """Accounts over several regions, whose rows have nothing beside them."""
    peer.sql(
        "DROP DATABASE IF EXISTS bank",
        "CREATE DATABASE bank",
        "CREATE TABLE bank.acc (id BIGINT PRIMARY KEY, balance BIGINT NOT NULL, note VARCHAR(400))",
        *split(8),
        "INSERT INTO bank.acc VALUES "
        + ", ".join(f"({n * STEP}, {BALANCE}, REPEAT('n', {n * 8}))" for n in range(ACCOUNTS)),
    )
    history = TidbSchemaSource(TiKVMeta(client), CLOCK).read(TimeStamp(peer.tso()))
    return next(t for t in tables_at(history, history.end_ts) if t.full_name == "bank.acc")


def split(regions: int) -> list[str]:
    """Return statements that do not wait for scattering, because there is only one store."""
    return [
        "SET tidb_wait_split_region_finish = 0",
        f"SPLIT TABLE bank.acc BETWEEN (0) AND ({ACCOUNTS * STEP}) REGIONS {regions}",
    ]


def records(table: TableInfo) -> RawKeyRange:
    (physical_id,) = table.physical_ids
    return RawKeyRange(
        encode_record_key(physical_id, b""), RawKey(encode_record_key(physical_id, b"")[:-1] + b"s")
    )


def key_of(table: TableInfo, account: int) -> RawKey:
    return encode_record_key(PhysicalTableID(table.physical_ids[0]), account * STEP)


def read(client: TiKVClient, table: TableInfo, ts: int, deadline: Deadline) -> dict[int, tuple]:
    """The rows that are there at a timestamp: balance and note by id."""
    pairs = [
        pair for page in client.scan(records(table), TimeStamp(ts), deadline, 7) for pair in page
    ]
    specs = [ColumnSpec(c.id, c.name, c.type) for c in table.public_columns[1:]]
    rows = decode_rows_v2(RowBuffer.from_list([value for _, value in pairs]), specs)
    columns = [column.values.to_pylist() for column in rows.columns]
    handles = [decode_record_key(key).handle for key, _ in pairs]
    return dict(zip(handles, zip(*columns, strict=True), strict=True))


def read_by_tidb(peer: Peer, ts: int) -> dict[int, tuple]:
    with peer.connect() as session:
        session.query(f"SET tidb_snapshot = {ts}")
        rows = session.query("SELECT id, balance, note FROM bank.acc")
    return {int(i or 0): (int(b or 0), note) for i, b, note in rows}


def transfer(peer: Peer, seed: int, over: threading.Event) -> None:
    """SQL that moves money, of both kinds of transactions."""
    random = Random(seed)
    with peer.connect() as session:
        while not over.is_set():
            a, b = (n * STEP for n in random.sample(range(ACCOUNTS), 2))
            kind = random.choice(["OPTIMISTIC", "PESSIMISTIC"])
            try:
                session.query(f"BEGIN {kind}")
                session.query(f"UPDATE bank.acc SET balance = balance - 1 WHERE id = {a}")
                session.query(f"UPDATE bank.acc SET balance = balance + 1 WHERE id = {b}")
                session.query("ROLLBACK" if random.random() < 0.1 else "COMMIT")
            except MySqlError:
                session.query("ROLLBACK")


def test_what_pd_says(peer: Peer, pd: PDClient, client: TiKVClient, bank: TableInfo) -> None:
    directory = client.directory
    (store,) = directory.stores(soon())
    assert store.address == peer.kv_address
    assert directory.store(store.id, soon()) == store
    parts = client.regions.cover([records(bank)], soon())
    assert len(parts) >= 8
    for region, _ in parts:
        assert directory.region(region.id, soon()) == region
        assert directory.region_of(region.range.start, soon()) == region


def test_holding_a_safe_point(peer: Peer, pd: PDClient, client: TiKVClient) -> None:
    ts = pd.tso()
    hold = SharedHold(client.directory, "theflash-test", clock=CLOCK)
    hold.ensure(ts)
    # PD returns the lowest service safe point.
    assert client.directory.hold_safe_point("other", TimeStamp(ts + 1), 60, soon()) <= ts
    assert hold.held == ts
    hold.close()
    client.directory.hold_safe_point("other", TimeStamp(0), 0, soon())


def test_read_index_of_regions(pd: PDClient, client: TiKVClient, bank: TableInfo) -> None:
    ts = pd.tso()
    for region, ranges in client.regions.cover([records(bank)], soon()):
        index = client.read_index(region, ranges, ts, soon())
        assert isinstance(index, int)
        assert index > 0


def test_regions_that_split_under_a_scan(
    peer: Peer, pd: PDClient, client: TiKVClient, bank: TableInfo
) -> None:
    ts = pd.tso()
    whole = read(client, bank, ts, soon())
    pages = client.scan(records(bank), ts, soon(), 5)
    seen = list(next(pages))
    peer.sql(*split(37))
    seen += [pair for page in pages for pair in page]
    assert [decode_record_key(key).handle for key, _ in seen] == list(whole)
    assert len(client.regions.cover([records(bank)], soon())) > 30
    assert read(client, bank, ts, soon()) == whole


def test_history_is_that_of_the_status_port(peer: Peer, client: TiKVClient) -> None:
    with closing(StatusApi(peer.status_url, CLOCK)) as api, peer.connect() as session:
        meta = TiKVMeta(client)
        sources = [TidbSchemaSource(reader, CLOCK) for reader in (meta, api)]
        histories = [source.read(TimeStamp(peer.tso())) for source in sources]
        begin = max(history.end_ts for history in histories)
        for step in STEPS:
            run(session, step)
            ts = TimeStamp(peer.tso())
            histories = [s.read(ts, h) for s, h in zip(sources, histories, strict=True)]
            ours, theirs = histories
            assert (step, shown_by_history(ours, ts)) == (step, shown_by_tidb(session))
            assert [e for e in ours.events if e.ts > begin] == [
                e for e in theirs.events if e.ts > begin
            ]
            assert ours.versions[-1] == theirs.versions[-1]
        jobs = meta.finished_jobs(SchemaVersion(0))
        assert jobs == sorted(api.finished_jobs(SchemaVersion(0)), key=lambda j: -j.version)
        assert len(jobs) > len(STEPS) - 10
        listed = {db.id: set(db.tables) for db in meta.list_databases()}
        assert listed == {db.id: set(db.tables) for db in api.list_databases()}


@pytest.mark.parametrize("stage", STAGES)
def test_a_client_that_died(
    peer: Peer, pd: PDClient, client: TiKVClient, resolving: TiKVClient, bank: TableInfo, stage: str
) -> None:
    before = read(client, bank, pd.tso(), soon())
    keys = [key_of(bank, n) for n in (3, 20, 37)]
    start_ts = dies_at(stage, peer.pd_address, keys, TTL_MS)
    ts = pd.tso()
    locked = [client.mvcc_get(key, soon()).locked_ts for key in keys]
    assert set(locked) - {None} == {start_ts}
    if stage == "primary committed":
        # Reads go through its locks and leave them where they are.
        after = read(client, bank, ts, soon())
        assert after[3 * STEP] == before[20 * STEP]
    else:
        with pytest.raises(KeyIsLockedError, match=f"start_ts={start_ts}") as blocked:
            read(client, bank, ts, Deadline(CLOCK, 700))
        assert f"table {bank.physical_ids[0]} " in str(blocked.value)
        is_committed = stage == "async, all prewritten"
        after = read(resolving, bank, ts, soon())
        changed = {key for key in after if after[key] != before[key]}
        assert changed == ({3 * STEP, 20 * STEP, 37 * STEP} if is_committed else set())
    if stage == "primary committed":
        assert [client.mvcc_get(key, soon()).locked_ts for key in keys] == locked
    assert read_by_tidb(peer, ts) == after
    assert read(client, bank, start_ts or 0, soon()) == before


def test_reads_among_transfers_and_dying_clients(
    peer: Peer, pd: PDClient, resolving: TiKVClient, bank: TableInfo
) -> None:
    # The store calculates the commit_ts of async commit and 1PC before a lock is visible (TiKV has
    # one in memory by then), so a read in between would miss what commits below it.
    peer.sql("SET GLOBAL tidb_enable_async_commit = OFF", "SET GLOBAL tidb_enable_1pc = OFF")
    stages = [stage for stage in STAGES if not stage.startswith("async")]
    over, random = threading.Event(), Random(5)
    threads = [threading.Thread(target=transfer, args=(peer, n, over)) for n in range(3)]
    died: dict[str, int] = {}

    def die() -> None:
        number = 0
        while not over.is_set():
            stage = stages[number % len(stages)]
            keys = [key_of(bank, n) for n in random.sample(range(ACCOUNTS), 3)]
            if dies_at(stage, peer.pd_address, keys, TTL_MS) is not None:
                died[stage] = died.get(stage, 0) + 1
                number += 1

    threads.append(threading.Thread(target=die))
    seen: list[tuple[int, dict[int, tuple]]] = []
    started_ms = CLOCK.boottime_ms()
    for thread in threads:
        thread.start()
    try:
        while len(died) < len(stages) or len(seen) < 60:
            assert CLOCK.boottime_ms() < started_ms + 240_000, died
            ts = pd.tso()
            seen.append((ts, read(resolving, bank, ts, soon())))
            CLOCK.sleep_ms(20)
    finally:
        over.set()
        for thread in threads:
            thread.join()
    for ts, rows in seen:
        assert sum(balance for balance, _ in rows.values()) == ACCOUNTS * BALANCE
        assert rows == read_by_tidb(peer, ts)
    assert len({tuple(rows.items()) for _, rows in seen}) > 10


def test_pushing_and_pessimistic_locks(
    peer: Peer, pd: PDClient, client: TiKVClient, resolving: TiKVClient, bank: TableInfo
) -> None:
    """A live transaction of TiDB in its first phase is pushed, one that only locks is not seen."""
    before = read(client, bank, pd.tso(), soon())
    with peer.connect() as session:
        session.query("BEGIN PESSIMISTIC")
        session.query("UPDATE bank.acc SET balance = 5 WHERE id = 0")
        assert read(client, bank, pd.tso(), soon()) == before
        session.query("ROLLBACK")
    keys = [key_of(bank, n) for n in (1, 30)]
    writer = KvWriter(client)
    start_ts = writer.swap(keys, "large", 60_000)
    ts = pd.tso()
    with pytest.raises(KeyIsLockedError):
        read(client, bank, ts, Deadline(CLOCK, 300))
    assert read(resolving, bank, ts, soon()) == before
    # After it was pushed, it does not block readers that write nothing either, and commits above.
    assert read(client, bank, ts, soon()) == before
    commit_ts = pd.tso()
    writer.commit(start_ts, commit_ts, keys)
    after = read(client, bank, commit_ts, soon())
    assert after[1 * STEP] == before[30 * STEP]
    assert read(client, bank, ts, soon()) == before
    assert read_by_tidb(peer, commit_ts) == after


def test_schema_option(peer: Peer, bank: TableInfo) -> None:
    with ExitStack() as undo:
        opener = Opener(Network(), LocalFileSystem(), CLOCK, undo)
        source = opener.schema(f"tikv:{peer.pd_address}", None)
        begin = source.read(None, None)
        assert [t for t in tables_at(begin, begin.end_ts) if t.full_name == "bank.acc"] == [bank]
        peer.sql("DROP TABLE bank.acc")
        after = source.read(begin, TimeStamp(peer.tso()))
        assert [t for t in tables_at(after, after.end_ts) if t.db == "bank"] == []


def test_a_store_of_our_own(client: TiKVClient) -> None:
    """The last one: PD may wish to move regions there, which the other store does not heed."""
    directory = client.directory
    ours = Store(
        directory.new_id(soon()),
        "127.0.0.1:1",
        labels=(("engine", "theflash"),),
        version="6.6.0",
        peer_address="127.0.0.1:1",
        start_s=CLOCK.wall_ms() // 1000,
    )
    directory.put_store(ours, soon())
    stats = StoreStats(ours.id, 1 << 40, 1 << 39, 1 << 39, 0, ours.start_s)
    assert directory.heartbeat(stats, soon()).startswith("6.")
    registered = directory.store(ours.id, soon())
    assert (registered.address, registered.labels) == (ours.address, ours.labels)
    assert ours.id in {store.id for store in directory.stores(soon())}
