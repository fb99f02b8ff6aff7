"""The enginepb service over gRPC: commands, snapshots, responses, rejected calls."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import grpc
import pytest

from pyspark_theflash.base.clock import Deadline, SystemClock
from pyspark_theflash.base.errors import OptionError
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.base.types import RegionID, TimeStamp
from pyspark_theflash.net.access import Access
from pyspark_theflash.net.channel import open_channel
from pyspark_theflash.replication.apply.tables import PhysicalTables
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.storage.mvcc.project import scan_column
from pyspark_theflash.tikv.command import Applied
from pyspark_theflash.tikv.flush import FlushLimits, OwnThread
from pyspark_theflash.tikv.learner import Learner
from pyspark_theflash.tikv.read import open_tables
from pyspark_theflash.tikv.server import EngineServer
from pyspark_theflash.tikv.wire import SERVICE
from tests.support.engine_client import EngineClient
from tests.support.kv_table import HISTORY, TABLE, commit
from tests.support.raft_tikv import FakeRaftCluster, batch
from tests.support.table_rows import read_rows
from tests.support.tls import tls

TABLES = PhysicalTables(HISTORY)
FS, CLOCK = LocalFileSystem(), SystemClock()
EMPTY = b""


def put(tikv: FakeRaftCluster, handle: int, ts: int) -> None:
    commit(tikv, handle, ts, f"{handle}@{ts}")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    registry.create(tmp_path / "store", registry.MAGIC, FS)
    return tmp_path / "store"


def _identity() -> registry.StoreIdentity:
    return registry.StoreIdentity("id", registry.MAGIC)


@pytest.fixture
def learner(path: Path) -> Iterator[Learner]:
    worker = OwnThread(lambda: registry.open_engine(path, _identity(), FS, CLOCK))
    made = Learner(worker, lambda _: TABLES, CLOCK, limits=FlushLimits(delay_ms=50))
    yield made
    made.close()


@pytest.fixture
def server(learner: Learner, tmp_path: Path) -> Iterator[EngineServer]:
    settings = {"max_message_bytes": 1 << 20, "message_ms": 500}
    made = EngineServer(learner, f"unix:{tmp_path}/s", clock=CLOCK, **settings)
    made.start()
    yield made
    made.stop()


def rows(learner: Learner, path: Path, ts: int) -> dict[int, str]:
    """Return the rows that a concurrent reader sees."""
    reader = registry.open_reader(path, _identity(), FS, CLOCK)
    (view,) = open_tables(learner.store, TABLE.physical_ids, TimeStamp(ts))
    columns = [scan_column(TABLE, c) for c in TABLE.public_columns]
    values = {}
    for each in read_rows(view, reader, reader.read([]), TABLES, columns):
        values.update(zip(*(c.to_pylist() for c in each.columns), strict=True))
    reader.close()
    return values


def _index(answer: Applied) -> int:
    assert answer.state is not None
    return answer.state.applied_index


def test_a_region_from_its_snapshot_on(learner: Learner, server: EngineServer, path: Path) -> None:
    tikv = FakeRaftCluster()
    put(tikv, 1, 10)
    with EngineClient(server.address) as client:
        assert client.install(tikv.snapshot(tikv.regions[1])) == EMPTY
        assert rows(learner, path, 50) == {1: "1@10"}
        put(tikv, 1, 20)
        put(tikv, 2, 30)
        stream = client.commands()
        (answer,) = stream.send(batch(entry for _, _, entry in tikv.log))
        learner.store.wait_applied(RegionID(1), 8, Deadline(CLOCK, 10_000))
        assert rows(learner, path, 50) == {1: "1@20", 2: "2@30"}
        assert rows(learner, path, 19) == {1: "1@10"}
        # The first response has the snapshot's index: commands are not durable immediately.
        indexes = [_index(answer)]
        while indexes[-1] < 8:
            (answer,) = stream.next()
            indexes.append(_index(answer))
        assert indexes[0] == 6
        assert indexes == sorted(indexes)
        list(stream.end())
    assert rows(learner, path, 50) == {1: "1@20", 2: "2@30"}


def test_what_must_be_durable_is(learner: Learner, server: EngineServer) -> None:
    tikv = FakeRaftCluster()
    with EngineClient(server.address) as client:
        client.install(tikv.snapshot(tikv.regions[1]))
        put(tikv, 1, 10)
        stream = client.commands()
        entry = bytearray(tikv.log[0][2])
        marked = bytes(entry) + b"\x0a\x02\x20\x01"  # header.sync_log, merged into the header
        (answer,) = stream.send(batch([marked]))
        while _index(answer) < 6:
            (answer,) = stream.next()
        list(stream.end())
    (answer,) = learner.store.durable_states([RegionID(1)])
    assert _index(answer) == 6


def test_unknown_regions_are_gone(server: EngineServer) -> None:
    tikv = FakeRaftCluster()
    put(tikv, 1, 10)
    with EngineClient(server.address) as client:
        stream = client.commands()
        (answer,) = stream.send(batch([tikv.log[0][2]]))
        assert (answer.region_id, answer.state) == (1, None)
        list(stream.end())


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (b"\xff", grpc.StatusCode.INVALID_ARGUMENT),
        (bytes(2 << 20), grpc.StatusCode.RESOURCE_EXHAUSTED),
    ],
)
def test_refused_batches(server: EngineServer, message: bytes, code: grpc.StatusCode) -> None:
    with EngineClient(server.address) as client:
        stream = client.commands()
        with pytest.raises(grpc.RpcError) as caught:
            stream.send(message)
        assert caught.value.code() is code


def test_refused_snapshots(learner: Learner, server: EngineServer) -> None:
    tikv = FakeRaftCluster()
    put(tikv, 1, 10)
    head, *rest = tikv.snapshot(tikv.regions[1])
    with EngineClient(server.address) as client:
        for chunks in ([], rest, [head, head]):
            with pytest.raises(grpc.RpcError) as caught:
                client.install(chunks)
            assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert not learner.store.regions()


def test_names_need_certificates(learner: Learner) -> None:
    for access, reason in (
        (Access(), "open to all users of this machine"),
        (Access(None, ("tikv",)), "needs TLS"),
        (Access(tls("server")), "common names"),
    ):
        with pytest.raises(OptionError, match=reason):
            EngineServer(learner, "127.0.0.1:0", clock=CLOCK, access=access)


def unending() -> Iterator[bytes]:
    """A request of which nothing is sent for a while."""
    threading.Event().wait(20)
    yield from ()


def test_names_are_checked_before_messages(
    learner: Learner, caplog: pytest.LogCaptureFixture
) -> None:
    access = Access(tls("server"), ("tidb",))
    server = EngineServer(learner, "localhost:0", clock=CLOCK, access=access)
    server.start()
    try:
        with open_channel(server.address, tls("stranger"), max_message_bytes=-1) as channel:
            for name in ("ApplySnapshot", "ApplyCommandBatch"):
                call = channel.stream_unary(f"/{SERVICE}/{name}").future(unending())
                assert call.exception(60).code() is grpc.StatusCode.PERMISSION_DENIED
        assert "its certificate is not allowed" in caplog.text
        with open_channel(server.address, tls("client"), max_message_bytes=-1) as channel:
            with pytest.raises(grpc.RpcError) as caught:
                channel.stream_unary(f"/{SERVICE}/ApplySnapshot")(iter(()), timeout=60)
            assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("name", "limit"), [("ApplySnapshot", "8 snapshots"), ("ApplyCommandBatch", "24 streams")]
)
def test_calls_that_send_nothing(
    learner: Learner, server: EngineServer, name: str, limit: str
) -> None:
    """They do not keep others waiting for long, and end."""
    count = int(limit.split()[0])
    tikv = FakeRaftCluster()
    with ExitStack() as undo:
        calls = []
        for _ in range(4):
            channel = undo.enter_context(open_channel(server.address, None, max_message_bytes=-1))
            call = channel.stream_stream(f"/{SERVICE}/{name}")
            calls += [call(unending()) for _ in range(count // 2)]
        errors = [refused(partial(next, each)) for each in calls]
        codes = {error.code() for error in errors if error is not None}
        assert codes == {grpc.StatusCode.CANCELLED, grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert any(limit in str(error) for error in errors)
    with EngineClient(server.address) as client:
        assert client.install(tikv.snapshot(tikv.regions[1])) == EMPTY


def test_the_size_of_all_snapshots_is_limited(learner: Learner, tmp_path: Path) -> None:
    tikv = FakeRaftCluster()
    put(tikv, 1, 10)
    head, *rest = tikv.snapshot(tikv.regions[1])
    limit = len(head) + sum(map(len, rest)) + 10
    server = EngineServer(learner, f"unix:{tmp_path}/s", clock=CLOCK, max_snapshot_bytes=limit)
    server.start()
    sent, release = threading.Event(), threading.Event()

    def half() -> Iterator[bytes]:
        yield head
        sent.set()
        release.wait(60)

    with EngineClient(server.address) as client, EngineClient(server.address) as other:
        first = threading.Thread(target=lambda: refused(lambda: other.install(half())))
        first.start()
        sent.wait(60)
        while not server._snapshot_bytes:
            CLOCK.sleep_ms(5)
        error = refused(lambda: client.install([head, *rest]))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        release.set()
        first.join()
        while server._snapshot_bytes:
            CLOCK.sleep_ms(5)
        assert client.install([head, *rest]) == EMPTY
    server.stop()


def refused(call: Callable[[], object]) -> grpc.RpcError | None:
    try:
        call()
    except grpc.RpcError as error:
        return error
    return None
