"""One call: how long it may take, and whether anybody still wants it."""

from collections.abc import Callable

from pyspark_theflash.base.clock import Clock
from pyspark_theflash.base.errors import CallCancelledError, DeadlineExceededError
from pyspark_theflash.service.wire.method import Role

DEADLINE_MS_MAX = 86_400_000


def _never() -> bool:
    return False


class CallContext:
    """Made when a call begins; `method` is its name. Deadlines are on the boot-time clock."""

    def __init__(
        self,
        method: str,
        timeout_ms: int,
        clock: Clock,
        is_cancelled: Callable[[], bool] = _never,
        *,
        role: Role = Role.ADMIN,
        identity: str = "this process",
    ) -> None:
        """`timeout_ms`: 0 for the longest there is. `identity`: what a server saw of who calls."""
        self.role, self.identity = role, identity
        self.method, self._clock, self._is_cancelled = method, clock, is_cancelled
        self.timeout_ms = min(timeout_ms or DEADLINE_MS_MAX, DEADLINE_MS_MAX)
        self._deadline_ms = clock.boottime_ms() + self.timeout_ms

    def left_ms(self) -> int:
        """How long it may still take.

        Raises:
            DeadlineExceededError: not at all.
        """
        left_ms = self._deadline_ms - self._clock.boottime_ms()
        if left_ms <= 0:
            raise DeadlineExceededError(self.method, self.timeout_ms)
        return left_ms

    def check(self) -> None:
        """Call this often.

        Raises:
            DeadlineExceededError, CallCancelledError: there is no use in going on.
        """
        self.left_ms()
        if self._is_cancelled():
            raise CallCancelledError(self.method)
