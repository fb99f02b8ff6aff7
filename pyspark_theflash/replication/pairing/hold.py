"""The lowest of many timestamps that come and go: what `resolved_ts` has to wait for."""

import heapq
from typing import Final

from pyspark_theflash.base.types import TimeStamp

_STALE_MAX: Final = 1024


class Holds:
    """A timestamp for each waiting transaction, and the lowest of them at once.

    A heap whose entries of released transactions are dropped when they come up, or when they are
    most of it.
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
        """None where nothing is held."""
        while self._heap:
            hold_ts, start_ts = self._heap[0]
            if self._held.get(start_ts) == hold_ts:
                return hold_ts
            heapq.heappop(self._heap)
        return None
