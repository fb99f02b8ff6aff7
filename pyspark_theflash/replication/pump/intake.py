"""Messages of the pump's calls, received within one memory budget.

gRPC buffers what has arrived of a message, up to the size limit, once the message is requested; it
does not report how much that is. So the number of messages that arrive at the same time is limited:

    recent    requested less than `_RECENT` ticks ago; almost all messages arrive within that time.
              At most `_RECENT_MAX`, further calls wait for their turn.
    slow      requested earlier. It counts as a message of the largest size; if there is no memory
              for that, it is rejected, or the oldest slow one if that is older than `_STALE` ticks.

No message may take longer than `_LATE` ticks; TiDB does not wait longer either. Time is counted in
ticks of the event loop, so that messages are not rejected because this process was stopped.

Received messages count as their size until they are durable. There is memory for one of the largest
size, `BESIDE_BYTES` of other large ones, and `SMALL_MESSAGES_BYTES` of small ones, so that there is
always memory for commits. gRPC and Python have a message three times while it arrives, and so does
its check.
"""

import asyncio
from typing import Any, Final

from pyspark_theflash.base.errors import CodecError, ServiceUnavailableError, invariant
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
_RECENT_MAX: Final = 64
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
        self._message_bytes, self._large_bytes_max = message_bytes, message_bytes + BESIDE_BYTES
        self._tick_s = tick_ms / 1000
        self._large_bytes = self._small_bytes = 0
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
        if size_bytes > LARGE_BYTES:
            used_bytes, limit_bytes = self._used_bytes(), self._large_bytes_max
        else:
            used_bytes, limit_bytes = self._small_bytes, SMALL_MESSAGES_BYTES
        if used_bytes + size_bytes > limit_bytes:
            raise _busy(f"there are {used_bytes} bytes of messages like this one")
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
