"""Failed authentications: logged at a limited rate, and connections that are blocked by them."""

import logging
import threading
from typing import Final

from pyspark_theflash.base.clock import Clock

_log = logging.getLogger(__name__)
_INTERVAL_MS: Final = 1_000
_UNIX: Final = "unix:"


class Failures:
    """Logs failed authentications, at most one a second, with the number of others. Thread-safe."""

    def __init__(self, clock: Clock) -> None:
        self._clock, self._mutex = clock, threading.Lock()
        self._next_ms = self._others = 0
        self._blocked_ms: dict[str, int] = {}
        """The ends of blocks, oldest first, by peer."""

    def note(self, peer: str, error: Exception) -> None:
        """Log that `peer` failed to authenticate."""
        with self._mutex:
            now_ms, others = self._clock.boottime_ms(), self._others
            if now_ms < self._next_ms:
                self._others += 1
                return
            self._next_ms, self._others = now_ms + _INTERVAL_MS, 0
        _log.warning("authentication failed: peer=%s others=%s: %s", peer, others, error)

    def block(self, peer: str, duration_ms: int) -> None:
        """Block a connection of gRPC; not that of a socket, whose connections have one name."""
        if peer.startswith(_UNIX):
            return
        with self._mutex:
            now_ms = self._clock.boottime_ms()
            self._blocked_ms = {p: end for p, end in self._blocked_ms.items() if end > now_ms}
            self._blocked_ms[peer] = now_ms + duration_ms

    def is_blocked(self, peer: str) -> bool:
        """Whether a connection is blocked."""
        with self._mutex:
            return self._blocked_ms.get(peer, 0) > self._clock.boottime_ms()
