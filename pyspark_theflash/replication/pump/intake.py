"""Messages of the pump's calls, received within one memory budget.

gRPC buffers what has arrived of a message, up to the size limit, once the message is requested; it
does not report how much that is. So the number of messages that arrive at the same time is limited:

    recent    requested less than `_RECENT` ticks ago; almost all messages arrive within that time.
              At most `_RECENT_MAX`, further calls wait for their turn.
    slow      requested earlier. It counts as a message of the largest size; if there is no memory
              for that, it is rejected, or the oldest slow one if that is older than `_STALE` ticks.
              So there is at most one of the largest size.

No message may take longer than `_LATE` ticks; TiDB does not wait longer either. Time is counted in
ticks of the event loop, so that messages are not rejected because this process was stopped. Turns
alternate between connections that have sent a message before and others, so that calls without a
message do not delay TiDB's.

Received messages count as their size until they are durable. There is memory for one of the largest
size, `BESIDE_BYTES` of other large ones, and `SMALL_MESSAGES_BYTES` of small ones, so that there is
always memory for commits. A message that is rejected for lack of memory is answered after `_BUSY`
ticks, since to receive it again takes much time. Python has a message twice when it has arrived and
while it is checked.

In messages of the largest size, of 128 MiB by default, there are at the same time

    `_RECENT_MAX` + 1   that arrive, recent and slow, and a copy of one of them
    3                   received (1.5 with `BESIDE_BYTES`), each with a copy for its check
    1/2                 small ones
"""

import asyncio
from collections import deque
from contextlib import suppress
from typing import Any, Final

from pyspark_theflash.base.errors import CodecError, ServiceUnavailableError, invariant
from pyspark_theflash.base.lru import LeastRecent
from pyspark_theflash.net.channel import grpc

LARGE_BYTES: Final = 1 << 20
"""Size above which a message is large."""
BESIDE_BYTES: Final = 64 << 20
"""Memory for large messages beside one of the largest size."""
SMALL_MESSAGES_BYTES: Final = 64 << 20
"""Memory that large messages leave for others."""
TICK_MS: Final = 50
_RECENT: Final = 2
_STALE: Final = 100
_LATE: Final = 300
_RECENT_MAX: Final = 2
_BUSY: Final = 10
_PROVEN_MAX: Final = 1024
"""The number of connections that are remembered because they have sent a message."""
_WAITING_MAX: Final = 512
"""The maximum number of calls that wait for their turn."""


class _NoMemoryError(Exception):
    """A message that has arrived is rejected, since others are in memory."""


class _Arrival:
    """A message that was requested from gRPC by `task`."""

    def __init__(self, task: "asyncio.Task[Any] | None") -> None:
        invariant(task is not None, "a message is received in a task")
        self.task = task
        self.ticks = 0
        self.is_slow = False
        self.rejection: str | None = None

    def reject(self, reason: str) -> None:
        """End the wait for the message."""
        if self.rejection is None:
            self.rejection = reason
            if self.task is not None:
                self.task.cancel()


class _Turns:
    """The turns of calls whose messages are recent."""

    def __init__(self) -> None:
        self._free = _RECENT_MAX
        self._queues: tuple[deque[asyncio.Future[None]], ...] = (deque(), deque())
        """Waiting calls: those of other connections, and those of proven ones."""
        self._proven = LeastRecent[str, bool](_PROVEN_MAX)
        self._last = 0

    def note(self, peer: str) -> None:
        """Note that a connection has sent a message."""
        self._proven.put(peer, True)

    async def acquire(self, peer: str) -> None:
        """Wait for a turn. Raises `ServiceUnavailableError`: too many calls wait."""
        if self._free:
            self._free -= 1
            return
        waiting = sum(map(len, self._queues))
        if waiting >= _WAITING_MAX:
            raise _busy(f"{waiting} calls wait already")
        turn = asyncio.get_running_loop().create_future()
        queue = self._queues[self._proven.get(peer) or False]
        queue.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                with suppress(ValueError):  # a turn that ends may have removed it
                    queue.remove(turn)
            else:
                self.release()  # it was granted at the same moment
            raise

    def release(self) -> None:
        """Pass a turn on, to the two queues alternately if both have calls."""
        self._last = 1 - self._last
        for queue in (self._queues[self._last], self._queues[1 - self._last]):
            while queue:
                turn = queue.popleft()
                if not turn.done():
                    turn.set_result(None)
                    return
        self._free += 1


