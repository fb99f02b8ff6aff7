"""Failed authentications, which are logged at a limited rate."""

import logging
import threading
from typing import Final

from pyspark_theflash.base.clock import Clock

_log = logging.getLogger(__name__)
_INTERVAL_MS: Final = 1_000


class Failures:
    """Logs failed authentications, at most one a second, with the number of others. Thread-safe."""

    def __init__(self, clock: Clock) -> None:
        self._clock, self._mutex = clock, threading.Lock()
        self._next_ms = self._others = 0

    def note(self, peer: str, error: Exception) -> None:
        """Log that `peer` failed to authenticate."""
        with self._mutex:
            now_ms, others = self._clock.boottime_ms(), self._others
            if now_ms < self._next_ms:
                self._others += 1
                return
            self._next_ms, self._others = now_ms + _INTERVAL_MS, 0
        _log.warning("authentication failed: peer=%s others=%s: %s", peer, others, error)
