"""gRPC server of a pump, to which TiDB writes its binlog.

TiDB sends prewrite and commit of a transaction as separate calls. It waits for the response to the
prewrite before it gets the commit_ts, and fails the transaction if there is none. So a response
without an error means that the message is durable: it follows the spool's sync, which concurrent
calls share. One event loop in its own thread answers all calls; other threads do the disk I/O.

TiDB's reaction to an error
    prewrite           Retries for `binlog.write-timeout` (15 s), then *exits the TiDB process*.
                       Only gRPC's status RESOURCE_EXHAUSTED fails just the transaction: gRPC
                       rejects oversized payloads with it, and so it is used for nothing else. With
                       `ignore-error` TiDB continues and its binlog loses data, so `ignore-error`
                       must be off.
    commit, rollback   Retries for ten minutes, then drops it.

    A lost commit leaves its prewrite pending and holds back `resolved_ts`. So prewrites are
    rejected while there is still space for the commits of earlier ones, and a server that is
    stopping accepts commits a while longer.

Pulling
    Clients of `PullBinlogs` get TiDB's messages in order of arrival, starting at the requested
    position. They are our own client or other readers of raw binlogs. tidb-binlog's drainer is not
    supported, since it relies on the pump to match commits; its positions are rejected.

Checks
    The caller's name is checked before a message is received, and messages are received within one
    memory budget (`intake`). A message is acknowledged only if the writer can read it later
    (`source.check`): all is checked that does not need the schema.
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
    BinlogCorruptionError,
    ClusterMismatchError,
    CodecError,
    CorruptionError,
    OptionError,
    ServiceUnavailableError,
    TheFlashError,
)
from pyspark_theflash.base.memory import return_freed_memory
from pyspark_theflash.base.types import TimeStamp, physical_ms
from pyspark_theflash.net.access import Access
from pyspark_theflash.net.channel import grpc
from pyspark_theflash.net.inflow import Inflow, InflowGuard
from pyspark_theflash.net.listen import listen, server_options
from pyspark_theflash.replication.pump.group_commit import GroupCommit
from pyspark_theflash.replication.pump.intake import LARGE_BYTES, Intake
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
from pyspark_theflash.replication.source.prewrite import check_message
from pyspark_theflash.replication.source.wire import is_probe

_log = logging.getLogger(__name__)

MAX_PAYLOAD_BYTES: Final = 128 << 20
"""Above the transaction size that TiDB's `txn-total-size-limit` (default 100 MiB) allows."""
SPARE_BYTES: Final = 64 << 20
"""Space in the spool reserved for commits and rollbacks of accepted prewrites."""
DRAIN_MS: Final = 1000

_ZERO: Final = TimeStamp(0)
_DURABLE: Final = encode_write_response("")
_PULLERS: Final = 4
_PULL_BYTES: Final = 1 << 20
_CALLS_MAX: Final = 4096
_STREAMS_MAX: Final = 128
# Of a request: the cluster's id, tags and lengths.
_ENVELOPE_BYTES: Final = 64
_PROBE_BYTES_MAX: Final = 1_024
_AHEAD_MS: Final = 86_400_000
_DELAY_S: Final = 0.3
_DELAYED_MAX: Final = 64
_POLL_MS: Final = 200
_STOP_MS: Final = 10_000

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PumpCounters:
    """Counters of a server since its creation; timestamps are 0 before the first message."""

    payloads: int = 0
    payload_bytes: int = 0
    errors: int = 0
    last_start_ts: TimeStamp = _ZERO
    max_commit_ts: TimeStamp = _ZERO

    def counting(self, entity: Entity, size_bytes: int) -> "PumpCounters":
        """Return the counters with one more payload."""
        return replace(
            self,
            payloads=self.payloads + 1,
            payload_bytes=self.payload_bytes + size_bytes,
            last_start_ts=entity.start_ts,
            max_commit_ts=max(self.max_commit_ts, entity.commit_ts),
        )


