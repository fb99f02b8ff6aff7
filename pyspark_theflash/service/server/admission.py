"""The connections of a server: a small budget before authentication, and a quota after it."""

import threading
from collections.abc import Callable
from itertools import islice
from typing import Final, Generic, TypeVar

from pyspark_theflash.base.clock import Clock
from pyspark_theflash.net.inflow import NEW_FACTOR, NEW_S
from pyspark_theflash.service.api.limits import Limits, Quota

_Connection = TypeVar("_Connection")
_LOOKED_AT: Final = 64
"""The number of connections among which a silent one is looked for."""


class Admission(Generic[_Connection]):
    """Counts connections, which may be of any hashable type. Thread-safe."""

    def __init__(self, limits: Limits, address: str, clock: Clock) -> None:
        """Count for the server at `address`."""
        self._pending_max, self._clock = limits.pending, clock
        numbers = limits.connections, limits.connections_per_identity
        self._quota = Quota(address, "connections", *numbers)
        self._mutex = threading.Lock()
        self._pending: dict[_Connection, int] = {}
        """The times at which they were added, in order."""
        self._admitted: dict[_Connection, str] = {}

    def add(
        self, connection: _Connection, is_silent: Callable[[_Connection], bool] = lambda _: True
    ) -> _Connection | None:
        """Add a connection whose caller is not authenticated.

        Returns:
            A connection to close in its place, or None: the oldest one, unless one of the oldest
            is silent, since one that has sent something may be about to authenticate. New ones
            (`net.inflow`) are closed only above their own limit.
        """
        now_ms = self._clock.boottime_ms()
        with self._mutex:
            surplus = None
            if len(self._pending) >= self._pending_max:
                oldest, since_ms = next(iter(self._pending.items()))
                is_old = now_ms - since_ms >= NEW_S * 1000
                if is_old or len(self._pending) >= NEW_FACTOR * self._pending_max:
                    some = islice(self._pending, _LOOKED_AT)
                    surplus = next((each for each in some if is_silent(each)), oldest)
                    del self._pending[surplus]
            self._pending[connection] = now_ms
            return surplus

    def admit(self, connection: _Connection, identity: str, *, is_admin: bool) -> None:
        """Count a connection as that of an authenticated caller.

        Raises:
            ServiceUnavailableError: The caller, or all callers, have too many connections.
        """
        with self._mutex:
            if connection in self._pending:  # or it is being closed
                self._quota.acquire(identity, is_admin=is_admin)
                del self._pending[connection]
                self._admitted[connection] = identity

    def remove(self, connection: _Connection) -> None:
        """Forget a connection that has ended."""
        with self._mutex:
            self._pending.pop(connection, None)
            identity = self._admitted.pop(connection, None)
            if identity is not None:
                self._quota.release(identity)

    @property
    def counts(self) -> dict[str, int]:
        """The number of connections by state: "pending" until authenticated, then "admitted"."""
        with self._mutex:
            return {"pending": len(self._pending), "admitted": len(self._admitted)}

    def is_pending(self, connection: _Connection) -> bool:
        """Whether the caller of a connection is not authenticated yet."""
        with self._mutex:
            return connection in self._pending
