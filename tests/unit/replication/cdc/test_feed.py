"""The feed of a simulated cluster delivers every change below its frontier, and nothing else."""

from pathlib import Path

import pytest

from pyspark_theflash.replication.cdc.feed import FeedLimits
from tests.support.cdc_history import META, TABLES, FeedHistory, span_of

SMALL = FeedLimits(prewrite_bytes=2000, large_bytes=10)


def run(history: FeedHistory, steps: int) -> None:
    for table_id in TABLES:
        history.subscribe(span_of(table_id))
    history.subscribe(META)
    for _ in range(steps):
        history.step()
    history.settle()


@pytest.mark.parametrize("is_old", [False, True])
@pytest.mark.parametrize("first", range(0, 40, 10))
def test_random_histories(*, is_old: bool, first: int) -> None:
    for seed in range(first, first + 10):
        history = FeedHistory(seed, is_old=is_old)
        run(history, 250)


@pytest.mark.parametrize("first", [0, 10])
def test_large_transactions_are_spilled(first: int, tmp_path: Path) -> None:
    for seed in range(first, first + 10):
        run(FeedHistory(seed, limits=SMALL, folder=tmp_path), 250)
