"""Clocks; no other module reads the time.

Leases are measured on the boot-time clock, which continues while the machine sleeps and never
jumps. The wall clock is used for display and to convert a time of day to a timestamp.
"""

import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Final, Protocol, TypeVar

_T = TypeVar("_T")
_BOOT_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class Clock(Protocol):
    """Source of time, passed in so that tests can control it."""

    def wall_ms(self) -> int:
        """Return the milliseconds since 1970 UTC; may jump."""

    def boottime_ms(self) -> int:
        """Return the milliseconds since boot; never jumps, and restarts at each boot."""

    def boot_id(self) -> str:
        """Return an id of the current boot; boot times of different boots are not comparable."""

    def sleep_ms(self, duration_ms: int) -> None:
        """Block for `duration_ms`."""


@cache
def _linux_boot_id() -> str:
    """Return the kernel's id; "" elsewhere, where the time of the boot is used, to the minute."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


class SystemClock:
    """Clocks of the operating system."""

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def boottime_ms(self) -> int:
        return time.clock_gettime_ns(_BOOT_CLOCK) // 1_000_000

    def boot_id(self) -> str:
        return _linux_boot_id() or f"boot-{(self.wall_ms() - self.boottime_ms()) // 60_000}"

    def sleep_ms(self, duration_ms: int) -> None:
        time.sleep(duration_ms / 1000)


class Deadline:
    """Time limit of an operation, on the boot-time clock."""

    def __init__(self, clock: Clock, timeout_ms: int) -> None:
        self.timeout_ms = timeout_ms
        self._clock, self._end_ms = clock, clock.boottime_ms() + timeout_ms

    def left_ms(self) -> int:
        """Return the remaining time; 0 if the deadline has passed."""
        return max(0, self._end_ms - self._clock.boottime_ms())

    def sleep_ms(self, duration_ms: int) -> bool:
        """Block for `duration_ms` or until the deadline; return whether any time is left."""
        self._clock.sleep_ms(min(duration_ms, self.left_ms()))
        return self.left_ms() > 0

    def retried(self, step: Callable[[], _T], *errors: type[Exception], pause_ms: int) -> _T:
        """Return the result of `step`, which is repeated after one of `errors` until the deadline.

        Raises:
            The error of the last attempt, or at once any other error.
        """
        while True:
            try:
                return step()
            except errors:
                if not self.left_ms():
                    raise
            self.sleep_ms(pause_ms)
