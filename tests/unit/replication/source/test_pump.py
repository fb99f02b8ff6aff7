from itertools import islice

import pytest

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.errors import (
    BinlogCorruptionError,
    OptionError,
    PumpRefusedError,
    PumpUnavailableError,
)
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.replication.pump.server import PumpServer
from pyspark_theflash.replication.pump.spool import Spool
from pyspark_theflash.replication.pump.wire import PullRequest
from pyspark_theflash.replication.source.pull_stream import PullStream
from pyspark_theflash.replication.source.pump import PullLimits, PumpSource
from tests.support import binlog_writer
from tests.support.fake_pump import FakePump
from tests.support.pump_client import CLUSTER, INSECURE

CLOCK = SystemClock()
QUICK = PullLimits(idle_ms=150, deadline_ms=20_000)
MESSAGES = [
    *binlog_writer.transaction(1, 3, b"value"),
    *binlog_writer.transaction(4, 6),
    binlog_writer.rollback(7),
]
RAW = [("PREWRITE", 1), ("COMMIT", 1), ("PREWRITE", 4), ("COMMIT", 4), ("ROLLBACK", 7)]


def source_of(pump, limits=QUICK, cluster_id=CLUSTER):
    return PumpSource(pump.address, cluster_id, clock=CLOCK, limits=limits)


def polled(source, count, after=None):
    """Entities of one poll, and of more polls until `count` have arrived."""
    for _ in range(200):
        for entity in source.entities(after):
            count -= 1
            yield entity
        if count <= 0:
            return
        after = source.position
    raise AssertionError(f"{count} entities are missing")


def names(entities):
    return [(entity.kind.name, entity.start_ts) for entity in entities]


# Our own pump.


@pytest.fixture
def spool(tmp_path):
    opened = Spool(tmp_path / "spool", LocalFileSystem(), file_bytes=60)
    yield opened
    opened.close()


@pytest.fixture
def server(spool):
    made = PumpServer(spool, "127.0.0.1:0", clock=CLOCK, access=INSECURE, cluster_id=CLUSTER)
    made.start()
    yield made
    made.stop(0)


def append(spool, messages):
    for message in messages:
        spool.append([message])


def test_polls_of_our_own_pump(spool, server):
    with source_of(server) as source:
        append(spool, MESSAGES[:2])
        assert names(polled(source, 2)) == RAW[:2]
        assert names(source.entities(source.position)) == []
        append(spool, MESSAGES[2:])
        assert names(polled(source, 3, source.position)) == RAW[2:]
        assert source.position == f"3:{len(binlog_writer.frame(MESSAGES[-1]))}"


def test_entities_are_those_of_the_files(spool, server):
    append(spool, MESSAGES)
    files = list(spool.source().entities())
    with source_of(server) as source:
        pulled = list(polled(source, 5))
    assert [(e.kind, e.start_ts, e.commit_ts, e.payload) for e in pulled] == [
        (e.kind, e.start_ts, e.commit_ts, e.payload) for e in files
    ]
    assert pulled[0].file == f"pump {server.address}"


def test_every_position_is_one_to_go_on_from(spool, server):
    append(spool, MESSAGES)
    with source_of(server) as source:
        positions = [source.position for _ in polled(source, 5)]
    for number in (1, 4):
        position = positions[number - 1]
        with source_of(server) as source:
            assert names(polled(source, 5 - number, position)) == RAW[number:]


def test_a_poll_that_is_broken_off_loses_nothing(spool, server):
    append(spool, MESSAGES)
    with source_of(server) as source:
        assert names(islice(polled(source, 2), 2)) == RAW[:2]
        assert names(polled(source, 3, source.position)) == RAW[2:]
        assert names(polled(source, 5)) == RAW


def test_a_poll_ends_while_there_is_more(spool, server):
    append(spool, MESSAGES)
    with source_of(server, PullLimits(idle_ms=5000, poll_ms=0)) as source:
        received = []
        while len(received) < 5:
            received += names(source.entities(source.position))
    assert received == RAW


def test_server_that_comes_back(spool, server):
    append(spool, MESSAGES[:2])
    with source_of(server) as source:
        assert names(polled(source, 2)) == RAW[:2]
        server.stop(0)
        append(spool, MESSAGES[2:])
        again = PumpServer(spool, server.address, clock=CLOCK, access=INSECURE, cluster_id=CLUSTER)
        again.start()
        try:
            assert names(polled(source, 3, source.position)) == RAW[2:]
        finally:
            again.stop(0)


def test_server_that_is_gone(spool, server):
    append(spool, MESSAGES)
    with source_of(server, PullLimits(idle_ms=150, deadline_ms=2000)) as source:
        assert names(polled(source, 5)) == RAW
        server.stop(0)
        with pytest.raises(PumpUnavailableError) as caught:
            list(source.entities(source.position))
        assert caught.value.retryable


def test_silent_stream_is_opened_again(spool, server):
    with source_of(server, PullLimits(idle_ms=150, silence_ms=0)) as source:
        assert names(source.entities()) == []
        append(spool, MESSAGES)
        assert names(polled(source, 5, source.position)) == RAW


