"""The number of snapshots of each caller, whose latches are stored and slow down other latches."""

import threading
from collections import defaultdict
from collections.abc import Callable

from pyspark_theflash.base.errors import ServiceUnavailableError
from pyspark_theflash.service.api.call import CallContext
from pyspark_theflash.service.wire.method import Role


class SnapshotQuota:
    """Limits the snapshots that one identity takes through this process. Thread-safe."""

    def __init__(self, address: str, most: int, living: Callable[[], set[str]]) -> None:
        """`living` returns the ids of all latches that have not ended."""
        self._address, self._most, self._living = address, most, living
        self._mutex = threading.Lock()
        self._taken: defaultdict[str, set[str]] = defaultdict(set)

    def check(self, call: CallContext) -> None:
        """Raise `ServiceUnavailableError` if a caller has too many snapshots to take another."""
        if call.role is Role.ADMIN:
            return
        with self._mutex:
            taken = self._taken[call.identity]
            if len(taken) < self._most:
                return
            # Those that were released, here or elsewhere, or have expired do not count.
            taken &= self._living()
            if len(taken) < self._most:
                return
        reason = f"{call.identity} has {self._most} snapshots: release some, or shorten the ttl_ms"
        raise ServiceUnavailableError(self._address, reason)

    def add(self, call: CallContext, id: str) -> None:
        """Count a snapshot that was taken."""
        if call.role is not Role.ADMIN:
            with self._mutex:
                self._taken[call.identity].add(id)

    def remove(self, call: CallContext, id: str) -> None:
        """Do not count a snapshot that was released."""
        with self._mutex:
            self._taken[call.identity].discard(id)
