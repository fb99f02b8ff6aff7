"""The context of a call: its caller, its deadline and its cancellation."""

import os
from collections.abc import Callable

from pyspark_theflash.base.clock import Clock, Deadline
from pyspark_theflash.base.errors import CallCancelledError, DeadlineExceededError
from pyspark_theflash.service.wire.method import Role

DEADLINE_MS_MAX = 86_400_000


def local_identity() -> str:
    """Return the identity of callers in this process and at its unix sockets without tokens.

    Only this user can open such a socket. Root, who can too, is another identity where the socket
    passes the user on.
    """
    return f"user {os.geteuid()}"


class CallContext:
    """The context of a call, created at its start. Deadlines are on the boot-time clock."""

    def __init__(
        self,
        method: str,
        timeout_ms: int,
        clock: Clock,
        is_cancelled: Callable[[], bool] = lambda: False,
        *,
        role: Role = Role.ADMIN,
        identity: str = "",
    ) -> None:
        """Set the deadline.

        Args:
            method: The call's name, for error messages.
            timeout_ms: The time until the deadline; 0: the longest, one day.
            clock: The clock of the deadline.
            is_cancelled: Returns whether the caller has cancelled the call.
            role: The caller's role.
            identity: The caller as the server identified it, a token or a user; empty: the user of
                this process. Latches and handles belong to it.
        """
        self.role, self.identity = role, identity or local_identity()
        self.method, self._is_cancelled = method, is_cancelled
        self.timeout_ms = min(timeout_ms or DEADLINE_MS_MAX, DEADLINE_MS_MAX)
        self._deadline = Deadline(clock, self.timeout_ms)

    def left_ms(self) -> int:
        """Return the time until the deadline. Raises `DeadlineExceededError`: it has passed."""
        left_ms = self._deadline.left_ms()
        if not left_ms:
            raise DeadlineExceededError(self.method, self.timeout_ms)
        return left_ms

    def check(self) -> None:
        """Check whether the call should continue; long calls do this often.

        Raises:
            DeadlineExceededError: The deadline has passed.
            CallCancelledError: The caller has cancelled the call.
        """
        self.left_ms()
        if self._is_cancelled():
            raise CallCancelledError(self.method)
