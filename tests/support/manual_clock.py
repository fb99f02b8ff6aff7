"""The clock of tests: it advances only when it is slept on, or when a test sets it."""

from collections.abc import Callable

from pyspark_theflash.base.clock import SystemClock


class ManualClock(SystemClock):
    """A clock whose time is `now_ms`.

    `asleep` is called with the milliseconds of each sleep. The wall clock is wrong on purpose:
    durations must not be measured with it.
    """

    def __init__(self, asleep: Callable[[int], object] = lambda _: None) -> None:
        self.now_ms, self.boot, self.asleep = 1_000_000, "this run", asleep

    def wall_ms(self) -> int:
        return 2_000_000_000_000 - self.now_ms

    def boottime_ms(self) -> int:
        return self.now_ms

    def boot_id(self) -> str:
        return self.boot

    def sleep_ms(self, duration_ms: int) -> None:
        self.now_ms += duration_ms
        self.asleep(duration_ms)
