import asyncio
import os
import socket
import stat
import threading
from contextlib import contextmanager

import pytest

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.errors import ClusterMismatchError, OptionError
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.base.types import from_physical_ms
from pyspark_theflash.net.channel import grpc
from pyspark_theflash.replication.pump.server import PumpCounters, PumpServer
from pyspark_theflash.replication.pump.spool import Spool
from pyspark_theflash.replication.pump.wire import (
    PULL_BINLOGS,
    PulledBinlog,
    PullRequest,
    WriteBinlogRequest,
    decode_write_response,
)
from pyspark_theflash.replication.source.event import DdlInfo
from pyspark_theflash.tidb.protocol._generated.tipb import binlog_pb2
from tests.support import binlog_writer
from tests.support.processes import wait_until
from tests.support.pump_client import CLUSTER, INSECURE, WRITE_BINLOG, PumpWriter, RpcError

LOOPBACK = "127.0.0.1:0"
MESSAGES = binlog_writer.transaction(1, 3, binlog_writer.row_value(5)) + binlog_writer.transaction(
    4, 6
)


@contextmanager
def serving(spool, address=LOOPBACK, **settings):
    if not address.startswith("unix:"):
        settings.setdefault("access", INSECURE)
    server = PumpServer(spool, address, clock=SystemClock(), **{"spare_bytes": 0, **settings})
    server.start()
    try:
        yield server
    finally:
        server.stop(0)


def content(spool):
    return [frame.payload for frame in spool.source().frames()]


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_what_is_written_is_in_the_spool(tmp_path, spool, kind):
    address = LOOPBACK if kind == "tcp" else f"unix:{tmp_path}/pump.sock"
    with serving(spool, address) as server, PumpWriter(server.address) as writer:
        assert [writer.write(message) for message in MESSAGES] == [""] * 4
        assert content(spool) == MESSAGES
        size = sum(map(len, MESSAGES))
        assert server.counters() == PumpCounters(4, size, 0, last_start_ts=4, max_commit_ts=6)


def test_durable_before_the_answer(spool):
    with serving(spool) as server, PumpWriter(server.address) as writer:
        for number, message in enumerate(MESSAGES, 1):
            writer.write(message)
            assert len(content(spool)) == number


def test_eight_at_once(spool):
    sent = [[binlog_writer.commit(100 * w + n, 9000 + n) for n in range(1, 26)] for w in range(8)]
    answers = []

    def write(address, messages):
        with PumpWriter(address) as writer:
            answers.extend(writer.write(message) for message in messages)

    with serving(spool) as server:
        threads = [threading.Thread(target=write, args=(server.address, own)) for own in sent]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert server.counters().payloads == 200
    assert answers == [""] * 200
    stored = content(spool)
    assert sorted(stored) == sorted(message for own in sent for message in own)
    for own in sent:
        assert [message for message in stored if message in set(own)] == own


# Rejected requests.


def test_no_binlog(spool):
    with serving(spool) as server, PumpWriter(server.address) as writer:
        assert "not a binlog message" in writer.write(b"\xff\xff")
        assert "invalid timestamps" in writer.write(binlog_writer.commit(5, 4))
        assert server.counters().errors == 2
    assert content(spool) == []


def test_a_message_that_the_writer_could_not_read(spool):
    prewrite, row = binlog_writer.prewrite, binlog_writer.row_value(5)
    unknown = binlog_pb2.TableMutation(table_id=1, deleted_ids=[1])
    future = from_physical_ms(SystemClock().wall_ms() + 2 * 86_400_000)
    refused = {
        prewrite(1, b"value"): "prewrite value: not a message",
        prewrite(1, row + b"\x78\x01"): "unknown fields",
        prewrite(1, row + mutation(table_id=1, inserted_rows=[b"a"])): "changes for",
        prewrite(1, mutation(table_id=1, sequence=[0])): "changes for",
        prewrite(
            1, b"\x12" + bytes([unknown.ByteSize()]) + unknown.SerializeToString()
        ): "obsolete",
        prewrite(1, mutation(table_id=1, inserted_rows=[b""], sequence=[0])): "no columns",
        prewrite(1, mutation(table_id=1, deleted_rows=[b"\x07"], sequence=[4])): "no columns",
        prewrite(1, mutation(table_id=0, inserted_rows=[b"a"], sequence=[0])): "no columns",
        binlog_writer.merged(1, 3, b"value"): "prewrite value: not a message",
        binlog_writer.commit(0, 3): "invalid timestamps",
        b"\x08" * 30: "of type",
        b"\x08\x05" + binlog_writer.commit(1, 3)[2:]: "of type",
        binlog_writer.commit(1, future): "is in the future",
        prewrite(future): "is in the future",
    }
    with serving(spool) as server, PumpWriter(server.address) as writer:
        for message, reason in refused.items():
            assert reason in writer.write(message)
        assert server.counters().errors == len(refused)
        # What does not stop the writer is accepted.
        assert writer.write(prewrite(1, row, DdlInfo("", 5, 0))) == ""
    assert len(content(spool)) == 1


