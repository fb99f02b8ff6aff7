"""enginepb's service: where a TiKV sends what its raft learners apply.

    ApplyCommandBatch   batches of commands in, how far regions are durable out, for as long as the
                        sender likes. An answer comes for each batch, and whenever rows have become
                        durable since
    ApplySnapshot       chunks in, one answer when the snapshot is durable

An answer tells what survives a crash, so the sender may forget commands up to there and no
further. After an error the stream ends; the sender begins anew from what was last answered.
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
"""A batch, or a chunk of a snapshot."""
_STREAMS: Final = 16
_CALLS_MAX: Final = 64
_ANSWERS_MAX: Final = 1024
"""So many answers wait for a sender that does not read them; beyond, no more is taken of it."""
_POLL_MS: Final = 100
_STOP_MS: Final = 10_000
_Answers: TypeAlias = "SimpleQueue[bytes | TheFlashError | None]"


class EngineServer:
    """The service over one learner, which outlives it."""

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
        """Listen on `address` (see `listen`), and answer from `start` on.

        `allowed_names`: with `tls`, common names of callers' certificates, if not every one that
        the authority has signed.

        Raises:
            OptionError: the address or the certificates cannot be used.
        """
        if allowed_names and tls is None:
            raise OptionError("allowed_names", "names are in certificates, and there are none")
        self._learner, self._clock = learner, clock
        self._allowed_names = frozenset(name.encode() for name in allowed_names)
        self._max_snapshot_bytes = max_snapshot_bytes
        self._mutex = threading.Lock()
        self._open: list[_Answers] = []
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
        """Where it listens, with the port that port 0 became."""
        self._ticker = threading.Thread(target=self._tick, name="engine-ticker", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._server.start()
        self._ticker.start()
        _log.info("engine listens: address=%s", self.address)

    def stop(self) -> None:
        """Finish what has begun, and close. The learner stays open."""
        self._stopping.set()
        self._server.stop(_STOP_MS / 1000).wait()
        if self._ticker.ident is not None:
            self._ticker.join()
        self._workers.shutdown()

    def _apply(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        self._check_caller(context)
        answers: _Answers = SimpleQueue()
        with self._mutex:
            self._open.append(answers)
        # Answers come of batches and of time, so the batches are taken by a thread of their own.
        taking = requests, answers, context
        taker = threading.Thread(target=self._take, args=taking, daemon=True)
        taker.start()
        try:
            while (answer := answers.get()) is not None:
                if isinstance(answer, TheFlashError):
                    context.abort(_status(answer), str(answer))
                else:
                    yield answer
        finally:
            with self._mutex:
                self._open.remove(answers)

    def _take(
        self, requests: Iterator[bytes], answers: _Answers, context: grpc.ServicerContext
    ) -> None:
        """Apply batches until their stream ends, and say how it went."""
        end: TheFlashError | None = None
        try:
            for request in requests:
                answers.put(encode_responses(self._learner.apply(decode_commands(request))))
                while answers.qsize() >= _ANSWERS_MAX and context.is_active():
                    self._clock.sleep_ms(_POLL_MS)
        except TheFlashError as error:
            _log.warning("commands refused: %s", error)
            end = error
        except grpc.RpcError:
            _log.info("commands end: the caller has hung up")
        except Exception as error:  # noqa: BLE001 (told to the caller)
            _log.exception("commands end")
            end = InternalError(repr(error))
        answers.put(end)

    def _install(self, chunks: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        self._check_caller(context)
        builder = SnapshotBuilder(self._max_snapshot_bytes)
        try:
            for chunk in chunks:
                builder.add(chunk)
            self._learner.install(builder.finish())
        except TheFlashError as error:
            _log.warning("snapshot refused: %s", error)
            context.abort(_status(error), str(error))
        return encode_snapshot_done()

    def _tick(self) -> None:
        """Write out what is due, and tell senders what has become durable."""
        while not self._stopping.is_set():
            self._clock.sleep_ms(_POLL_MS)
            try:
                self._learner.tick()
            except TheFlashError as error:
                _log.warning("not written out: %s", error)
            if news := self._learner.store.take_news():
                self._tell(encode_responses(news))

    def _tell(self, answer: bytes) -> None:
        with self._mutex:
            for answers in self._open:
                if answers.qsize() < _ANSWERS_MAX:
                    answers.put(answer)

    def _check_caller(self, context: grpc.ServicerContext) -> None:
        if not self._allowed_names:
            return
        names = context.auth_context().get("x509_common_name", ())
        if self._allowed_names.isdisjoint(names):
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "this certificate's name may not call")


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
