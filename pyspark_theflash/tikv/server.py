"""The gRPC service enginepb.Engine, to which TiKV sends the commands of its raft learners.

    ApplyCommandBatch   A bidirectional stream: batches of commands in, durable apply states of
                        regions out. A response is sent for each batch, and whenever further
                        commands have become durable.
    ApplySnapshot       Chunks in, one response when the snapshot is durable.

A response contains the durable state, so the sender must keep the commands above it. After an error
the stream ends, and the sender starts again from the last response.

The caller's name is checked before a message is received. The numbers of streams and of snapshots
are limited, and so is the size of all snapshots that are being received. A call that does not send
what is expected of it within `MESSAGE_MS` is cancelled: the first batch, or the next chunk.
"""

import itertools
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Final, TypeAlias

from pyspark_theflash.base.clock import Clock
from pyspark_theflash.base.errors import (
    CacheFullError,
    CodecError,
    CorruptionError,
    InternalError,
    RaftCommandError,
    TheFlashError,
)
from pyspark_theflash.net.access import Access
from pyspark_theflash.net.channel import grpc
from pyspark_theflash.net.inflow import Inflow, InflowGuard
from pyspark_theflash.net.listen import listen, server_options
from pyspark_theflash.tikv.learner import Learner
from pyspark_theflash.tikv.region_snapshot import SNAPSHOT_BYTES, SnapshotBuilder
from pyspark_theflash.tikv.wire import (
    SERVICE,
    decode_commands,
    encode_responses,
    encode_snapshot_done,
)

_log = logging.getLogger(__name__)

MAX_MESSAGE_BYTES: Final = 32 << 20
"""The maximum size of a batch or of a chunk of a snapshot; TiKV's messages have up to 10 MiB."""
MESSAGE_MS: Final = 30_000
_STREAMS: Final = 24
_SNAPSHOTS: Final = 8
_CALLS_MAX: Final = 64
_DELAY_MS: Final = 300
_DELAYED_MAX: Final = 4
_RESPONSES_MAX: Final = 1024
"""The maximum number of queued responses of a stream. Beyond it, no batches are read."""
_POLL_MS: Final = 100
_STOP_MS: Final = 10_000
_Responses: TypeAlias = "SimpleQueue[bytes | TheFlashError | None]"