def mutation(**fields):
    message = binlog_pb2.PrewriteValue(mutations=[binlog_pb2.TableMutation(**fields)])
    return message.SerializeToString()


def test_a_large_message(spool):
    large = binlog_writer.prewrite(1, binlog_writer.row_value(3 << 20))
    with serving(spool) as server, PumpWriter(server.address) as writer:
        assert "prewrite value" in writer.write(large + b"\x2a\x01v")
        assert writer.write(large) == ""
    assert content(spool) == [large]


async def ticking(intake, stop):
    """Let time pass for an intake only while a message is expected that is not slow yet."""
    intake._tick_later = lambda: None
    while not stop.is_set():
        if any(not each.is_slow and each.rejection is None for each in intake._arrivals):
            intake._tick()
        await asyncio.sleep(0.01)


def test_calls_without_their_message_do_not_keep_others_waiting(spool):
    """Of 100 calls, all but one are refused, which takes two ticks each at most."""
    stop = threading.Event()

    def nothing():
        stop.wait(60)
        yield from ()

    with serving(spool) as server, grpc.insecure_channel(server.address) as channel:
        time = asyncio.run_coroutine_threadsafe(ticking(server._intake, stop), server._loop)
        calls = [channel.stream_unary(WRITE_BINLOG).future(nothing()) for _ in range(100)]
        with PumpWriter(server.address) as writer:
            for message in MESSAGES:
                while answer := writer.write(message):
                    assert "try again" in answer  # it was slow itself

        def refused():
            answers = [decode_write_response(call.result()) for call in calls if call.done()]
            assert all("large message is arriving, or in memory" in each for each in answers)
            return len(answers)

        wait_until(lambda: refused() >= 99)
        assert refused() == 99
        stop.set()
        time.result()


def test_compressed_messages(spool):
    message = WriteBinlogRequest(CLUSTER, MESSAGES[0]).to_bytes()
    with serving(spool) as server, grpc.insecure_channel(server.address) as channel:
        write = channel.unary_unary(WRITE_BINLOG)
        with pytest.raises(RpcError) as caught:
            write(message, compression=grpc.Compression.Gzip, timeout=20)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert content(spool) == []


def test_probe_is_answered_and_not_kept(spool):
    with serving(spool) as server, PumpWriter(server.address) as writer:
        assert writer.write(b"") == ""
        assert server.counters() == PumpCounters()
    assert content(spool) == []


def test_too_large_is_refused_in_the_words_that_tidb_looks_for(spool):
    largest = binlog_writer.prewrite(1, binlog_writer.row_value(900))
    with (
        serving(spool, max_payload_bytes=len(largest)) as server,
        PumpWriter(server.address) as writer,
    ):
        assert writer.write(largest) == ""
        for payload in (binlog_writer.prewrite(1, binlog_writer.row_value(1000)), b"v" * 9000):
            with pytest.raises(RpcError) as caught:
                writer.write(payload)
            # TiDB looks for this status, and fails the transaction only.
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert content(spool) == [largest]


