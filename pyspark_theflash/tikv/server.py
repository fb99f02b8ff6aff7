"""The gRPC service enginepb.Engine, to which TiKV sends the commands of its raft learners.

    ApplyCommandBatch   A bidirectional stream: batches of commands in, durable apply states of
                        regions out. A response is sent for each batch, and whenever further
                        commands have become durable.
    ApplySnapshot       Chunks in, one response when the snapshot is durable.

A response contains the durable state, so the sender must keep the commands above it. After an error
the stream ends, and the sender starts again from the last response.
"""

import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Final, TypeAlias

from pyspark_theflash.base.clock import Clock
from pyspark_theflash.base.errors import (
    CacheFullError,
    CodecError,
    CorruptionError,
    InternalError,
    OptionError,
    RaftCommandError,
    TheFlashError,
)
from pyspark_theflash.base.tls import TlsFiles
from pyspark_theflash.net.channel import grpc
from pyspark_theflash.net.listen import listen
from pyspark_theflash.tikv.learner import Learner
from pyspark_theflash.tikv.region_snapshot import SNAPSHOT_BYTES, SnapshotBuilder
from pyspark_theflash.tikv.wire import (
    SERVICE,
    decode_commands,
    encode_responses,
    encode_snapshot_done,
)

_log = logging.getLogger(__name__)

MAX_MESSAGE_BYTES: Final = 128 << 20
"""The maximum size of a batch or of a chunk of a snapshot."""
_STREAMS: Final = 16
_CALLS_MAX: Final = 64
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
        tls: TlsFiles | None = None,
        allowed_names: tuple[str, ...] = (),
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        max_snapshot_bytes: int = SNAPSHOT_BYTES,
    ) -> None:
        """Bind `address` (see `listen`); `start` begins to serve.

        `allowed_names` are common names of callers' certificates (with `tls`); if it is empty,
        every certificate signed by the authority is accepted.

        Raises:
            OptionError: The address or the certificates are invalid.
        """
        if allowed_names and tls is None:
            raise OptionError("allowed_names", "requires TLS: the names are those of certificates")
        self._learner, self._clock = learner, clock
        self._allowed_names = frozenset(name.encode() for name in allowed_names)
        self._max_snapshot_bytes = max_snapshot_bytes
        self._mutex = threading.Lock()
        self._streams: list[_Responses] = []
        self._stopping = threading.Event()
        self._workers = ThreadPoolExecutor(2 * _STREAMS, thread_name_prefix="engine")
        self._server = grpc.server(
            self._workers,
            options=[
                ("grpc.max_receive_message_length", max_message_bytes),
                ("grpc.max_concurrent_streams", _STREAMS),
                ("grpc.so_reuseport", 0),
            ],
            maximum_concurrent_rpcs=_CALLS_MAX,
        )
        calls = {
            "ApplyCommandBatch": grpc.stream_stream_rpc_method_handler(self._apply),
            "ApplySnapshot": grpc.stream_unary_rpc_method_handler(self._install),
        }
        service = grpc.method_handlers_generic_handler(SERVICE, calls)
        self._server.add_generic_rpc_handlers((service,))
        self.address = listen(self._server, address, tls)
        """The bound address, with the actual port if the port was 0."""
        self._ticker = threading.Thread(target=self._tick, name="engine-ticker", daemon=True)

    def start(self) -> None:
        """Begin to serve."""
        self._server.start()
        self._ticker.start()
        _log.info("serving TiKV: address=%s", self.address)

    def stop(self) -> None:
        """Finish running calls, and stop. The learner remains open."""
        self._stopping.set()
        self._server.stop(_STOP_MS / 1000).wait()
        if self._ticker.ident is not None:
            self._ticker.join()
        self._workers.shutdown()

    def _apply(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        self._check_caller(context)
        responses: _Responses = SimpleQueue()
        with self._mutex:
            self._streams.append(responses)
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
            for request in requests:
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
        builder = SnapshotBuilder(self._max_snapshot_bytes)
        try:
            for chunk in chunks:
                builder.add(chunk)
            self._learner.install(builder.finish())
        except TheFlashError as error:
            _log.warning("snapshot rejected: %s", error)
            context.abort(_status(error), str(error))
        return encode_snapshot_done()

    def _tick(self) -> None:
        """Publish when due, and send responses for what has become durable."""
        while not self._stopping.is_set():
            self._clock.sleep_ms(_POLL_MS)
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
        if not self._allowed_names:
            return
        names = context.auth_context().get("x509_common_name", ())
        if self._allowed_names.isdisjoint(names):
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
