"""gRPC streams of change events from TiKV's stores.

A thread per stream receives messages into one inbox of bounded size. When the inbox is full, the
threads stop reading, and gRPC's flow control makes the stores wait.
"""

import queue
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from pyspark_theflash.base.clock import Deadline
from pyspark_theflash.base.tls import TlsFiles
from pyspark_theflash.cluster.tikv.stores import MAX_MESSAGE_BYTES
from pyspark_theflash.cluster.tikv.wire.directory import Store
from pyspark_theflash.net.channel import describe, grpc, open_channel
from pyspark_theflash.replication.cdc.wire import EVENT_FEED, EVENT_FEED_V2, MULTIPLEXING

INBOX_BYTES: Final = 32 << 20
"""The size at which reading stops. A message may be as large as `MAX_MESSAGE_BYTES`."""
RECEIVE_BYTES: Final = 8 << 20
"""The size of what `receive` returns at once, except for one large message."""
KEEPALIVE_MS: Final = 10_000


@dataclass(frozen=True, slots=True)
class StreamEnd:
    """The end of a stream. It may be opened again, unless the store refuses it."""

    reason: str
    is_unimplemented: bool = False
    is_refused: bool = False


class Stream(Protocol):
    """A stream to a store. `is_multiplexed` for EventFeedV2."""

    store_id: int
    address: str
    is_multiplexed: bool

    def send(self, request: bytes) -> None:
        """Send a request, later if the connection is not established yet."""

    def close(self) -> None:
        """Close the stream. Its items are not received any more."""


class Streams(Protocol):
    """Streams, and the items received from them."""

    def open(self, store_id: int, deadline: Deadline, *, is_multiplexed: bool) -> Stream:
        """Open a stream. Raises `PDUnavailableError`, `PDRefusedError`."""

    def receive(self, timeout_ms: int) -> Sequence[tuple[Stream, bytes | StreamEnd]]:
        """Return the received items, in order; wait at most `timeout_ms` for the first."""

    def close(self) -> None:
        """Close all streams."""


_REFUSED: Final = frozenset({grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED})


class StoreAddresses(Protocol):
    """Addresses of stores; implemented by `cluster.tikv.wire.directory.Directory`."""

    def store(self, store_id: int, deadline: Deadline) -> Store:
        """Return a store. Raises `PDUnavailableError`, `PDRefusedError`."""


class GrpcStreams:
    """`Streams` over gRPC."""

    def __init__(
        self, directory: StoreAddresses, tls: TlsFiles | None, *, inbox_bytes: int = INBOX_BYTES
    ) -> None:
        self._directory, self._tls = directory, tls
        self._inbox = _Inbox(inbox_bytes)
        self._open: set[_GrpcStream] = set()

    def open(self, store_id: int, deadline: Deadline, *, is_multiplexed: bool) -> Stream:
        store = self._directory.store(store_id, deadline)
        channel = open_channel(
            store.address,
            self._tls,
            max_message_bytes=MAX_MESSAGE_BYTES,
            keepalive_ms=KEEPALIVE_MS,
        )
        stream = _GrpcStream(store_id, store.address, channel, self._inbox, is_multiplexed)
        self._open = {each for each in self._open if not each.is_closed} | {stream}
        return stream

    def receive(self, timeout_ms: int) -> Sequence[tuple[Stream, bytes | StreamEnd]]:
        return self._inbox.get(timeout_ms)

    def close(self) -> None:
        self._inbox.close()
        while self._open:
            self._open.pop().close()


class _GrpcStream:
    def __init__(
        self,
        store_id: int,
        address: str,
        channel: grpc.Channel,
        inbox: "_Inbox",
        is_multiplexed: bool,
    ) -> None:
        self.store_id, self.address, self.is_multiplexed = store_id, address, is_multiplexed
        self.is_closed = False
        self._channel, self._inbox = channel, inbox
        self._requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._call = channel.stream_stream(EVENT_FEED_V2 if is_multiplexed else EVENT_FEED)(
            iter(self._requests.get, None), metadata=MULTIPLEXING if is_multiplexed else None
        )
        self._thread = threading.Thread(target=self._receive, name=f"cdc-{address}", daemon=True)
        self._thread.start()

    def send(self, request: bytes) -> None:
        self._requests.put(request)

    def close(self) -> None:
        if self.is_closed:
            return
        self.is_closed = True
        self._inbox.drop(self)
        self._requests.put(None)
        self._call.cancel()
        self._thread.join()
        self._channel.close()

    def _receive(self) -> None:
        try:
            for data in self._call:
                if not self._inbox.put(self, data):
                    return
            end = StreamEnd("the store closed the stream")
        except grpc.RpcError as error:
            code = error.code()
            end = StreamEnd(
                describe(error), code is grpc.StatusCode.UNIMPLEMENTED, code in _REFUSED
            )
        self._inbox.put(self, end)


class _Inbox:
    """Messages of several streams, in order; bounded by their size."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes, self._size_bytes = limit_bytes, 0
        self._items: deque[tuple[_GrpcStream, bytes | StreamEnd]] = deque()
        self._changed = threading.Condition()
        self._is_closed = False

    def put(self, stream: _GrpcStream, item: bytes | StreamEnd) -> bool:
        """Add an item, when there is room; return whether the stream is still open."""
        size = len(item) if isinstance(item, bytes) else 0
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    stream.is_closed
                    or self._is_closed
                    or not self._items
                    or self._size_bytes + size <= self._limit_bytes
                )
            )
            if stream.is_closed or self._is_closed:
                return False
            self._items.append((stream, item))
            self._size_bytes += size
            self._changed.notify_all()
            return True

    def get(self, timeout_ms: int) -> list[tuple[_GrpcStream, bytes | StreamEnd]]:
        """Remove items, up to `RECEIVE_BYTES`; wait at most `timeout_ms` for the first."""
        items: list[tuple[_GrpcStream, bytes | StreamEnd]] = []
        size = 0
        with self._changed:
            self._changed.wait_for(lambda: bool(self._items), timeout_ms / 1000)
            while self._items and size < RECEIVE_BYTES:
                items.append(self._items.popleft())
                last = items[-1][1]
                size += len(last) if isinstance(last, bytes) else 0
            self._size_bytes -= size
            self._changed.notify_all()
        return items

    def drop(self, stream: _GrpcStream) -> None:
        """Remove the items of a closed stream, and release its thread."""
        with self._changed:
            self._items = deque(each for each in self._items if each[0] is not stream)
            sizes = (len(item) for _, item in self._items if isinstance(item, bytes))
            self._size_bytes = sum(sizes)
            self._changed.notify_all()

    def close(self) -> None:
        """Release all threads."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