def test_another_cluster(spool):
    with serving(spool) as server:
        with PumpWriter(server.address) as writer:
            assert writer.write(MESSAGES[0]) == ""
        with PumpWriter(server.address, cluster_id=5) as writer:
            assert f"is of cluster 5, not {CLUSTER}" in writer.write(MESSAGES[1])
    assert content(spool) == MESSAGES[:1]
    with pytest.raises(ClusterMismatchError):
        PumpServer(spool, LOOPBACK, clock=SystemClock(), access=INSECURE, cluster_id=5)
    with serving(spool) as server, PumpWriter(server.address, cluster_id=5) as writer:
        assert f"is of cluster 5, not {CLUSTER}" in writer.write(MESSAGES[1])


def test_room_is_kept_for_commits(tmp_path):
    prewrite, commit = binlog_writer.transaction(1, 3)
    spare, limit = len(binlog_writer.frame(commit)), len(binlog_writer.frames([prewrite, commit]))
    spool = Spool(tmp_path / "spool", LocalFileSystem(), max_bytes=limit)
    with serving(spool, spare_bytes=spare) as server, PumpWriter(server.address) as writer:
        assert writer.write(prewrite) == ""
        assert "is the writer running?" in writer.write(prewrite)
        assert writer.write(commit) == ""
        assert "is the writer running?" in writer.write(commit)
    assert content(spool) == [prewrite, commit]
    spool.close()


def test_pausing_takes_commits_only(spool):
    with serving(spool) as server, PumpWriter(server.address) as writer:
        assert writer.write(MESSAGES[0]) == ""
        server.pause()
        assert "the pump is stopping" in writer.write(MESSAGES[2])
        assert writer.write(MESSAGES[1]) == ""
    assert content(spool) == MESSAGES[:2]


@pytest.mark.parametrize("size", [0, 2**31])
def test_limit_that_is_none(spool, size):
    with pytest.raises(OptionError, match="max_payload_bytes"):
        PumpServer(spool, LOOPBACK, clock=SystemClock(), max_payload_bytes=size)


def test_a_spool_that_fails(spool):
    with serving(spool) as server, PumpWriter(server.address) as writer:
        writer.write(MESSAGES[0])
        spool.close()
        assert "is closed" in writer.write(MESSAGES[1])
    # The fixture closes it again.
    spool.close = lambda: None


# Pulling.


def pulled(address, suffix, offset, count, cluster_id=CLUSTER):
    request = PullRequest(cluster_id, suffix, offset).to_bytes()
    with grpc.insecure_channel(address) as channel:
        call = channel.unary_stream(PULL_BINLOGS)(request, timeout=20)
        return [PulledBinlog.from_bytes(next(call)) for _ in range(count)]


def test_pull(spool):
    messages = [binlog_writer.prewrite(n, binlog_writer.row_value(300)) for n in range(1, 10)]
    with serving(spool) as server, PumpWriter(server.address) as writer:
        for message in messages:
            writer.write(message)
        pulled_messages = pulled(server.address, 0, 0, 9)
        assert [each.payload for each in pulled_messages] == messages
        assert pulled_messages[-1].suffix > 1
        for number in (2, 5, 8):
            each = pulled_messages[number - 1]
            rest = pulled(server.address, each.suffix, each.offset, 9 - number)
            assert [other.payload for other in rest] == messages[number:]


def test_pull_waits_for_what_comes(spool):
    with serving(spool) as server, PumpWriter(server.address) as writer:
        writer.write(MESSAGES[0])
        thread = threading.Timer(0.1, writer.write, (MESSAGES[1],))
        thread.start()
        pulled_messages = pulled(server.address, 0, 0, 2)
        thread.join()
        assert [each.payload for each in pulled_messages] == MESSAGES[:2]


@pytest.mark.parametrize(
    ("suffix", "offset", "cluster_id", "code"),
    [
        (1, 1, CLUSTER, grpc.StatusCode.DATA_LOSS),
        (1, 10_000, CLUSTER, grpc.StatusCode.DATA_LOSS),
        (1, -1, CLUSTER, grpc.StatusCode.OUT_OF_RANGE),
        (2, 0, CLUSTER, grpc.StatusCode.OUT_OF_RANGE),
        (0, 470612972928499727, CLUSTER, grpc.StatusCode.OUT_OF_RANGE),
        (0, 0, 5, grpc.StatusCode.FAILED_PRECONDITION),
    ],
)
def test_pull_that_cannot_be(spool, suffix, offset, cluster_id, code):
    with serving(spool, cluster_id=CLUSTER) as server, PumpWriter(server.address) as writer:
        writer.write(MESSAGES[0])
        with pytest.raises(RpcError) as caught:
            pulled(server.address, suffix, offset, 1, cluster_id)
        assert caught.value.code() is code