def test_position_that_is_not_there(spool, server):
    append(spool, MESSAGES)
    with source_of(server) as source, pytest.raises(PumpRefusedError, match="OUT_OF_RANGE"):
        list(polled(source, 1, "9:0"))


def test_another_cluster(server):
    with (
        source_of(server, cluster_id=5) as source,
        pytest.raises(PumpRefusedError, match="is of cluster 5"),
    ):
        list(polled(source, 1))


@pytest.mark.parametrize("text", ["", "1", "1:", ":1", "1:-1", "x:1", "1:1:1", "1:" + "9" * 30])
def test_text_that_is_no_position(server, text):
    with source_of(server) as source, pytest.raises(OptionError, match="SUFFIX:OFFSET"):
        list(polled(source, 1, text))


def test_message_that_is_too_large(spool, server):
    append(spool, [binlog_writer.prewrite(1, b"v" * 2000)])
    limits = PullLimits(idle_ms=150, max_message_bytes=1000)
    with (
        source_of(server, limits) as source,
        pytest.raises(PumpRefusedError, match="RESOURCE_EXHAUSTED"),
    ):
        list(polled(source, 1))


def test_who_does_not_take_stops_the_stream(spool, server, monkeypatch):
    monkeypatch.setattr("pyspark_theflash.replication.source.pull_stream.BUFFER_BYTES", 1000)
    messages = [binlog_writer.prewrite(n, b"v" * 500) for n in range(1, 40)]
    append(spool, messages)
    stream = PullStream(
        server.address,
        PullRequest(CLUSTER, 0, 0),
        None,
        connect_ms=2000,
        max_message_bytes=1 << 20,
    )
    received = []
    while len(received) < len(messages):
        received.append(stream.next(2000).payload)
        assert stream.buffered_bytes < 2000
    assert received == messages
    append(spool, messages)
    stream.close()


@pytest.mark.parametrize(
    "address",
    ["", "http://127.0.0.1:80", "127.0.0.1", "h\udcff:80", "unix:\udcff", "h:" + "7" * 5000],
)
def test_text_that_is_no_address(address):
    source = PumpSource(address, CLUSTER, clock=CLOCK, limits=QUICK)
    with pytest.raises(OptionError, match="is not of the form HOST:PORT or unix:PATH"):
        list(polled(source, 1))


# tidb-binlog's pump.

MERGED = [
    binlog_writer.merged(1, 30, b"value"),
    binlog_writer.heartbeat(40),
    binlog_writer.merged(5, 20, b"other"),
]
IN_ORDER = [("PREWRITE", 5), ("COMMIT", 5), ("PREWRITE", 1), ("COMMIT", 1), ("ROLLBACK", 40)]


def test_commits_with_their_prewrites_in_them():
    with FakePump(CLUSTER, MERGED) as pump, source_of(pump) as source:
        entities = list(polled(source, 5))
        assert names(entities) == IN_ORDER
        assert [e.payload for e in entities[:3]] == [b"other", b"", b"value"]
        assert [e.commit_ts for e in entities] == [0, 20, 0, 30, 40]
        assert source.position == "0:40"


def test_it_goes_on_behind_a_commit_ts():
    with FakePump(CLUSTER, MERGED) as pump, source_of(pump) as source:
        assert names(polled(source, 3, "0:20")) == IN_ORDER[2:]
        assert [(r.startFrom.suffix, r.startFrom.offset) for r in pump.requests] == [(0, 20)]


def test_first_half_of_a_message_moves_no_position():
    with FakePump(CLUSTER, MERGED) as pump, source_of(pump) as source:
        assert names(islice(polled(source, 1, "0:20"), 1)) == IN_ORDER[2:3]
        assert source.position == "0:20"
        assert names(polled(source, 3, "0:20")) == IN_ORDER[2:]


def test_stream_that_is_cut_is_not_the_end():
    with FakePump(CLUSTER, MERGED, fail_next=2) as pump, source_of(pump) as source:
        assert names(polled(source, 5)) == IN_ORDER
        assert [r.startFrom.offset for r in pump.requests] == [0, 20, 30]


def test_commit_without_changes_is_whole():
    with FakePump(CLUSTER, [binlog_writer.commit(1, 3)]) as pump, source_of(pump) as source:
        assert names(polled(source, 2)) == [("PREWRITE", 1), ("COMMIT", 1)]


def test_cluster_of_another_pump():
    with (
        FakePump(5, MERGED) as pump,
        source_of(pump) as source,
        pytest.raises(PumpRefusedError, match="mismatch"),
    ):
        list(polled(source, 1))


def test_message_that_cannot_be_read():
    bad = binlog_writer.commit(4, 3)
    with FakePump(CLUSTER, [bad]) as pump, source_of(pump) as source:
        for _ in range(2):
            with pytest.raises(BinlogCorruptionError, match="invalid timestamps"):
                list(polled(source, 1))
