"""Progress of key spans, and their frontier.

Progress belongs to keys and not to regions, because regions split and merge. Each subscribed span
is divided into pieces, which cover it exactly and do not overlap:

    span           |-------------------------------------|
    pieces         |---- 17 ----|-- 17 --|------ 23 ------|     resolved_ts of each
    regions     |------ A ------|---- B ------|------ C -----------|

A request to a region *locks* the pieces that are in the region and that no other request has
locked; pieces that cross the region's bounds are cut there. The request starts from the minimum
over its pieces, so after a merge the keys that were ahead are sent again. When it ends, each piece
has advanced to the request's resolved_ts, unless it was ahead; neighbors with equal progress are
joined. Pieces that are not locked count for the frontier, so a span that no region serves holds it.

The frontier is the minimum over all requests and unlocked pieces. It is computed when it is read
after a change: that is once per poll, while requests advance thousands of times between polls.
"""

import bisect
from collections.abc import Callable
from dataclasses import dataclass, field

from pyspark_theflash.base.errors import invariant
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.cluster.located import RawKeyRange
from pyspark_theflash.tidb.codec.key import RawKey


@dataclass(slots=True, eq=False)
class SpanPiece:
    """A part of a span. All changes at or below `resolved_ts` have been received.

    Of a locked piece, `resolved_ts` is its progress before the lock. `failures` is the number of
    requests that have ended since the last one that was initialized; `due_ms` is when the piece
    may be locked again. `advanced_ms` is when its progress rose, as far as ended requests know; 0
    if there was none.
    """

    keys: RawKeyRange
    span: RawKeyRange
    resolved_ts: TimeStamp
    failures: int = 0
    due_ms: int = 0
    advanced_ms: int = 0
    lock: "SpanLock | None" = None


@dataclass(slots=True, eq=False)
class SpanLock:
    """The pieces of one request, in order, and its progress."""

    pieces: list[SpanPiece] = field(repr=False)
    checkpoint_ts: TimeStamp
    """The request's start: the minimum over the pieces."""
    resolved_ts: TimeStamp

    @property
    def hull(self) -> RawKeyRange:
        """The smallest range with all pieces."""
        return RawKeyRange(self.pieces[0].keys.start, self.pieces[-1].keys.end)

    @property
    def failures(self) -> int:
        """The largest number of failures of a piece."""
        return max(piece.failures for piece in self.pieces)


