import os
import socket
import stat
import threading
from contextlib import contextmanager

import pytest

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.errors import ClusterMismatchError, OptionError
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.net.channel import grpc
from pyspark_theflash.replication.pump.server import PumpCounters, PumpServer
from pyspark_theflash.replication.pump.spool import Spool
from pyspark_theflash.replication.pump.wire import PULL_BINLOGS, PulledBinlog, PullRequest
from tests.support import binlog_writer
from tests.support.pump_client import CLUSTER, WRITE_BINLOG, PumpWriter, RpcError

LOOPBACK = "127.0.0.1:0"
MESSAGES = binlog_writer.transaction(1, 3, b"value") + binlog_writer.transaction(4, 6)


@contextmanager
def serving(spool, address=LOOPBACK, **settings):
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
    found = content(spool)
    assert sorted(found) == sorted(message for own in sent for message in own)
    for own in sent:
        assert [message for message in found if message in set(own)] == own


# What is refused.


def test_no_binlog(spool):
    with serving(spool) as server, PumpWriter(server.address) as writer:
        assert "not a binlog message" in writer.write(b"\xff\xff")
        assert "invalid timestamps" in writer.write(binlog_writer.commit(5, 4))
        assert server.counters().errors == 2
    assert content(spool) == []


def test_probe_is_answered_and_not_kept(spool):
    with serving(spool) as server, PumpWriter(server.address) as writer:
        assert writer.write(b"") == ""
        assert server.counters() == PumpCounters()
    assert content(spool) == []


def test_too_large_is_refused_in_the_words_that_tidb_looks_for(spool):
    largest = binlog_writer.prewrite(1, b"v" * 900)
    with (
        serving(spool, max_payload_bytes=len(largest)) as server,
        PumpWriter(server.address) as writer,
    ):
        assert writer.write(largest) == ""
        answer = writer.write(binlog_writer.prewrite(1, b"v" * 901))
        assert "received message larger than max" in answer
        assert "ResourceExhausted" in answer
        with pytest.raises(RpcError) as caught:
            writer.write(b"v" * 9000)
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
        PumpServer(spool, LOOPBACK, clock=SystemClock(), cluster_id=5)
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
    messages = [binlog_writer.prewrite(n, b"v" * 300) for n in range(1, 10)]
    with serving(spool) as server, PumpWriter(server.address) as writer:
        for message in messages:
            writer.write(message)
        found = pulled(server.address, 0, 0, 9)
        assert [each.payload for each in found] == messages
        assert found[-1].suffix > 1
        for number in (2, 5, 8):
            each = found[number - 1]
            rest = pulled(server.address, each.suffix, each.offset, 9 - number)
            assert [other.payload for other in rest] == messages[number:]


def test_pull_waits_for_what_comes(spool):
    with serving(spool) as server, PumpWriter(server.address) as writer:
        writer.write(MESSAGES[0])
        thread = threading.Timer(0.1, writer.write, (MESSAGES[1],))
        thread.start()
        found = pulled(server.address, 0, 0, 2)
        thread.join()
        assert [each.payload for each in found] == MESSAGES[:2]


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


# Where it listens.


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


def refusal(spool, address):
    with pytest.raises(OptionError) as caught:
        PumpServer(spool, address, clock=SystemClock())
    return str(caught.value)


def test_socket_in_use(tmp_path, spool):
    address = f"unix:{tmp_path}/pump.sock"
    with serving(spool, address) as server:
        assert "another process listens" in refusal(spool, address)
        with PumpWriter(server.address) as writer:
            assert writer.write(MESSAGES[0]) == ""


def test_port_in_use(spool):
    with serving(spool) as server:
        assert "cannot listen" in refusal(spool, server.address)


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
    assert "give certificates" in refusal(spool, address)


@pytest.mark.parametrize(
    "address", ["", "localhost", ":80", "localhost:x", "localhost:70000", "localhost:" + "7" * 5000]
)
def test_text_that_is_no_address(spool, address):
    assert "is not of the form" in refusal(spool, address)
