"""gRPC streams to a store: messages, ends, back-pressure, closing."""

from collections.abc import Iterator

import pytest

from pyspark_theflash.base.clock import Deadline, SystemClock
from pyspark_theflash.base.tls import TlsFiles
from pyspark_theflash.net.channel import grpc
from pyspark_theflash.replication.cdc.streams import RECEIVE_BYTES, GrpcStreams, Stream, StreamEnd
from tests.support.fake_cdc import FakeCdcStore
from tests.support.tls import tls, trust

WAIT_MS = 20_000


@pytest.fixture
def store() -> Iterator[FakeCdcStore]:
    with FakeCdcStore() as fake:
        yield fake


def opened(
    store: FakeCdcStore, *, is_multiplexed: bool = True, inbox_bytes: int = 1 << 20
) -> tuple[GrpcStreams, Stream]:
    streams = GrpcStreams(store, None, inbox_bytes=inbox_bytes)
    deadline = Deadline(SystemClock(), WAIT_MS)
    return streams, streams.open(1, deadline, is_multiplexed=is_multiplexed)


def items_of(streams: GrpcStreams, count: int) -> list[bytes | StreamEnd]:
    items: list[bytes | StreamEnd] = []
    while len(items) < count:
        received = streams.receive(WAIT_MS)
        assert received
        items += [item for _, item in received]
    return items


def test_requests_and_messages(store: FakeCdcStore) -> None:
    streams, stream = opened(store)
    stream.send(b"first")
    stream.send(b"second")
    assert [store.requests.get(timeout=20) for _ in range(2)] == [b"first", b"second"]
    assert (store.calls, store.metadata[0]["features"]) == (["EventFeedV2"], "stream-multiplexing")
    for message in (b"a", b"b"):
        store.out.put(message)
    assert items_of(streams, 2) == [b"a", b"b"]
    streams.close()
    assert store.ended.wait(20)


def test_a_store_without_the_second_version() -> None:
    with FakeCdcStore(is_old=True) as store:
        streams, stream = opened(store)
        (end,) = items_of(streams, 1)
        assert isinstance(end, StreamEnd)
        assert end.is_unimplemented
        stream.close()
        stream = streams.open(1, Deadline(SystemClock(), WAIT_MS), is_multiplexed=False)
        stream.send(b"x")
        assert store.requests.get(timeout=20) == b"x"
        assert "features" not in store.metadata[0]
        streams.close()


@pytest.mark.parametrize(
    ("status", "is_refused"),
    [
        (None, False),
        (grpc.StatusCode.UNAVAILABLE, False),
        (grpc.StatusCode.UNKNOWN, False),
        (grpc.StatusCode.PERMISSION_DENIED, True),
    ],
)
def test_ends_of_a_stream(
    *, store: FakeCdcStore, status: grpc.StatusCode | None, is_refused: bool
) -> None:
    streams, stream = opened(store)
    store.out.put(b"a")
    store.out.put(status)
    message, end = items_of(streams, 2)
    assert message == b"a"
    assert isinstance(end, StreamEnd)
    assert (end.is_refused, end.is_unimplemented) == (is_refused, False)
    stream.close()
    streams.close()


def test_a_store_that_does_not_exist() -> None:
    with FakeCdcStore() as store:
        pass
    streams, _ = opened(store)
    (end,) = items_of(streams, 1)
    assert isinstance(end, StreamEnd)
    assert "UNAVAILABLE" in end.reason
    streams.close()


def test_a_full_inbox_stops_the_store(store: FakeCdcStore) -> None:
    streams, _ = opened(store)
    size = 256 << 10
    for number in range(400):  # 100 MiB
        store.out.put(bytes([number % 256]) * size)
    received = items_of(streams, 1)
    # What was sent and not received is in the inbox and in gRPC's windows.
    assert store.sent < 300
    assert sum(len(each) for each in received if isinstance(each, bytes)) <= RECEIVE_BYTES + size
    received += items_of(streams, 400 - len(received))
    assert received == [bytes([number % 256]) * size for number in range(400)]
    streams.close()


def test_a_stream_that_is_not_read_can_be_closed(store: FakeCdcStore) -> None:
    streams, stream = opened(store, inbox_bytes=1)
    for _ in range(3):
        store.out.put(b"message")
    assert items_of(streams, 1) == [b"message"]
    stream.close()
    assert streams.receive(0) == []
    assert store.ended.wait(20)
    streams.close()


def test_messages_by_tls() -> None:
    with FakeCdcStore(tls=tls("server")) as store:
        streams = GrpcStreams(store, tls("client"))
        stream = streams.open(1, Deadline(SystemClock(), WAIT_MS), is_multiplexed=True)
        stream.send(b"request")
        assert store.requests.get(timeout=20) == b"request"
        store.out.put(b"message")
        assert items_of(streams, 1) == [b"message"]
        streams.close()


@pytest.mark.parametrize("files", [None, trust(), tls("client", "other-ca"), tls("other")])
def test_a_store_that_requires_another_certificate(files: TlsFiles | None) -> None:
    with FakeCdcStore(tls=tls("server")) as store:
        streams = GrpcStreams(store, files)
        streams.open(1, Deadline(SystemClock(), WAIT_MS), is_multiplexed=True).send(b"request")
        (end,) = items_of(streams, 1)
        assert isinstance(end, StreamEnd)
        assert not end.is_unimplemented
        assert store.requests.empty()
        streams.close()
