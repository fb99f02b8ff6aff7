"""Turns of callers who compute: only a few calls of one identity run at a time in a process.

The threads of a process share its processors, Python's lock and the lock of the store's manifest,
for which SQLite does not queue. Without turns, a caller with as many calls as it may have would get
as many times the share of a caller with one. A scan has a turn while its next batch is computed,
not while the batch is sent. Calls have turns of another kind, one at a time, while they plan or
change the manifest, but not while they wait for a timestamp or a latch.
"""

import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

from pyspark_theflash.base.clock import Clock
from pyspark_theflash.service.api.call import CallContext
from pyspark_theflash.service.wire.method import Role

_WAIT_S: Final = 0.05
_RECENT_MS: Final = 2_000
"""The time after its last turn for which a caller takes turns from others."""
_T = TypeVar("_T")


class Turns:
    """The turns in a process. Thread-safe."""

    def __init__(self, most: int, clock: Clock) -> None:
        """Give each identity up to `most` turns at a time, or one while others use turns too."""
        self._most, self._clock = most, clock
        self._mutex = threading.Lock()
        self._ended = defaultdict[str, threading.Condition](
            lambda: threading.Condition(self._mutex)
        )
        """Notified of an identity's turns that end."""
        self._running: Counter[str] = Counter()
        self._used_ms: dict[str, int] = {}
        """The time of the last turn of each identity."""

    def of(self, items: Iterator[_T], call: CallContext) -> Iterator[_T]:
        """Yield `items`, each computed in a turn of the caller; administrators do not wait.

        Raises:
            DeadlineExceededError, CallCancelledError: The call ended while it waited for a turn.
        """
        end = object()
        while True:
            self._begin(call)
            try:
                item = next(items, end)
            finally:
                self._end(call.identity)
            if item is end:
                return
            yield item  # type: ignore[misc]

    @contextmanager
    def turn(self, call: CallContext) -> Iterator[None]:
        """Run a block in a turn of the caller; turns must not be nested. Raises like `of`."""
        self._begin(call)
        try:
            yield
        finally:
            self._end(call.identity)

    def _begin(self, call: CallContext) -> None:
        # The check may wait for the caller, so it is made without the lock.
        while not self._begun(call.identity, is_admin=call.role is Role.ADMIN):
            call.check()

    def _end(self, identity: str) -> None:
        with self._mutex:
            self._used_ms[identity] = self._clock.boottime_ms()
            self._running[identity] -= 1
            if not self._running[identity]:
                del self._running[identity]
            if identity in self._ended:
                self._ended[identity].notify()

    def _begun(self, identity: str, *, is_admin: bool) -> bool:
        """Take a turn if there is one, after a short wait; returns whether."""
        with self._mutex:
            if not (is_admin or self._is_free(identity)):
                self._ended[identity].wait(_WAIT_S)
                if not self._is_free(identity):
                    return False
            self._running[identity] += 1
            return True

    def _is_free(self, identity: str) -> bool:
        used = self._running[identity]
        return not used or (used < self._most and self._is_alone(identity))

    def _is_alone(self, identity: str) -> bool:
        """Whether no other identity has a turn or had one recently."""
        since_ms = self._clock.boottime_ms() - _RECENT_MS
        self._used_ms = {each: at for each, at in self._used_ms.items() if at > since_ms}
        return self._running.keys() | self._used_ms.keys() <= {identity}