def test_as_many_pulls_as_there_is_room_for(spool):
    with serving(spool) as server, PumpWriter(server.address) as writer:
        writer.write(MESSAGES[0])
        request = PullRequest(CLUSTER, 0, 0).to_bytes()
        with grpc.insecure_channel(server.address) as channel:
            pull = channel.unary_stream(PULL_BINLOGS)
            calls = [pull(request) for _ in range(4)]
            assert all(next(call) for call in calls)
            with pytest.raises(RpcError) as caught:
                next(pull(request))
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            assert writer.write(MESSAGES[1]) == ""


# Addresses.


def test_socket_is_private(tmp_path, spool):
    path = tmp_path / "pump.sock"
    with serving(spool, f"unix:{path}"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.exists()


def test_authority_that_a_go_client_makes_of_a_path(tmp_path, spool):
    address = f"unix:{tmp_path}/pump.sock"
    with serving(spool, address):
        options = [("grpc.default_authority", f"{tmp_path}/pump.sock")]
        with grpc.insecure_channel(address, options) as channel:
            assert channel.unary_unary(WRITE_BINLOG)(b"", timeout=20) == b""


def test_stale_socket_is_replaced(tmp_path, spool):
    path = tmp_path / "pump.sock"
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(str(path))
    with serving(spool, f"unix:{path}") as server, PumpWriter(server.address) as writer:
        assert writer.write(MESSAGES[0]) == ""


def refusal(spool, address, **settings):
    with pytest.raises(OptionError) as caught:
        PumpServer(spool, address, clock=SystemClock(), **settings)
    return str(caught.value)


def test_socket_in_use(tmp_path, spool):
    address = f"unix:{tmp_path}/pump.sock"
    with serving(spool, address) as server:
        assert "another process listens" in refusal(spool, address)
        with PumpWriter(server.address) as writer:
            assert writer.write(MESSAGES[0]) == ""


def test_port_in_use(spool):
    with serving(spool) as server:
        assert "cannot listen" in refusal(spool, server.address, access=INSECURE)


def test_something_else_in_the_place_of_the_socket(tmp_path, spool):
    path = tmp_path / "pump.sock"
    path.write_text("mine")
    assert "is not a socket" in refusal(spool, f"unix:{path}")
    assert path.read_text() == "mine"


def test_folder_that_others_can_write_to(tmp_path, spool):
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o777)
    assert "must be owned by this user" in refusal(spool, f"unix:{folder}/pump.sock")
    assert "cannot use" in refusal(spool, f"unix:{tmp_path}/none/pump.sock")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_folder_of_somebody_else(tmp_path, spool):
    folder = tmp_path / "theirs"
    folder.mkdir()
    os.chown(folder, 1, 1)
    assert "must be owned by this user" in refusal(spool, f"unix:{folder}/pump.sock")


def test_path_that_is_too_long_for_a_socket(tmp_path, spool):
    assert "107 bytes" in refusal(spool, f"unix:{tmp_path}/{'s' * 100}")


@pytest.mark.parametrize(
    "address", ["0.0.0.0:0", "[::]:0", "10.1.2.3:80", "example.com:80", "*:80"]
)
def test_other_machines_take_certificates(spool, address):
    assert "open to other machines: give certificates" in refusal(spool, address)
    assert "open to other machines" in refusal(spool, address, access=INSECURE)


@pytest.mark.parametrize("address", ["127.0.0.1:0", "localhost:0", "[::1]:0"])
def test_other_users_take_certificates_too(spool, address, caplog):
    assert "open to all users of this machine" in refusal(spool, address)
    with serving(spool, "127.0.0.1:0"):
        assert "any user of this machine can connect" in caplog.text


@pytest.mark.parametrize(
    "address", ["", "localhost", ":80", "localhost:x", "localhost:70000", "localhost:" + "7" * 5000]
)
def test_text_that_is_no_address(spool, address):
    assert "is not of the form" in refusal(spool, address)