class PumpServer:
    """Pump server that writes to one spool. Closing the spool is up to the caller."""

    def __init__(
        self,
        spool: Spool,
        address: str,
        *,
        clock: Clock,
        access: Access = Access(),  # noqa: B008 (it is immutable)
        cluster_id: int | None = None,
        max_payload_bytes: int = MAX_PAYLOAD_BYTES,
        spare_bytes: int = SPARE_BYTES,
    ) -> None:
        """Bind `address` for `access` (see `listen`); calls are answered from `start` to `stop`.

        `cluster_id` None stands for that of the spool, or of the first write.

        Raises:
            OptionError: The address or the certificates cannot be used.
            ClusterMismatchError: The spool belongs to another cluster.
        """
        if not 0 < max_payload_bytes <= MAX_FRAME_BYTES - FRAME_OVERHEAD_BYTES:
            raise OptionError("max_payload_bytes", f"is not between 1 and {MAX_FRAME_BYTES}")
        if cluster_id is not None:
            spool.check_cluster(cluster_id)
        self._spool, self._clock = spool, clock
        self._access, self._delayed = access, 0
        self._max_payload_bytes, self._spare_bytes = max_payload_bytes, spare_bytes
        self._counters = PumpCounters()
        self._cluster_id = spool.cluster_id()
        self._pausing, self._stopping = False, False
        self._pulls = 0
        self._pullers = ThreadPoolExecutor(_PULLERS, thread_name_prefix="pump pull")
        self._checker = ThreadPoolExecutor(1, thread_name_prefix="pump check")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="pump", daemon=True)
        self._thread.start()
        try:
            self.address = self._run(self._listen(address))
            """Address that it listens on, with the port chosen for port 0."""
        except BaseException:
            self._end()
            raise

    async def _listen(self, address: str) -> str:
        self._group = GroupCommit(self._spool)
        self._intake = Intake(self._max_payload_bytes + _ENVELOPE_BYTES)
        # Calls above the limit wait at the sender. If gRPC rejected them, TiDB would exit.
        options = server_options(self._max_payload_bytes + _ENVELOPE_BYTES, _STREAMS_MAX)
        self._server = grpc.aio.server(
            options=[*options, ("grpc.max_send_message_length", -1)],
            maximum_concurrent_rpcs=_CALLS_MAX,
        )
        calls = {
            # Handlers of request streams: gRPC calls them before it receives a message.
            "WriteBinlog": grpc.stream_unary_rpc_method_handler(self._write),
            "PullBinlogs": grpc.stream_stream_rpc_method_handler(self._pull),
        }
        service = grpc.method_handlers_generic_handler(PUMP_SERVICE, calls)
        self._server.add_generic_rpc_handlers((service,))
        bound = listen(self._server, address, self._access)
        self._inflow = Inflow(0)
        self._guard = InflowGuard(bound, self._inflow)
        return bound

    def start(self) -> None:
        """Start answering calls."""
        self._run(self._server.start())
        self._guard.start()
        _log.info("pump listens: address=%s", self.address)

    def pause(self) -> None:
        """Reject prewrites from now on, so that open transactions finish."""
        self._pausing = True

    def stop(self, drain_ms: int = DRAIN_MS) -> None:
        """Reject prewrites, accept commits for another `drain_ms`, finish open calls, and close.

        Does nothing if it is stopped already.
        """
        if self._loop.is_closed():
            return
        self.pause()
        self._clock.sleep_ms(drain_ms)
        self._stopping = True
        self._guard.drain()
        self._run(self._server.stop(_STOP_MS / 1000))
        self._guard.stop()
        self._end()

    def counters(self) -> PumpCounters:
        """Return the current counters."""
        return self._counters

    def _run(self, call: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(call, self._loop).result()

    def _end(self) -> None:
        """Stop all threads."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._group.close()
        self._pullers.shutdown()
        self._checker.shutdown()
        self._loop.close()

    async def _write(self, _: object, context: grpc.aio.ServicerContext) -> bytes:
        await self._check_caller(context)
        # gRPC cancels this coroutine when the caller stops waiting. The caller retries, or has
        # given up: a late write could follow its own commit, or be a prewrite that never ends.
        try:
            received = [await self._intake.receive(context)]
            size_bytes = len(received[0])
            try:
                await self._store(received)
            finally:
                self._intake.release(size_bytes)
        except TheFlashError as error:
            self._counters = replace(self._counters, errors=self._counters.errors + 1)
            _log.warning("binlog rejected: %s", error)
            return encode_write_response(str(error))
        return _DURABLE

    async def _store(self, received: list[bytes]) -> None:
        """Check a message, which is taken out of the list, and append its binlog durably."""
        if len(received[0]) > LARGE_BYTES:
            # In a thread, so that others are answered meanwhile; one at a time, for its memory.
            decoding = self._loop.run_in_executor(self._checker, self._decoded_large, received)
            payload, entity = await decoding
        else:
            payload, entity = self._decoded(received)
        if entity is None:
            return
        self._check_time(entity)
        spare_bytes = 0
        if entity.kind is EntityKind.PREWRITE:
            if self._pausing:
                raise ServiceUnavailableError(self.address, "the pump is stopping")
            spare_bytes = self._spare_bytes
        await self._group.append(payload, spare_bytes)
        self._counters = self._counters.counting(entity, len(payload))

    def _decoded(self, received: list[bytes]) -> tuple[bytes, Entity | None]:
        """Decode and check a message; return the binlog, and None instead of a probe's entity."""
        request = WriteBinlogRequest.from_bytes(received.pop())
        self._check_cluster(request.cluster_id)
        payload = request.payload
        if len(payload) <= _PROBE_BYTES_MAX and is_probe(payload):
            return payload, None
        return payload, check_message(payload, self.address)

    def _decoded_large(self, received: list[bytes]) -> tuple[bytes, Entity | None]:
        return_freed_memory()  # what gRPC received the message in
        try:
            return self._decoded(received)
        finally:
            return_freed_memory()

    def _check_time(self, entity: Entity) -> None:
        """Reject a timestamp in the future: nothing with a lower one could be applied after it."""
        newest_ms = physical_ms(max(entity.start_ts, entity.commit_ts))
        if newest_ms > self._clock.wall_ms() + _AHEAD_MS:
            reason = f"start_ts={entity.start_ts} commit_ts={entity.commit_ts} is in the future"
            raise BinlogCorruptionError(self.address, 0, f"{reason} by this machine's clock")

    async def _pull(self, _: object, context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        await self._check_caller(context)
        if self._pulls == _PULLERS:
            # A closed connection frees its slot at once, so a retry can succeed.
            await context.abort(grpc.StatusCode.UNAVAILABLE, f"{_PULLERS} clients pull already")
        self._pulls += 1
        try:
            message = await self._intake.receive(context)
            self._intake.release(len(message))
            position = self._position(PullRequest.from_bytes(message))
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
        """Read messages after a position, waiting `_POLL_MS` for one; return the new position."""
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
            # Messages before the error are sent first.
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
        if not self._access.rejects(context):
            self._inflow.trust(context.peer())
            return
        # The log and the number of waiting calls are bounded.
        if self._delayed < _DELAYED_MAX:
            _log.warning("caller rejected: %s: its certificate is not allowed", context.peer())
            self._delayed += 1
            try:
                await asyncio.sleep(_DELAY_S)
            finally:
                self._delayed -= 1
        await context.abort(
            grpc.StatusCode.PERMISSION_DENIED, "the certificate's name is not allowed"
        )


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
