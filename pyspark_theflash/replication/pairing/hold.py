"""Minimum of the timestamps of pending transactions, an upper bound of `resolved_ts`."""

import heapq
from typing import Final

from pyspark_theflash.base.types import TimeStamp

_STALE_MAX: Final = 1024


class Holds:
    """Hold timestamps of pending transactions, with fast access to the lowest.

    A heap with lazy deletion: entries of released transactions are removed when they reach the top,
    or when they are the majority.
    """

    def __init__(self) -> None:
        self._held: dict[int, TimeStamp] = {}
        self._heap: list[tuple[TimeStamp, int]] = []

    def hold(self, start_ts: TimeStamp, hold_ts: TimeStamp) -> None:
        """Add a transaction's timestamp."""
        self._held[start_ts] = hold_ts
        heapq.heappush(self._heap, (hold_ts, start_ts))

    def release(self, start_ts: TimeStamp) -> None:
        del self._held[start_ts]
        if len(self._heap) > 2 * len(self._held) + _STALE_MAX:
            self._heap = [(hold_ts, start_ts) for start_ts, hold_ts in self._held.items()]
            heapq.heapify(self._heap)

    def lowest(self) -> TimeStamp | None:
        """Return the lowest timestamp; None if there is none."""
        while self._heap:
            hold_ts, start_ts = self._heap[0]
            if self._held.get(start_ts) == hold_ts:
                return hold_ts
            heapq.heappop(self._heap)
        return None
