"""A clock that stands still until somebody sleeps on it."""

from collections.abc import Callable

from pyspark_theflash.clock import SystemClock


class ManualClock(SystemClock):
    """`asleep` is called with the milliseconds of each sleep: what happens meanwhile."""

    def __init__(self, asleep: Callable[[int], None] = lambda _: None) -> None:
        self.now_ms, self.asleep = 1_000_000, asleep

    def boottime_ms(self) -> int:
        return self.now_ms

    def sleep_ms(self, duration_ms: int) -> None:
        self.now_ms += duration_ms
        self.asleep(duration_ms)
