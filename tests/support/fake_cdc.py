"""A store's ChangeData service, over gRPC. The test sends the messages."""

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from pyspark_theflash.base.clock import Deadline
from pyspark_theflash.base.tls import TlsFiles
from pyspark_theflash.cluster.tikv.wire.directory import Store
from pyspark_theflash.net.channel import grpc
from tests.support.tls import bind


class FakeCdcStore:
    """Started by `with`. Has EventFeed only if `is_old`."""

    def __init__(self, *, is_old: bool = False, tls: TlsFiles | None = None) -> None:
        self.is_old, self.tls = is_old, tls
        self.calls: list[str] = []
        self.metadata: list[dict[str, str]] = []
        self.requests: queue.Queue[bytes] = queue.Queue()
        self.out: queue.Queue[bytes | grpc.StatusCode | None] = queue.Queue()
        """Messages to send; a status code or None ends the stream."""
        self.sent = 0
        self.ended = threading.Event()

    def __enter__(self) -> "FakeCdcStore":
        self._server = grpc.server(ThreadPoolExecutor(8))
        names = ["EventFeed"] if self.is_old else ["EventFeed", "EventFeedV2"]
        handlers = {n: grpc.stream_stream_rpc_method_handler(self._handler(n)) for n in names}
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("cdcpb.ChangeData", handlers),)
        )
        self.address = bind(self._server, self.tls)
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.out.put(None)
        self._server.stop(0).wait()

    def store(self, store_id: int, deadline: Deadline) -> Store:
        """As `Directory`."""
        return Store(store_id, self.address)

    def _handler(self, name: str) -> Callable[..., Iterator[bytes]]:
        def handle(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
            self.calls.append(name)
            self.metadata.append({key: str(value) for key, value in context.invocation_metadata()})
            context.add_callback(self.ended.set)
            threading.Thread(target=self._read, args=(requests,), daemon=True).start()
            while (item := self.out.get()) is not None:
                if isinstance(item, grpc.StatusCode):
                    context.abort(item, "as ordered")
                self.sent += 1
                yield item

        return handle

    def _read(self, requests: Iterator[bytes]) -> None:
        # gRPC raises an Exception of no other class when the stream is cut.
        with contextlib.suppress(Exception):
            for request in requests:
                self.requests.put(request)