class EngineServer:
    """The service of one learner, which the caller opens and closes."""

    def __init__(
        self,
        learner: Learner,
        address: str,
        *,
        clock: Clock,
        access: Access = Access(),  # noqa: B008 (it is immutable)
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        max_snapshot_bytes: int = SNAPSHOT_BYTES,
        message_ms: int = MESSAGE_MS,
    ) -> None:
        """Bind `address` for `access` (see `listen`); `start` begins to serve.

        `max_snapshot_bytes` is the maximum size of all snapshots that are being received.

        Raises:
            OptionError: The address or the certificates are invalid.
        """
        self._learner, self._clock = learner, clock
        self._access, self._delayed = access, 0
        self._max_snapshot_bytes, self._message_ms = max_snapshot_bytes, message_ms
        self._mutex = threading.Lock()
        self._snapshots, self._snapshot_bytes = 0, 0
        self._expected: dict[grpc.ServicerContext, int] = {}
        self._streams: list[_Responses] = []
        self._stopping = threading.Event()
        # Besides the threads of calls, there are some to reject calls.
        workers = _STREAMS + _SNAPSHOTS + _DELAYED_MAX + 1
        self._workers = ThreadPoolExecutor(workers, thread_name_prefix="engine")
        self._server = grpc.server(
            self._workers,
            options=server_options(max_message_bytes, _STREAMS),
            maximum_concurrent_rpcs=_CALLS_MAX,
        )
        calls = {
            "ApplyCommandBatch": grpc.stream_stream_rpc_method_handler(self._apply),
            "ApplySnapshot": grpc.stream_unary_rpc_method_handler(self._install),
        }
        service = grpc.method_handlers_generic_handler(SERVICE, calls)
        self._server.add_generic_rpc_handlers((service,))
        self.address = listen(self._server, address, access)
        """The bound address, with the actual port if the port was 0."""
        self._inflow = Inflow(0)
        self._guard = InflowGuard(self.address, self._inflow)
        self._ticker = threading.Thread(target=self._tick, name="engine-ticker", daemon=True)

    def start(self) -> None:
        """Begin to serve."""
        self._server.start()
        self._ticker.start()
        self._guard.start()
        _log.info("serving TiKV: address=%s", self.address)

    def stop(self) -> None:
        """Finish running calls, and stop. The learner remains open."""
        self._stopping.set()
        self._guard.drain()
        self._server.stop(_STOP_MS / 1000).wait()
        self._guard.stop()
        if self._ticker.ident is not None:
            self._ticker.join()
        self._workers.shutdown()

    def _apply(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        self._check_caller(context)
        responses: _Responses = SimpleQueue()
        with self._mutex:
            is_free = len(self._streams) < _STREAMS
            if is_free:
                self._streams.append(responses)
        if not is_free:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{_STREAMS} streams are open")
        # The ticker sends responses too, so a separate thread reads the batches.
        arguments = requests, responses, context
        threading.Thread(target=self._apply_batches, args=arguments, daemon=True).start()
        try:
            while (response := responses.get()) is not None:
                if isinstance(response, TheFlashError):
                    context.abort(_status(response), str(response))
                else:
                    yield response
        finally:
            with self._mutex:
                self._streams.remove(responses)

    def _apply_batches(
        self, requests: Iterator[bytes], responses: _Responses, context: grpc.ServicerContext
    ) -> None:
        """Apply batches until their stream ends; queue responses, and an error or None last."""
        end: TheFlashError | None = None
        try:
            first = self._next(requests, context)
            for request in () if first is None else itertools.chain((first,), requests):
                responses.put(encode_responses(self._learner.apply(decode_commands(request))))
                while responses.qsize() >= _RESPONSES_MAX and context.is_active():
                    self._clock.sleep_ms(_POLL_MS)
        except TheFlashError as error:
            _log.warning("commands rejected: %s", error)
            end = error
        except grpc.RpcError:
            _log.info("stream of commands ended: the caller has disconnected")
        except Exception as error:  # noqa: BLE001 (returned to the caller)
            _log.exception("stream of commands ended")
            end = InternalError(repr(error))
        responses.put(end)

    def _install(self, chunks: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        self._check_caller(context)
        try:
            with self._receiving(context) as count:
                builder = SnapshotBuilder(self._max_snapshot_bytes)
                while (chunk := self._next(chunks, context)) is not None:
                    count(len(chunk))
                    builder.add(chunk)
                self._learner.install(builder.finish())
        except TheFlashError as error:
            _log.warning("snapshot rejected: %s", error)
            context.abort(_status(error), str(error))
        return encode_snapshot_done()

    @contextmanager
    def _receiving(self, context: grpc.ServicerContext) -> Iterator[Callable[[int], None]]:
        """Count a snapshot within the block; yield a function that counts its bytes."""
        size_bytes = 0

        def count(more_bytes: int) -> None:
            nonlocal size_bytes
            with self._mutex:
                held_bytes = self._snapshot_bytes + more_bytes
                if held_bytes > self._max_snapshot_bytes:
                    raise CacheFullError(held_bytes, self._max_snapshot_bytes)
                self._snapshot_bytes = held_bytes
                size_bytes += more_bytes

        with self._mutex:
            is_free = self._snapshots < _SNAPSHOTS
            self._snapshots += is_free
        if not is_free:
            reason = f"{_SNAPSHOTS} snapshots are being received; try again"
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, reason)
        try:
            yield count
        finally:
            with self._mutex:
                self._snapshots -= 1
                self._snapshot_bytes -= size_bytes

    def _next(self, messages: Iterator[bytes], context: grpc.ServicerContext) -> bytes | None:
        """Return the next message, None at the end; the call is cancelled if it is late."""
        with self._mutex:
            self._expected[context] = self._clock.boottime_ms() + self._message_ms
        try:
            return next(messages, None)
        finally:
            with self._mutex:
                del self._expected[context]

    def _cancel_late(self) -> None:
        now_ms = self._clock.boottime_ms()
        with self._mutex:
            late = [context for context, due_ms in self._expected.items() if due_ms <= now_ms]
        for context in late:
            _log.warning("call cancelled: %s sends no message", context.peer())
            context.cancel()

    def _tick(self) -> None:
        """Publish when due, and send responses for what has become durable."""
        while not self._stopping.is_set():
            self._clock.sleep_ms(_POLL_MS)
            self._cancel_late()
            try:
                self._learner.tick()
            except TheFlashError as error:
                _log.warning("publication failed: %s", error)
            if progress := self._learner.store.take_progress():
                self._send_to_all(encode_responses(progress))

    def _send_to_all(self, response: bytes) -> None:
        with self._mutex:
            for responses in self._streams:
                if responses.qsize() < _RESPONSES_MAX:
                    responses.put(response)

    def _check_caller(self, context: grpc.ServicerContext) -> None:
        if not self._access.rejects(context):
            self._inflow.trust(context.peer())
            return
        with self._mutex:
            is_delayed = self._delayed < _DELAYED_MAX
            self._delayed += is_delayed
        # The log and the number of threads are bounded.
        if is_delayed:
            _log.warning("caller rejected: %s: its certificate is not allowed", context.peer())
            self._clock.sleep_ms(_DELAY_MS)
            with self._mutex:
                self._delayed -= 1
        reason = "the certificate's common name is not allowed"
        context.abort(grpc.StatusCode.PERMISSION_DENIED, reason)


def _status(error: TheFlashError) -> grpc.StatusCode:
    if isinstance(error, CacheFullError):
        return grpc.StatusCode.RESOURCE_EXHAUSTED
    if isinstance(error, CodecError):
        return grpc.StatusCode.INVALID_ARGUMENT
    if isinstance(error, RaftCommandError):
        return grpc.StatusCode.FAILED_PRECONDITION
    if isinstance(error, CorruptionError):
        return grpc.StatusCode.DATA_LOSS
    return grpc.StatusCode.UNAVAILABLE if error.retryable else grpc.StatusCode.INTERNAL
