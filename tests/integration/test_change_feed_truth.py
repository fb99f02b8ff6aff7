"""A captured cluster's committed changes through the writer of change feeds: TiDB's answers."""

import random
from pathlib import Path

import pytest

from pyspark_theflash.replication.cdc import writer as writer_module
from tests.support.change_log import GrowingSchema, captured
from tests.support.change_store import ChangeStore
from tests.support.kv_tap import TAP, history
from tests.support.workloads import Workload, check_answers

HISTORY = history()
ANSWERS = list(Workload("kv", TAP, HISTORY.end_ts).answers())


@pytest.mark.parametrize("seed", [3])
def test_truth_of_a_capture_with_kills(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "BATCH_BYTES", 200_000)
    rng, log = random.Random(seed), captured()
    store = ChangeStore(tmp_path / "store", log, GrowingSchema(HISTORY, log), assume_empty=["*"])
    commits = sorted({change.commit_ts for change in log.changes})
    kills = 0
    for ts in commits[:: len(commits) // 60]:
        log.resolved_ts = ts
        store.writer.poll()
        if rng.random() < 0.2:
            store.kill()
            store.start()
            kills += 1
    store.reach(HISTORY.end_ts)
    assert kills > 5
    assert check_answers(store.path, ANSWERS) == len(ANSWERS) >= 20
    store.kill()
