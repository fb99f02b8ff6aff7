"""Purging a removed region's rows from disk, and restoring them with a new snapshot."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pyspark_theflash.base.errors import RegionGapError, SchemaOutdatedError
from pyspark_theflash.base.failpoint import armed
from pyspark_theflash.base.types import TimeStamp
from tests.support.kv_table import HISTORY, TABLE, commit, key
from tests.support.learning import Learning
from tests.support.raft_tikv import FakeRaftCluster, FakeRegion
from tests.support.victims import Victim

STAMPS = (10, 15, 25, 50)
STEPS = (
    "tikv.before_purge",
    "magic.before_file",
    "magic.after_file",
    "magic.before_flush_commit",
    "magic.after_flush_commit",
    "magic.before_purge_commit",
    "manifest.before_commit",
    "manifest.after_commit",
    "magic.after_purge_commit",
    "magic.before_unlink",
    "tikv.after_purge",
)


@pytest.fixture(params=["memory", "magic"])
def learning(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Learning]:
    made = learning_at(tmp_path / "store" if request.param == "magic" else None)
    yield made
    made.close()


def learning_at(folder: Path | None) -> Learning:
    """Three regions with rows in shared files, and some in memory only."""
    made = Learning(FakeRaftCluster(), HISTORY, folder)
    made.tikv.split([key(3), key(6)])
    for handle in range(9):
        commit(made.tikv, handle, 10 + handle, f"old {handle}")
    send(made)
    made.flush()
    for handle in (1, 4, 7):
        commit(made.tikv, handle, 20 + handle, f"new {handle}")
    commit(made.tikv, 5, 30, None)
    send(made)
    return made


def send(learning: Learning) -> None:
    learning.send(entry for _, _, entry in learning.tikv.log[learning.sent :])
    learning.sent = len(learning.tikv.log)


def middle(learning: Learning) -> FakeRegion:
    return learning.tikv.region_of(key(4))


def answers(learning: Learning) -> dict[int, Any]:
    return {ts: learning.rows(TABLE, ts) for ts in STAMPS}


def stored(learning: Learning) -> set[int]:
    """Return the handles of the engine's versions."""
    view = learning.engine.read([])
    batches = learning.engine.keys(view, TABLE.physical_ids[0], None, None)
    return {handle for batch in batches for handle in batch.column(0).to_pylist()}


def test_rows_go_with_their_region_and_come_again(learning: Learning) -> None:
    before = answers(learning)
    learning.send([learning.tikv.destroy(middle(learning))])
    learning.purge_left()
    assert stored(learning) == {0, 1, 2, 6, 7, 8}
    with pytest.raises(RegionGapError):
        learning.rows(TABLE, 50)
    generation = learning.engine.read([]).generation
    learning.purge_left()
    assert learning.engine.read([]).generation == generation
    learning.install(middle(learning))
    assert answers(learning) == before
    learning.purge_left()
    assert stored(learning) == set(range(9))
    assert answers(learning) == before


def test_one_that_has_come_again_before_keeps_its_rows(learning: Learning) -> None:
    before = answers(learning)
    learning.send([learning.tikv.destroy(middle(learning))])
    learning.install(middle(learning))
    learning.purge_left()
    assert stored(learning) == set(range(9))
    assert answers(learning) == before


def test_what_waits_for_its_schema_is_not_lost(learning: Learning) -> None:
    learning.send([learning.tikv.destroy(middle(learning))])
    tables = learning.tables

    def no_schema(ts: TimeStamp) -> Any:
        raise SchemaOutdatedError("schema", ts)

    learning.learner.flusher._schema = no_schema
    with pytest.raises(SchemaOutdatedError):
        learning.purge_left()
    assert 4 in stored(learning)
    learning.learner.flusher._schema = lambda _: tables
    learning.purge_left()
    assert stored(learning) == {0, 1, 2, 6, 7, 8}


def test_nothing_is_published_where_a_region_leaves_no_rows(learning: Learning) -> None:
    learning.tikv.split([key(100)])
    send(learning)
    generation = learning.engine.read([]).generation
    learning.send([learning.tikv.destroy(learning.tikv.region_of(key(100)))])
    learning.purge_left()
    assert learning.engine.read([]).generation == generation
    learning.learner.flush()
    assert learning.engine.read([]).generation > generation
    assert stored(learning) == set(range(9))


def test_rows_that_a_failed_flush_holds_go_too(tmp_path: Path) -> None:
    """Rows frozen by a failed flush are published by the next one, after the removal."""
    learning = Learning(FakeRaftCluster(), HISTORY, tmp_path / "store")
    learning.tikv.split([key(3), key(6)])
    for handle in range(9):
        commit(learning.tikv, handle, 10 + handle, f"old {handle}")
    send(learning)

    def no_schema(ts: TimeStamp) -> Any:
        raise SchemaOutdatedError("schema", ts)

    flusher, schema = learning.learner.flusher, learning.learner.flusher._schema
    flusher._schema = no_schema
    with pytest.raises(SchemaOutdatedError):
        learning.learner.flush()
    flusher._schema = schema
    learning.send([learning.tikv.destroy(middle(learning))])
    learning.purge_left()
    learning.learner.flush()
    assert stored(learning) == {0, 1, 2, 6, 7, 8}
    learning.close()


def test_a_damaged_file_stops_no_learner(tmp_path: Path) -> None:
    learning = learning_at(tmp_path / "store")
    learning.learner.flush()
    for path in (tmp_path / "store" / "data").rglob("*.parquet"):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    learning.send([learning.tikv.destroy(middle(learning))])
    learning.purge_left()
    assert learning.learner.failure is None
    commit(learning.tikv, 20, 60, "later")
    send(learning)
    learning.learner.flush()
    learning.close()


def purge_and_die(folder: Path, step: str) -> None:
    """Run in a process that is killed at a failpoint."""
    learning = learning_at(folder)
    learning.send([learning.tikv.destroy(middle(learning))])
    learning.learner.flush()
    with armed(step, lambda: os._exit(9)):
        learning.purge_left()


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_every_step(tmp_path: Path, step: str) -> None:
    """After a restart, the purge is completed, and the region's snapshot restores its rows."""
    twin = learning_at(None)
    before = answers(twin)
    assert Victim(purge_and_die, tmp_path / "store", step).exit_code() == 9
    learning = Learning.reopened(twin.tikv, HISTORY, tmp_path / "store")
    with pytest.raises(RegionGapError):
        learning.rows(TABLE, 50)
    learning.purge_left()
    assert stored(learning) == {0, 1, 2, 6, 7, 8}
    assert not list(learning.engine.check(learning.engine.read([])))
    learning.install(middle(learning))
    assert answers(learning) == before
    learning.close()
