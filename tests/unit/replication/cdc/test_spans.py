"""Spans against a model that has the progress of every single key."""

import random

import pytest

from pyspark_theflash.base.errors import InternalError
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.cluster.located import RawKeyRange
from pyspark_theflash.replication.cdc.spans import SpanLock, Spans
from pyspark_theflash.tidb.codec.key import RawKey

KEYS = 40


def keys(low: int, high: int) -> RawKeyRange:
    return RawKeyRange(RawKey(bytes([low])), RawKey(bytes([high]) if high < KEYS else b""))


def numbers(span: RawKeyRange) -> range:
    return range(span.start[0], span.end[0] if span.end else KEYS)


class Model:
    """Spans, and for each of their keys its progress and its lock."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.spans = Spans()
        self.subscribed: list[RawKeyRange] = []
        self.progress: dict[int, int] = {}
        self.owner: dict[int, SpanLock] = {}
        self.locks: list[SpanLock] = []

    def add(self) -> None:
        low, high = sorted(self.rng.sample(range(KEYS + 1), 2))
        span, ts = keys(low, high), TimeStamp(self.rng.randrange(50))
        if any(key in self.progress for key in range(low, high)):
            with pytest.raises(InternalError, match="overlaps"):
                self.spans.add(span, ts)
            return
        self.spans.add(span, ts)
        self.subscribed.append(span)
        self.progress.update(dict.fromkeys(range(low, high), ts))

    def remove(self) -> None:
        if not self.subscribed or self.rng.random() < 0.5:
            return
        span = self.subscribed.pop(self.rng.randrange(len(self.subscribed)))
        ended = self.spans.remove(span)
        for key in numbers(span):
            self.progress.pop(key)
            self.owner.pop(key, None)
        assert set(ended) == {lock for lock in self.locks if lock not in self.owner.values()}
        self.locks = [lock for lock in self.locks if lock not in ended]

    def lock(self) -> None:
        """Request a region, whose bounds may be anything after splits and merges."""
        low, high = sorted(self.rng.sample(range(KEYS + 1), 2))
        free = [k for k in range(low, high) if k in self.progress and k not in self.owner]
        lock = self.spans.lock(keys(low, high), 0)
        locked = [] if lock is None else [k for p in lock.pieces for k in numbers(p.keys)]
        assert locked == free
        if lock is not None:
            assert lock.checkpoint_ts == min(self.progress[k] for k in free)
            assert numbers(lock.hull) == range(free[0], free[-1] + 1)
            for piece in lock.pieces:
                assert {self.progress[k] for k in numbers(piece.keys)} == {piece.resolved_ts}
            self.owner.update(dict.fromkeys(free, lock))
            self.locks.append(lock)

    def advance(self) -> None:
        if self.locks:
            lock = self.rng.choice(self.locks)
            ts = TimeStamp(lock.resolved_ts + self.rng.randint(-5, 20))
            before = lock.resolved_ts
            self.spans.advance(lock, ts)
            assert lock.resolved_ts == max(before, ts)

    def unlock(self) -> None:
        if self.locks:
            lock = self.locks.pop(self.rng.randrange(len(self.locks)))
            self.spans.unlock(lock)
            for key in [k for k, owner in self.owner.items() if owner is lock]:
                self.progress[key] = max(self.progress[key], lock.resolved_ts)
                del self.owner[key]

    def check(self) -> None:
        """The frontier never exceeds the progress of a key, and every key is locked or free."""
        each = [
            max(ts, self.owner[key].resolved_ts) if key in self.owner else ts
            for key, ts in self.progress.items()
        ]
        frontier, least = self.spans.resolved_ts, min(each, default=0)
        # A lock whose slowest piece was removed still counts with its own progress.
        assert frontier <= least
        slow = {lock.resolved_ts for lock in self.locks}
        assert frontier == least or frontier in slow
        free = [k for span in self.spans.free(0) for k in numbers(span)]
        assert free == sorted(k for k in self.progress if k not in self.owner)


@pytest.mark.parametrize("histories", [2_000, 10_000])
def test_histories_of_splits_and_merges(histories: int) -> None:
    for seed in range(histories):
        model = Model(seed)
        for _ in range(12):
            step = model.rng.choices(
                (model.add, model.remove, model.lock, model.advance, model.unlock),
                (2, 1, 5, 5, 4),
            )[0]
            step()
            model.check()


def test_without_removed_spans_the_frontier_is_the_minimum() -> None:
    for seed in range(1000):
        model = Model(seed)
        for _ in range(30):
            model.rng.choices((model.add, model.lock, model.advance, model.unlock), (1, 5, 5, 4))[
                0
            ]()
            each = [
                max(ts, model.owner[key].resolved_ts) if key in model.owner else ts
                for key, ts in model.progress.items()
            ]
            assert model.spans.resolved_ts == min(each, default=0)


def test_a_merged_region_starts_from_the_minimum_and_joins_its_pieces() -> None:
    spans = Spans()
    spans.add(keys(0, 20), TimeStamp(5))
    left, right = spans.lock(keys(0, 8), 0), spans.lock(keys(8, 30), 0)
    assert left is not None
    assert right is not None
    spans.advance(left, TimeStamp(30))
    spans.advance(right, TimeStamp(10))
    assert spans.resolved_ts == 10
    spans.unlock(left)
    spans.unlock(right)
    merged = spans.lock(keys(0, 30), 0)
    assert merged is not None
    assert (merged.checkpoint_ts, len(merged.pieces)) == (10, 2)
    spans.advance(merged, TimeStamp(40))
    spans.unlock(merged)
    assert spans.free(0) == [keys(0, 20)]


def test_pieces_wait_for_their_time() -> None:
    spans = Spans()
    spans.add(keys(0, 20), TimeStamp(5))
    lock = spans.lock(keys(0, 8), 0)
    assert lock is not None
    spans.unlock(lock, 100)
    assert spans.next_due_ms() == 0
    assert spans.free(99) == [keys(8, 20)]
    rest = spans.lock(keys(0, 20), 99)
    assert rest is not None
    assert rest.hull == keys(8, 20)
    assert spans.next_due_ms() == 100
    late = spans.lock(keys(0, 20), 100)
    assert late is not None
    assert (late.hull, late.failures) == (keys(0, 8), 1)
    spans.succeed(late)
    assert late.failures == 0


def test_an_empty_or_unknown_span_is_refused() -> None:
    spans = Spans()
    with pytest.raises(InternalError, match="empty"):
        spans.add(keys(3, 3), TimeStamp(1))
    with pytest.raises(InternalError, match="not subscribed"):
        spans.remove(keys(3, 4))
    assert spans.resolved_ts == 0
