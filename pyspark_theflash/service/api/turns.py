"""Turns of callers who compute: only a few scans of one identity run at a time in a process.

The threads of a process share its processors and Python's lock. Without turns, a caller with as
many scans as it may have would get as many times the share of a caller with one. A scan has a turn
while its next batch is computed, not while the batch is sent.
"""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

from pyspark_theflash.service.api.call import CallContext
from pyspark_theflash.service.wire.method import Role

_WAIT_S: Final = 0.05
_T = TypeVar("_T")


class Turns:
    """The turns in a process. Thread-safe."""

    def __init__(self, most: int) -> None:
        """Give each identity up to `most` turns at a time."""
        self._most = most
        self._ended = threading.Condition()
        self._running: Counter[str] = Counter()

    def of(self, items: Iterator[_T], call: CallContext) -> Iterator[_T]:
        """Yield `items`, each computed in a turn of the caller; administrators do not wait.

        Raises:
            DeadlineExceededError, CallCancelledError: The call ended while it waited for a turn.
        """
        if call.role is Role.ADMIN:
            yield from items
            return
        end = object()
        while True:
            with self._turn(call):
                item = next(items, end)
            if item is end:
                return
            yield item  # type: ignore[misc]

    @contextmanager
    def _turn(self, call: CallContext) -> Iterator[None]:
        # The check may wait for the caller, so it is made without the lock.
        while not self._begun(call.identity):
            call.check()
        try:
            yield
        finally:
            with self._ended:
                self._running[call.identity] -= 1
                if not self._running[call.identity]:
                    del self._running[call.identity]
                self._ended.notify_all()

    def _begun(self, identity: str) -> bool:
        """Take a turn if there is one, after a short wait; returns whether."""
        with self._ended:
            if self._running[identity] >= self._most:
                self._ended.wait(_WAIT_S)
            if self._running[identity] >= self._most:
                return False
            self._running[identity] += 1
            return True
