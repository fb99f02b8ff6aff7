"""The only reader of time.

Leases are measured on the boot-time clock, which goes on while the machine sleeps and never jumps;
the wall clock is for people and for turning a time of day into a timestamp.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

_T = TypeVar("_T")


class Clock(Protocol):
    """Where time comes from. Passed in, so that tests can jump it."""

    def wall_ms(self) -> int:
        """Milliseconds since 1970 UTC; may jump."""

    def boottime_ms(self) -> int:
        """Milliseconds since the machine started; never jumps, means nothing after a restart."""

    def boot_id(self) -> str:
        """Names this run of the machine: boot-time readings of two runs do not compare."""

    def sleep_ms(self, duration_ms: int) -> None:
        """Block for a while."""


class SystemClock:
    """The machine's own clocks."""

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def boottime_ms(self) -> int:
        if hasattr(time, "CLOCK_BOOTTIME"):
            return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000
        return time.monotonic_ns() // 1_000_000

    def boot_id(self) -> str:
        try:
            return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        except OSError:
            # No such file outside Linux: the moment of the start, to the minute, will do.
            return f"boot-{(self.wall_ms() - self.boottime_ms()) // 60_000}"

    def sleep_ms(self, duration_ms: int) -> None:
        time.sleep(duration_ms / 1000)


class Deadline:
    """Until when something may take, on the boot-time clock."""

    def __init__(self, clock: Clock, timeout_ms: int) -> None:
        self.timeout_ms = timeout_ms
        self._clock, self._end_ms = clock, clock.boottime_ms() + timeout_ms

    def left_ms(self) -> int:
        """How long it may still take; 0 if not at all."""
        return max(0, self._end_ms - self._clock.boottime_ms())

    def sleep_ms(self, duration_ms: int) -> bool:
        """Block for a while, or until the deadline; whether any time is left after that."""
        self._clock.sleep_ms(min(duration_ms, self.left_ms()))
        return self.left_ms() > 0

    def retried(self, step: Callable[[], _T], *errors: type[Exception], pause_ms: int) -> _T:
        """What `step` returns, called again after one of `errors` as long as there is time.

        Raises what it has raised then, and at once any other error.
        """
        while True:
            try:
                return step()
            except errors:
                if not self.left_ms():
                    raise
            self.sleep_ms(pause_ms)
