"""Readers in other processes while the writer publishes and folds: answers are of one moment."""

import json
import logging
import multiprocessing
import random
from pathlib import Path

import pytest

from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.read.plan.snapshot import open_snapshot
from pyspark_theflash.storage.engine import registry
from tests.integration.test_replication import BANK, FRAMES, check_all, run
from tests.support.progress import read_progress

_log = logging.getLogger(__name__)


def write_in_runs(store: Path, runs: int) -> None:
    """The bank's history in so many runs of the writer, each opening and closing the store."""
    step = len(FRAMES) // runs
    for at in range(0, len(FRAMES), step):
        run(store, FRAMES[at : at + step])
    run(store, [], BANK.end_ts)


@pytest.mark.parametrize("runs", [8, pytest.param(80, marks=pytest.mark.slow)])
def test_no_reader_ever_sees_money_come_or_go(runs: int, tmp_path: Path) -> None:
    total = json.loads((BANK.folder / "invariant.json").read_text())["total"]
    store, rng, reads = tmp_path / "store", random.Random(5), 0
    registry.create(store, registry.MAGIC, LocalFileSystem())
    writer = multiprocessing.get_context("spawn").Process(target=write_in_runs, args=(store, runs))
    writer.start()
    while writer.is_alive():
        progress = read_progress(store)
        if progress is None:
            continue
        past = TimeStamp(rng.randint(progress.oldest_ts, progress.resolved_ts))
        for snapshot_ts in (None, past):
            assert money(store, snapshot_ts) == total, snapshot_ts
            reads += 1
    writer.join()
    assert writer.exitcode == 0
    assert reads >= runs
    _log.info("%d reads beside %d runs", reads, runs)
    check_all(store)


def money(store: Path, snapshot_ts: TimeStamp | None) -> int:
    """The sum of all balances at one moment."""
    with open_snapshot(store, snapshot_ts) as snapshot:
        return sum(
            sum(batch.column("balance").to_pylist())
            for table in snapshot.tables()
            for batch in snapshot.scan(table.full_name, ["balance"])
        )
