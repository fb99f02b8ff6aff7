"""Batches of changes end between two commit timestamps."""

import numpy as np
import pyarrow as pa
import pytest

from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.replication.apply.versions import Versions, concat
from pyspark_theflash.replication.cdc.batches import cut, with_large


def versions(*commits: tuple[int, int]) -> Versions:
    """Versions of (commit_ts, size of the row)."""
    count = len(commits)
    return Versions(
        np.ones(count, np.int64),
        pa.array(range(count), pa.int64()),
        np.array([ts for ts, _ in commits], np.uint64),
        np.array([ts - 1 for ts, _ in commits], np.uint64),
        np.ones(count, np.uint8),
        pa.array([b"x" * size for _, size in commits], pa.binary()),
    )


def test_no_changes_are_a_batch() -> None:
    assert list(cut([], TimeStamp(9), 10)) == [([], 9, ())]


def test_a_small_batch_is_not_copied() -> None:
    chunk = versions((5, 3), (4, 3))
    ((chunks, reached, _),) = cut([chunk], TimeStamp(9), 1000)
    assert chunks[0] is chunk
    assert reached == 9


def test_a_commit_timestamp_is_never_divided() -> None:
    chunks = [versions((3, 400), (1, 400), (2, 10)), versions((2, 900), (3, 1), (5, 10))]
    batches = list(cut(chunks, TimeStamp(9), 600))
    summary = [(sorted(concat(c).commit_ts.tolist()), reached) for c, reached, _ in batches]
    assert summary == [([1], 1), ([2, 2], 2), ([3, 3, 5], 9)]


@pytest.mark.parametrize("seed", range(20))
def test_random_batches(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = [(int(ts), int(size)) for ts, size in rng.integers(1, 60, (200, 2))]
    chunks = [versions(*rows[n : n + 30]) for n in range(0, 200, 30)]
    before = 0
    seen = []
    for batch, reached, _ in cut(chunks, TimeStamp(60), 700):
        whole = concat(batch)
        assert whole.commit_ts.min() > before
        assert whole.commit_ts.max() <= reached
        size = sum(map(len, whole.values.to_pylist())) + 40 * len(whole)
        assert size <= 700 or len(set(whole.commit_ts.tolist())) == 1
        seen += whole.commit_ts.tolist()
        before = reached
    assert before == 60
    assert sorted(seen) == sorted(ts for ts, _ in rows)


def test_a_large_transaction_is_published_between_what_is_before_and_after() -> None:
    chunks = [versions((3, 5), (5, 5), (6, 5), (8, 5), (9, 5))]
    large = iter([versions((5, 9)), versions((5, 9), (5, 9)), versions((8, 9))])
    summary = [
        (
            [ts for chunk in batch.chunks for ts in chunk.commit_ts.tolist()],
            batch.reached,
            [len(chunk) for chunk in batch.large],
        )
        for batch in with_large(chunks, large, TimeStamp(10), 1000)
    ]
    assert summary == [
        ([3], 4, []),
        ([5], 5, [1, 2]),
        ([6], 7, []),
        ([8], 8, [1]),
        ([9], 10, []),
    ]


def test_a_large_transaction_may_be_all() -> None:
    (batch,) = with_large([], iter([versions((7, 9))]), TimeStamp(7), 1000)
    assert batch.reached == 7
    assert not batch.chunks
