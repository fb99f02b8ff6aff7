"""Calls into an engine that does not look at signals while it works.

They run in a thread of their own, so that the caller's gets Ctrl-C and sees its deadline.
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
    """One thread. `interrupt` makes a call that is under way end soon, with an error."""

    def __init__(self, interrupt: Callable[[], None], timeout_ms: int | None, clock: Clock) -> None:
        """The time runs from now on, over all calls."""
        self._interrupt, self._timeout_ms, self._clock = interrupt, timeout_ms, clock
        self._started_ms = clock.boottime_ms()
        self._pool = ThreadPoolExecutor(1, "theflash-sql")

    def call(self, action: Callable[[], Answer]) -> Answer:
        """What `action` returns or raises.

        Raises:
            SqlTimeoutError: the time is over.
        """
        future = self._pool.submit(action)
        try:
            return future.result(self._rest_s())
        except FutureTimeoutError:
            raise SqlTimeoutError(self._timeout_ms or 0) from None
        finally:
            # On Ctrl-C, too: nobody may be left behind that still uses the engine. What has not
            # begun to run does not notice, so it is told again.
            while not future.done():
                self._interrupt()
                wait([future], _AGAIN_S)

    def close(self) -> None:
        """End the thread."""
        self._pool.shutdown()

    def _rest_s(self) -> float | None:
        if self._timeout_ms is None:
            return None
        gone_ms = self._clock.boottime_ms() - self._started_ms
        return max(self._timeout_ms - gone_ms, 0) / 1000
