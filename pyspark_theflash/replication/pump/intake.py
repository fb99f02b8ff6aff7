"""Messages of the pump's calls, received within one memory budget.

gRPC buffers what has arrived of a message, up to the size limit, once the message is requested; it
does not report how much that is. So the number of messages that arrive at the same time is limited:

    recent    requested less than `_RECENT` ticks ago; almost all messages arrive within that time.
              At most `_RECENT_MAX`, further calls wait for their turn.
    slow      requested earlier. At most `_SLOW_MAX`: if there are more, the oldest is rejected if
              it is older than `_STALE` ticks, and otherwise the one that became slow last.

No message may take longer than `_LATE` ticks; TiDB does not wait longer either. Time is counted in
ticks of the event loop, so that messages are not rejected because this process was stopped.

Received messages count as their size until they are durable. Large ones are rejected first, so that
there is always memory for commits.
"""

import asyncio
from typing import Any, Final

from pyspark_theflash.base.errors import CodecError, ServiceUnavailableError, invariant
from pyspark_theflash.net.channel import grpc

LARGE_BYTES: Final = 1 << 20
"""Size above which a message is large."""
SMALL_MESSAGES_BYTES: Final = 64 << 20
"""Memory that large messages leave for others."""
TICK_MS: Final = 50
_RECENT: Final = 2
_STALE: Final = 100
_LATE: Final = 300
_RECENT_MAX: Final = 64
_SLOW_MAX: Final = 2
_WAITING_MAX: Final = 512
"""The maximum number of calls that wait for their turn."""


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


class Intake:
    """Receives messages. Use it only in one event loop."""

    def __init__(self, message_bytes: int, tick_ms: int = TICK_MS) -> None:
        """`message_bytes` is the size limit of a message, which gRPC checks."""
        self._large_bytes_max = _SLOW_MAX * message_bytes
        self._tick_s = tick_ms / 1000
        self._held_bytes = 0
        self._turns = asyncio.Semaphore(_RECENT_MAX)
        self._waiting = 0
        self._arrivals: dict[_Arrival, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    async def receive(self, context: Any) -> bytes:  # noqa: ANN401
        """Receive the next message of a call; its size counts until it is released.

        Raises:
            ServiceUnavailableError: There is no memory for it, or it does not arrive in time.
            CodecError: The call ends without a message.
        """
        message = await self._received(context)
        size_bytes = len(message)
        limit = self._large_bytes_max + (0 if size_bytes > LARGE_BYTES else SMALL_MESSAGES_BYTES)
        if self._held_bytes + size_bytes > limit:
            raise _busy(f"{self._held_bytes} bytes of messages are in memory")
        self._held_bytes += size_bytes
        return message

    def release(self, size_bytes: int) -> None:
        """Count a received message of this size no more."""
        self._held_bytes -= size_bytes

    async def _received(self, context: Any) -> bytes:  # noqa: ANN401
        await self._turn()
        arrival = _Arrival(asyncio.current_task())
        self._arrivals[arrival] = None
        if self._timer is None:
            self._tick_later()
        try:
            message = await context.read()
        except asyncio.CancelledError:
            if arrival.rejection is None:
                raise
            raise _busy(arrival.rejection) from None
        finally:
            del self._arrivals[arrival]
            if not arrival.is_slow:
                self._turns.release()
        if message is grpc.aio.EOF:
            raise CodecError("call", "there is no message")
        received: bytes = message
        return received

    async def _turn(self) -> None:
        if self._turns.locked():
            if self._waiting >= _WAITING_MAX:
                raise _busy(f"{self._waiting} calls wait already")
            self._waiting += 1
            try:
                await self._turns.acquire()
            finally:
                self._waiting -= 1
        else:
            await self._turns.acquire()

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
        slow = [each for each in self._arrivals if each.is_slow and each.rejection is None]
        if len(slow) >= _SLOW_MAX:
            victim = slow[0] if slow[0].ticks >= _STALE else arrival
            victim.reject(f"{_SLOW_MAX} large messages are arriving already")
            if victim is arrival:
                return
        arrival.is_slow = True
        self._turns.release()


def _busy(reason: str) -> ServiceUnavailableError:
    return ServiceUnavailableError("the pump", f"{reason}; try again")