class Intake:
    """Receives messages. Use it only in one event loop."""

    def __init__(self, message_bytes: int, tick_ms: int = TICK_MS) -> None:
        """`message_bytes` is the size limit of a message, which gRPC checks."""
        self._message_bytes, self._large_bytes_max = message_bytes, message_bytes + BESIDE_BYTES
        self._tick_s = tick_ms / 1000
        self._large_bytes = self._small_bytes = 0
        self._turns = _Turns()
        self._arrivals: dict[_Arrival, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    async def receive(self, context: Any) -> bytes:  # noqa: ANN401
        """Receive the next message of a call; its size counts until it is released.

        Raises:
            ServiceUnavailableError: There is no memory for it, or it does not arrive in time.
            CodecError: The call ends without a message.
        """
        try:
            return self._accepted(await self._received(context))
        except _NoMemoryError as error:
            reason = str(error)
        # The error is gone, and with it the message, which its traceback refers to.
        await asyncio.sleep(_BUSY * self._tick_s)
        raise _busy(reason)

    def _accepted(self, message: bytes) -> bytes:
        """Count a message. Raises `_NoMemoryError`."""
        size_bytes = len(message)
        if size_bytes > LARGE_BYTES:
            used_bytes, limit_bytes = self._used_bytes(), self._large_bytes_max
        else:
            used_bytes, limit_bytes = self._small_bytes, SMALL_MESSAGES_BYTES
        if used_bytes + size_bytes > limit_bytes:
            raise _NoMemoryError(f"there are {used_bytes} bytes of messages like this one")
        self._count(size_bytes, size_bytes)
        return message

    def release(self, size_bytes: int) -> None:
        """Count a received message of this size no more."""
        self._count(size_bytes, -size_bytes)

    def _count(self, size_bytes: int, change: int) -> None:
        if size_bytes > LARGE_BYTES:
            self._large_bytes += change
        else:
            self._small_bytes += change

    def _used_bytes(self) -> int:
        """Return the memory of large messages, which slow ones may be."""
        return self._large_bytes + len(self._slow()) * self._message_bytes

    def _slow(self) -> list[_Arrival]:
        return [each for each in self._arrivals if each.is_slow and each.rejection is None]

    async def _received(self, context: Any) -> bytes:  # noqa: ANN401
        peer = context.peer()
        await self._turns.acquire(peer)
        arrival = _Arrival(asyncio.current_task())
        self._arrivals[arrival] = None
        if self._timer is None:
            self._tick_later()
        try:
            message = await context.read()
        except asyncio.CancelledError:
            if arrival.rejection is None:
                raise
            # At once: gRPC receives the message until the call has ended.
            raise _busy(arrival.rejection) from None
        finally:
            del self._arrivals[arrival]
            if not arrival.is_slow:
                self._turns.release()
        if message is grpc.aio.EOF:
            raise CodecError("call", "there is no message")
        self._turns.note(peer)
        received: bytes = message
        return received

    def _tick_later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._tick_s, self._tick)

    def _tick(self) -> None:
        self._timer = None
        for arrival in list(self._arrivals):
            arrival.ticks += 1
            if arrival.ticks >= _LATE:
                arrival.reject("the message did not arrive in time")
            elif arrival.ticks >= _RECENT and not arrival.is_slow:
                self._slowed(arrival)
        if self._arrivals:
            self._tick_later()

    def _slowed(self, arrival: _Arrival) -> None:
        reason = "another large message is arriving, or in memory"
        slow = self._slow()
        if slow and slow[0].ticks >= _STALE:
            slow[0].reject(reason)
        if self._used_bytes() + self._message_bytes > self._large_bytes_max:
            arrival.reject(reason)
            return
        arrival.is_slow = True
        self._turns.release()


def _busy(reason: str) -> ServiceUnavailableError:
    return ServiceUnavailableError("the pump", f"{reason}; try again")