class Spans:
    """Subscribed spans. Not thread-safe."""

    def __init__(self) -> None:
        self._pieces: list[SpanPiece] = []  # by key
        self._spans: set[RawKeyRange] = set()
        self._free: set[SpanPiece] = set()
        self._locks: set[SpanLock] = set()
        self._frontier: TimeStamp | None = None

    @property
    def resolved_ts(self) -> TimeStamp:
        """The frontier; 0 without spans."""
        if self._frontier is None:
            progress = [lock.resolved_ts for lock in self._locks]
            progress += [piece.resolved_ts for piece in self._free]
            self._frontier = min(progress, default=TimeStamp(0))
        return self._frontier

    @property
    def free_count(self) -> int:
        """The number of pieces that are not locked."""
        return len(self._free)

    def add(self, span: RawKeyRange, checkpoint_ts: TimeStamp) -> None:
        """Add a span. Raises `InternalError` if it is empty or overlaps another."""
        is_empty = bool(span.end) and span.end <= span.start
        invariant(not is_empty, "an empty span was subscribed")
        at = bisect.bisect_left(self._pieces, span.start, key=_start)
        neighbors = self._pieces[max(0, at - 1) : at + 1]
        overlaps = any(span.clip(p.keys.start, p.keys.end) is not None for p in neighbors)
        invariant(not overlaps, "a span that overlaps a subscribed one was subscribed")
        piece = SpanPiece(span, span, checkpoint_ts)
        self._pieces.insert(at, piece)
        self._spans.add(span)
        self._free.add(piece)
        self._frontier = None

    def remove(self, span: RawKeyRange) -> list[SpanLock]:
        """Remove a span. Returns locks that have no piece left, and are released.

        Raises `InternalError` if there is no such span.
        """
        invariant(span in self._spans, "a span that is not subscribed was unsubscribed")
        self._spans.remove(span)
        low = bisect.bisect_left(self._pieces, span.start, key=_start)
        high = low
        while high < len(self._pieces) and self._pieces[high].span == span:
            high += 1
        removed = self._pieces[low:high]
        del self._pieces[low:high]
        self._free.difference_update(removed)
        self._frontier = None
        ended = []
        for piece in removed:
            if piece.lock is not None:
                piece.lock.pieces.remove(piece)
                if not piece.lock.pieces:
                    self._locks.remove(piece.lock)
                    ended.append(piece.lock)
        return ended

    def free(self, now_ms: int) -> list[RawKeyRange]:
        """Return the pieces that are not locked and are due, by key."""
        return sorted(piece.keys for piece in self._free if piece.due_ms <= now_ms)

    def next_due_ms(self) -> int | None:
        """Return when the next piece that is not locked is due; None if all are locked."""
        return min((piece.due_ms for piece in self._free), default=None)

    def lock(self, keys: RawKeyRange, now_ms: int) -> SpanLock | None:
        """Lock the pieces of a region that are free and due; None if there are none."""
        pieces = [p for p in self._cut(keys) if p.lock is None and p.due_ms <= now_ms]
        if not pieces:
            return None
        checkpoint_ts = min(piece.resolved_ts for piece in pieces)
        lock = SpanLock(pieces, checkpoint_ts, checkpoint_ts)
        for piece in pieces:
            piece.lock = lock
        self._free.difference_update(pieces)
        self._locks.add(lock)
        return lock

    def advance(self, lock: SpanLock, resolved_ts: TimeStamp) -> None:
        """Advance a request; a lower timestamp changes nothing."""
        if resolved_ts > lock.resolved_ts:
            lock.resolved_ts = resolved_ts
            self._frontier = None

    def succeed(self, lock: SpanLock) -> None:
        """Forget earlier failures of a lock's pieces."""
        for piece in lock.pieces:
            piece.failures = 0

    def unlock(self, lock: SpanLock, due_ms: int = 0, *, is_failure: bool = True) -> None:
        """Release a lock; its pieces may be locked again at `due_ms`."""
        self._locks.remove(lock)
        self._frontier = None
        for piece in lock.pieces:
            piece.resolved_ts = max(piece.resolved_ts, lock.resolved_ts)
            piece.failures += is_failure
            piece.due_ms, piece.lock = due_ms, None
        for piece in self._joined(lock.pieces):
            self._free.add(piece)

    def postpone(self, start: RawKey, now_ms: int, wait_ms: Callable[[int], int]) -> None:
        """Postpone the free piece that begins at a key, after its lookup failed.

        `wait_ms` returns the pause for its number of failures.
        """
        piece = self._pieces[bisect.bisect_left(self._pieces, start, key=_start)]
        piece.due_ms = now_ms + wait_ms(piece.failures)
        piece.failures += 1

    def _cut(self, keys: RawKeyRange) -> list[SpanPiece]:
        """Cut free pieces at the bounds of a range; return the pieces inside of it."""
        for bound in (keys.start, keys.end):
            if bound:
                self._cut_at(bound)
        low = bisect.bisect_left(self._pieces, keys.start, key=_start)
        end = keys.end
        high = bisect.bisect_left(self._pieces, end, key=_start) if end else len(self._pieces)
        # The first or last piece may be locked and cross the bounds.
        return self._pieces[low:high]

    def _cut_at(self, key: RawKey) -> None:
        at = bisect.bisect_right(self._pieces, key, key=_start) - 1
        if at < 0:
            return
        piece = self._pieces[at]
        if piece.lock is not None or piece.keys.start == key or key not in piece.keys:
            return
        rest = SpanPiece(
            RawKeyRange(key, piece.keys.end),
            piece.span,
            piece.resolved_ts,
            piece.failures,
            piece.due_ms,
            piece.advanced_ms,
        )
        piece.keys = RawKeyRange(piece.keys.start, key)
        self._pieces.insert(at + 1, rest)
        self._free.add(rest)

    def _joined(self, pieces: list[SpanPiece]) -> list[SpanPiece]:
        """Join neighbors of one span with equal progress, all of them released just now."""
        joined = pieces[:1]
        for piece in pieces[1:]:
            last = joined[-1]
            is_next = last.keys.end == piece.keys.start and last.span == piece.span
            if not is_next or last.resolved_ts != piece.resolved_ts:
                joined.append(piece)
                continue
            last.keys = RawKeyRange(last.keys.start, piece.keys.end)
            last.failures = max(last.failures, piece.failures)
            last.advanced_ms = min(last.advanced_ms, piece.advanced_ms)
            del self._pieces[bisect.bisect_left(self._pieces, piece.keys.start, key=_start)]
        return joined


def _start(piece: SpanPiece) -> RawKey:
    return piece.keys.start
