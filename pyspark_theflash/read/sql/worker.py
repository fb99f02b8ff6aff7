"""Thread for calls to an engine that does not handle signals.

The calling thread handles Ctrl-C and the deadline.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Final, TypeVar

from pyspark_theflash.base.clock import Clock
from pyspark_theflash.base.errors import SqlTimeoutError

Answer = TypeVar("Answer")
_AGAIN_S: Final = 0.05


class QueryThread:
    """One thread. `interrupt` must end the current call soon, with an error."""

    def __init__(self, interrupt: Callable[[], None], timeout_ms: int | None, clock: Clock) -> None:
        """Start the time limit, which is for all calls together."""
        self._interrupt, self._timeout_ms, self._clock = interrupt, timeout_ms, clock
        self._started_ms = clock.boottime_ms()
        self._pool = ThreadPoolExecutor(1, "theflash-sql")

    def call(self, action: Callable[[], Answer]) -> Answer:
        """Return the result of `action`.

        Raises:
            SqlTimeoutError: The time limit has passed.
        """
        future = self._pool.submit(action)
        try:
            return future.result(self._rest_s())
        except FutureTimeoutError:
            raise SqlTimeoutError(self._timeout_ms or 0) from None
        finally:
            # Also on Ctrl-C: the engine must be idle afterwards. An interrupt before the call has
            # started has no effect, so it is repeated.
            while not future.done():
                self._interrupt()
                wait([future], _AGAIN_S)

    def close(self) -> None:
        """End the thread."""
        self._pool.shutdown()

    def _rest_s(self) -> float | None:
        """Return the remaining time."""
        if self._timeout_ms is None:
            return None
        elapsed_ms = self._clock.boottime_ms() - self._started_ms
        return max(self._timeout_ms - elapsed_ms, 0) / 1000
