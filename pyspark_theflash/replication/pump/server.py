"""A pump: where TiDB writes its binlog to.

TiDB sends each half of a transaction as one call, waits for the answer to a prewrite before it asks
for the commit_ts, and lets the transaction fail where there is none. So an answer without an error
means durable: it comes after the spool's sync, which calls that wait at the same time share. One
event loop in a thread of its own answers all calls; the disk is left to other threads.

What TiDB makes of an error
    prewrite           tries again for `binlog.write-timeout` (15 s), then *ends its own process*, a
                       payload that is too large excepted: that fails the transaction only, if the
                       text says so in gRPC's words. With `ignore-error` it goes on and loses data
                       for its binlog, so that must be off.
    commit, rollback   tries again for ten minutes, then forgets it

    A lost commit leaves its prewrite waiting and holds `resolved_ts` where it is. So prewrites are
    refused while there is still room for the commits of those that came before, and when the server
    is about to stop it takes commits a while longer.

Pulling
    Whoever pulls gets what TiDB sent, in order of arrival, from the position on that it gives: our
    own client, or another reader of raw binlogs. Not tidb-binlog's drainer, which leaves the
    matching of commits to the pump; its positions are refused.

Only the shape of a message is checked: what a prewrite's changes mean takes the schema.
"""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

from pyspark_theflash.base.clock import Clock
from pyspark_theflash.base.errors import (
    ClusterMismatchError,
    CodecError,
    CorruptionError,
    OptionError,
    ServiceRefusedError,
    ServiceUnavailableError,
    TheFlashError,
)
from pyspark_theflash.base.tls import TlsFiles
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.net.channel import grpc
from pyspark_theflash.net.listen import listen
from pyspark_theflash.replication.pump.group_commit import GroupCommit
from pyspark_theflash.replication.pump.spool import Spool, number_of
from pyspark_theflash.replication.pump.wire import (
    PUMP_SERVICE,
    PulledBinlog,
    PullRequest,
    WriteBinlogRequest,
    encode_write_response,
)
from pyspark_theflash.replication.source.event import Entity, EntityKind
from pyspark_theflash.replication.source.frame import FRAME_OVERHEAD_BYTES, MAX_FRAME_BYTES
from pyspark_theflash.replication.source.wire import decode_entities, is_probe

_log = logging.getLogger(__name__)

MAX_PAYLOAD_BYTES: Final = 128 << 20
"""More than TiDB's `txn-total-size-limit` (100 MiB by default) lets a transaction have."""
SPARE_BYTES: Final = 64 << 20
"""Room in the spool for commits and rollbacks of prewrites that were taken."""
DRAIN_MS: Final = 1000

_ZERO: Final = TimeStamp(0)
_DURABLE: Final = encode_write_response("")
_PULLERS: Final = 4
_PULL_BYTES: Final = 1 << 20
_CALLS_MAX: Final = 4096
_STREAMS_MAX: Final = 128
# Up to this many times the limit, a payload is refused in words that TiDB knows; beyond, by gRPC.
_OVERSIZE: Final = 4
_POLL_MS: Final = 200
_STOP_MS: Final = 10_000

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PumpCounters:
    """What a server has done since it was made; timestamps are 0 before the first."""

    payloads: int = 0
    payload_bytes: int = 0
    errors: int = 0
    last_start_ts: TimeStamp = _ZERO
    max_commit_ts: TimeStamp = _ZERO

    def counting(self, entity: Entity, size_bytes: int) -> "PumpCounters":
        """One payload later."""
        return replace(
            self,
            payloads=self.payloads + 1,
            payload_bytes=self.payload_bytes + size_bytes,
            last_start_ts=entity.start_ts,
            max_commit_ts=max(self.max_commit_ts, entity.commit_ts),
        )


