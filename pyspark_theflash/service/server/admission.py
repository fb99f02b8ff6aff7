"""The connections of a server: a small budget before authentication, and a quota after it."""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from pyspark_theflash.service.api.limits import Limits, Quota

_Connection = TypeVar("_Connection")


class Admission(Generic[_Connection]):
    """Counts connections, which may be of any hashable type. Thread-safe."""

    def __init__(self, limits: Limits, address: str) -> None:
        """Count for the server at `address`."""
        self._pending_max = limits.pending
        numbers = limits.connections, limits.connections_per_identity
        self._quota = Quota(address, "connections", *numbers)
        self._mutex = threading.Lock()
        self._pending: dict[_Connection, None] = {}
        self._admitted: dict[_Connection, str] = {}

    def add(
        self, connection: _Connection, is_silent: Callable[[_Connection], bool] = lambda _: True
    ) -> _Connection | None:
        """Add a connection whose caller is not authenticated.

        Returns:
            A connection to close in its place, or None: the oldest one that is silent, as one that
            has sent something may be about to authenticate, or else the oldest one.
        """
        with self._mutex:
            surplus = None
            if len(self._pending) >= self._pending_max:
                oldest = next(iter(self._pending))
                surplus = next((each for each in self._pending if is_silent(each)), oldest)
                del self._pending[surplus]
            self._pending[connection] = None
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
