"""A captured cluster's writes as raft commands: TiDB's answers at every timestamp.

Meanwhile, regions change, and commands are lost and sent again.
"""

import random
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from pyspark_theflash.base.failpoint import armed
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.tidb.schema.model import TableInfo
from pyspark_theflash.tikv.flush import FlushLimits
from tests.support.kv_tap import TAP, calls, history
from tests.support.learning import Killed, Learning
from tests.support.raft_tikv import FakeRaftCluster, encoded
from tests.support.region_storm import Storm
from tests.support.row_oracle import decode_handle, decode_row_v2
from tests.support.schema import tables_at
from tests.support.workloads import Workload

HISTORY = history()
ANSWERS = list(Workload("kv", TAP, HISTORY.end_ts).answers())
TABLES = {t.full_name: t for t in tables_at(HISTORY, HISTORY.end_ts)}
FIRST_TABLE = encoded(b"t\x80\0\0\0\0\0\0\x50")
SMALL = FlushLimits(rows_bytes=40_000, delay_ms=10**9)
SELDOM = FlushLimits(rows_bytes=1_000_000, delay_ms=10**9)


def prefix(table: TableInfo) -> bytes:
    return b"t" + (table.id + 2**63).to_bytes(8, "big") + b"_r"


def expected(tikv: FakeRaftCluster, table: TableInfo, ts: int) -> dict[Any, tuple[Any, ...]]:
    """The rows at a timestamp by handle, decoded one by one."""
    types = {int(c.id): c.type for c in table.columns}
    rows = {}
    for raw, row in tikv.read(prefix(table), ts).items():
        values = decode_row_v2(row, types)
        handle: Any = raw[11:]
        if table.pk_is_handle:
            handle = int.from_bytes(handle, "big") - 2**63
            values[int(table.handle_columns[0].id)] = handle
        else:
            key = decode_handle(handle, [c.type for c in table.handle_columns])
            for column, value in zip(table.handle_columns, key, strict=True):
                values.setdefault(int(column.id), value)
        rows[handle] = tuple(values.get(int(c.id)) for c in table.public_columns)
    return rows


def replay(learning: Learning, rng: random.Random, every: int) -> Iterator[Storm]:
    """Do all captured calls, with something happening to regions every so often."""
    storm = Storm(learning, rng)
    due = rng.randint(1, every)
    for number, call in enumerate(calls()):
        learning.tikv.call(call)
        if number >= due:
            storm.step()
            yield storm
            due = number + rng.randint(1, 2 * every)
    storm.end()


def check(learning: Learning, rng: random.Random, points: int) -> None:
    """Compare with TiDB's answers, and at other timestamps with the fake TiKV's."""
    for answer in ANSWERS:
        digest = learning.digest(TABLES[answer.table], answer.snapshot_ts)
        assert digest == (answer.rows, answer.checksum), answer
    low = HISTORY.start_ts
    for _ in range(points):
        ts = TimeStamp(rng.randrange(low, HISTORY.end_ts))
        for table in TABLES.values():
            assert learning.rows(table, ts) == expected(learning.tikv, table, ts), (table.name, ts)


def changing_regions(folder: Path | None, seed: int, every: int, points: int) -> None:
    rng = random.Random(seed)
    learning = Learning(FakeRaftCluster(FIRST_TABLE), HISTORY, folder, SMALL)
    for _ in replay(learning, rng, every=every):
        pass
    check(learning, rng, points)
    learning.close()


def test_truth_while_regions_change(tmp_path: Path) -> None:
    changing_regions(tmp_path / "store", seed=7, every=1500, points=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_truth_while_regions_change_often(seed: int, tmp_path: Path) -> None:
    folder = tmp_path / "store" if seed % 2 else None
    changing_regions(folder, seed=100 + seed, every=200, points=6)


POINTS = (
    "tikv.before_publish",
    "tikv.after_publish",
    "magic.before_file",
    "magic.after_file",
    "magic.before_commit",
    "manifest.before_commit",
    "manifest.after_commit",
)


def _kill() -> None:
    raise Killed


def killed_rounds(folder: Path, seed: int, every: int) -> int:
    """Lose all that is in memory now and then, somewhere; returns how often."""
    rng = random.Random(seed)
    learning = Learning(FakeRaftCluster(FIRST_TABLE), HISTORY, folder, SELDOM)
    rounds = 0
    for storm in replay(learning, rng, every=every):
        storm.admin()
        with ExitStack() as stack, suppress(Killed):
            if rng.random() < 0.8:
                stack.enter_context(armed(rng.choice(POINTS), _kill))
                learning.catch_up(rng, storm.without)
                learning.learner.flush()
        learning.kill()
        learning.send_again(rng, storm.without)
        rounds += 1
    check(learning, rng, points=2)
    learning.close()
    return rounds


def test_truth_after_kills(tmp_path: Path) -> None:
    assert killed_rounds(tmp_path / "store", seed=3, every=3000) >= 3


@pytest.mark.slow
def test_truth_after_300_kills(tmp_path: Path) -> None:
    rounds = seed = 0
    while rounds < 300:
        seed += 1
        rounds += killed_rounds(tmp_path / f"store{seed}", seed=seed, every=350)