class PumpServer:
    """A pump over one spool, which outlives it."""

    def __init__(
        self,
        spool: Spool,
        address: str,
        *,
        clock: Clock,
        tls: TlsFiles | None = None,
        allowed_names: tuple[str, ...] = (),
        cluster_id: int | None = None,
        max_payload_bytes: int = MAX_PAYLOAD_BYTES,
        spare_bytes: int = SPARE_BYTES,
    ) -> None:
        """Listen on `address` (see `listen`), and answer from `start` to `stop`.

        `allowed_names`: with `tls`, common names of callers' certificates, if not every one that
        the authority has signed. `cluster_id`: None for that of the first write, or of the spool.

        Raises:
            OptionError: the address or the certificates cannot be used.
            ClusterMismatchError: the spool is another cluster's.
        """
        if not 0 < max_payload_bytes <= MAX_FRAME_BYTES - FRAME_OVERHEAD_BYTES:
            raise OptionError("max_payload_bytes", f"is not between 1 and {MAX_FRAME_BYTES}")
        if allowed_names and tls is None:
            raise OptionError("allowed_names", "names are in certificates, and there are none")
        if cluster_id is not None:
            spool.check_cluster(cluster_id)
        self._spool, self._clock = spool, clock
        self._allowed_names = frozenset(name.encode() for name in allowed_names)
        self._max_payload_bytes, self._spare_bytes = max_payload_bytes, spare_bytes
        self._counters = PumpCounters()
        self._cluster_id = spool.cluster_id()
        self._pausing, self._stopping = False, False
        self._pulls = 0
        self._pullers = ThreadPoolExecutor(_PULLERS, thread_name_prefix="pump pull")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="pump", daemon=True)
        self._thread.start()
        try:
            self.address = self._run(self._listen(address, tls))
            """Where it listens, with the port that port 0 became."""
        except BaseException:
            self._end()
            raise

    async def _listen(self, address: str, tls: TlsFiles | None) -> str:
        self._group = GroupCommit(self._spool)
        self._server = grpc.aio.server(
            options=_options(self._max_payload_bytes), maximum_concurrent_rpcs=_CALLS_MAX
        )
        calls = {
            "WriteBinlog": grpc.unary_unary_rpc_method_handler(self._write),
            "PullBinlogs": grpc.unary_stream_rpc_method_handler(self._pull),
        }
        service = grpc.method_handlers_generic_handler(PUMP_SERVICE, calls)
        self._server.add_generic_rpc_handlers((service,))
        return listen(self._server, address, tls)

    def start(self) -> None:
        """Begin to answer."""
        self._run(self._server.start())
        _log.info("pump listens: address=%s", self.address)

    def pause(self) -> None:
        """Refuse prewrites from now on, so that what is open comes to its end."""
        self._pausing = True

    def stop(self, drain_ms: int = DRAIN_MS) -> None:
        """Refuse prewrites, take commits for `drain_ms` more, finish what has begun, and close.

        Does nothing the second time.
        """
        if self._loop.is_closed():
            return
        self.pause()
        self._clock.sleep_ms(drain_ms)
        self._stopping = True
        self._run(self._server.stop(_STOP_MS / 1000))
        self._end()

    def counters(self) -> PumpCounters:
        """What has been done until now."""
        return self._counters

    def _run(self, call: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(call, self._loop).result()

    def _end(self) -> None:
        """End all threads."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._group.close()
        self._pullers.shutdown()
        self._loop.close()

    async def _write(self, request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        await self._check_caller(context)
        # A caller who has stopped waiting sends it again, or never meant it: written then, it could
        # come behind its own commit, or be a prewrite that never ends. gRPC cancels this for him.
        try:
            await self._take(WriteBinlogRequest.from_bytes(request))
        except TheFlashError as error:
            self._counters = replace(self._counters, errors=self._counters.errors + 1)
            _log.warning("binlog refused: %s", error)
            return encode_write_response(str(error))
        return _DURABLE

    async def _take(self, request: WriteBinlogRequest) -> None:
        """Make a binlog durable, or raise why not."""
        size_bytes = len(request.payload)
        if size_bytes > self._max_payload_bytes:
            reason = (
                "ResourceExhausted: received message larger than max "
                f"({size_bytes} vs. {self._max_payload_bytes})"
            )
            raise ServiceRefusedError(self.address, reason)
        self._check_cluster(request.cluster_id)
        if is_probe(request.payload):
            return
        entity = decode_entities(request.payload, self.address, 0)[-1]
        spare_bytes = 0
        if entity.kind is EntityKind.PREWRITE:
            if self._pausing:
                raise ServiceUnavailableError(self.address, "it is about to stop")
            spare_bytes = self._spare_bytes
        await self._group.append(request.payload, spare_bytes)
        self._counters = self._counters.counting(entity, size_bytes)

    async def _pull(
        self, request: bytes, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[bytes]:
        await self._check_caller(context)
        if self._pulls == _PULLERS:
            # One that has hung up is noticed at once, so trying again helps.
            await context.abort(grpc.StatusCode.UNAVAILABLE, f"{_PULLERS} pull already")
        self._pulls += 1
        try:
            position = self._position(PullRequest.from_bytes(request))
            while not self._stopping:
                read = self._loop.run_in_executor(self._pullers, self._read_beyond, position)
                messages, position = await read
                for message in messages:
                    yield message
        except TheFlashError as error:
            await context.abort(_status(error), str(error))
        finally:
            self._pulls -= 1

    def _position(self, request: PullRequest) -> str:
        if self._cluster_id not in (None, request.cluster_id):
            self._check_cluster(request.cluster_id)
        return self._spool.position_of(request.suffix, request.offset)

    def _read_beyond(self, position: str) -> tuple[list[bytes], str]:
        """Some messages behind a position, and the position behind them; waits a while for one."""
        messages: list[bytes] = []
        size_bytes = 0
        self._spool.wait_beyond(position, _POLL_MS)
        try:
            for frame in self._spool.source().frames(position):
                suffix, offset = number_of(frame.end.name), frame.end.offset
                pulled = PulledBinlog(suffix, offset, frame.payload, merged=False)
                messages.append(pulled.to_bytes())
                position = str(frame.end)
                size_bytes += len(frame.payload)
                if size_bytes >= _PULL_BYTES:
                    break
        except TheFlashError:
            # What came before the error is sent first.
            if not messages:
                raise
        return messages, position

    def _check_cluster(self, cluster_id: int) -> None:
        if self._cluster_id is None:
            self._spool.check_cluster(cluster_id)
            self._cluster_id = cluster_id
        elif cluster_id != self._cluster_id:
            raise ClusterMismatchError(self.address, cluster_id, self._cluster_id)

    async def _check_caller(self, context: grpc.aio.ServicerContext) -> None:
        if not self._allowed_names:
            return
        names = context.auth_context().get("x509_common_name", ())
        if self._allowed_names.isdisjoint(names):
            await context.abort(
                grpc.StatusCode.PERMISSION_DENIED, "this certificate's name may not call"
            )


def _options(max_payload_bytes: int) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", min(_OVERSIZE * max_payload_bytes, 2**31 - 1)),
        ("grpc.max_send_message_length", -1),
        # What is above waits with its sender; gRPC's own refusal would end a TiDB.
        ("grpc.max_concurrent_streams", _STREAMS_MAX),
        ("grpc.so_reuseport", 0),
    ]


def _status(error: TheFlashError) -> grpc.StatusCode:
    if isinstance(error, ClusterMismatchError):
        return grpc.StatusCode.FAILED_PRECONDITION
    if isinstance(error, CodecError):
        return grpc.StatusCode.INVALID_ARGUMENT
    if isinstance(error, CorruptionError):
        return grpc.StatusCode.DATA_LOSS
    if isinstance(error, OptionError):
        return grpc.StatusCode.OUT_OF_RANGE
    return grpc.StatusCode.UNKNOWN
