"""Reads of a captured cluster amid its transactions, which encounter and resolve locks."""

import random
from collections.abc import Sequence
from typing import Any

import pytest

from pyspark_theflash.base.clock import Deadline, SystemClock
from pyspark_theflash.base.errors import KeyIsLockedError
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.cluster.lock import Lock
from pyspark_theflash.cluster.resolve import (
    LockResolver,
    ResolvedLocks,
    SecondaryLocks,
    StatusCheck,
    TxnState,
    TxnStatus,
)
from pyspark_theflash.read.present import TEXT
from pyspark_theflash.storage.mvcc.version import HANDLE
from pyspark_theflash.tidb.codec.digest import TableDigest
from pyspark_theflash.tidb.codec.key import RawKey
from pyspark_theflash.tidb.schema.model import TableInfo
from pyspark_theflash.tikv.read import open_tables
from tests.support.kv_tap import TAP, calls, history, locks
from tests.support.learning import Learning
from tests.support.raft_tikv import FakeRaftCluster, encoded
from tests.support.schema import tables_at
from tests.support.table_rows import unresolved
from tests.support.workloads import Workload

HISTORY = history()
ANSWERS = list(Workload("kv", TAP, HISTORY.end_ts).answers())
TABLES = {t.full_name: t for t in tables_at(HISTORY, HISTORY.end_ts)}
FIRST_TABLE = encoded(b"t\x80\0\0\0\0\0\0\x50")


class Hereafter:
    """The final outcome of every transaction; one that never ended is rolled back."""

    def __init__(self, end: FakeRaftCluster) -> None:
        self._ends = {
            (key, start_ts): commit_ts if kind != "R" else 0
            for key, writes in end.writes.items()
            for commit_ts, kind, start_ts in writes
        }

    def now(self, deadline: Deadline) -> TimeStamp:
        return HISTORY.end_ts

    def check_status(self, check: StatusCheck, deadline: Deadline) -> TxnStatus:
        commit_ts = self._ends.get((encoded(check.primary), check.start_ts), 0)
        state = TxnState.COMMITTED if commit_ts else TxnState.ROLLED_BACK
        return TxnStatus(state, TimeStamp(commit_ts))

    def check_secondaries(
        self, keys: Sequence[RawKey], start_ts: TimeStamp, deadline: Deadline
    ) -> Sequence[SecondaryLocks]:
        raise AssertionError("no primary is locked hereafter")

    def resolve(self, *_: Any) -> None:
        raise AssertionError("nothing is to be written")


def test_answers_in_the_middle() -> None:
    end = FakeRaftCluster(FIRST_TABLE)
    for call in calls():
        end.call(call)
    resolver = LockResolver(Hereafter(end))
    met: list[Lock] = []
    counts = {"ignored": 0, "committed": 0}

    def resolve(locks: Sequence[Lock], snapshot_ts: TimeStamp) -> ResolvedLocks:
        met.extend(locks)
        resolved = resolver.resolve(locks, snapshot_ts, Deadline(SystemClock(), 1000))
        counts["ignored"] += len(resolved.ignored)
        counts["committed"] += len(resolved.committed)
        return resolved

    rng, learning = random.Random(1), Learning(FakeRaftCluster(FIRST_TABLE), HISTORY, None)
    lines = {mark["ts"]: mark["tap_lines"] for mark in locks()["marks"]}
    labels = {mark["ts"]: mark["label"] for mark in locks()["marks"]}
    todo = iter(calls())
    done = -1
    for ts in sorted(lines, key=lambda ts: lines[ts]):
        while done + 1 < lines[ts] and (call := next(todo, None)) is not None:
            learning.tikv.call(call)
            done = call.line
        learning.catch_up(rng, most=3000)
        if labels[ts].startswith("all left-over"):
            check_left_over(learning, ts)
        for answer in (a for a in ANSWERS if a.snapshot_ts == ts):
            digest = _digest(learning, TABLES[answer.table], ts, resolve)
            assert digest == (answer.rows, answer.checksum), answer
    assert len(met) >= 20
    assert any(label.startswith("all left-over") for label in labels.values())
    assert counts["ignored"] >= 3
    assert counts["committed"] >= 1
    learning.close()


def check_left_over(learning: Learning, ts: int) -> None:
    """Without resolution, the locks that TiDB reported as remaining block reads, and no others."""
    (view,) = open_tables(learning.learner.store, TABLES["kvb.acc"].physical_ids, TimeStamp(ts))
    blocking = {(each.lock.key.hex(), each.lock.start_ts) for each in view.locked}
    left_over = {(lock["key"], lock["lock_ts"]) for lock in locks()["locks_before_resolving"]}
    assert blocking <= left_over
    assert len(blocking) >= 10
    with pytest.raises(KeyIsLockedError, match="table 86 is locked"):
        list(learning.read(TABLES["kvb.acc"], view, unresolved))


def _digest(learning: Learning, table: TableInfo, ts: int, resolve: Any) -> tuple[int, str]:
    digest = TableDigest()
    for view in open_tables(learning.learner.store, table.physical_ids, TimeStamp(ts)):
        for each in learning.read(table, view, resolve):
            pairs = zip(each.drop_columns([HANDLE]).columns, table.public_columns, strict=True)
            digest.update([TEXT.apply(values, c.type, c.name) for values, c in pairs])
    return digest.rows, digest.hexdigest()
