"""Reads of rows in every state of lock and records, compared with TiKV's result.

Each case is a row with changes as TiKV writes them, and the name of the rule that determines the
result. Cases with the same outcome of their locks are read together: from the cache, from the
engine, and after a restart.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import pytest

from pyspark_theflash.base.errors import KeyIsLockedError
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.cluster.lock import Lock
from pyspark_theflash.cluster.resolve import ResolvedLocks
from pyspark_theflash.tikv.read import Resolve, open_tables
from tests.support.kv_table import HISTORY, TABLE, key, row
from tests.support.learning import Learning
from tests.support.percolator_records import LockRecord, write_record
from tests.support.raft_tikv import Change, FakeRaftCluster, at_ts
from tests.support.table_rows import unresolved

TS = 50
LOCKED = "locked"
OLD, NEW, LONG = "old", "new", "long" * 100
Answer = str | None
"""The row's text; None if there is no row; or `LOCKED`."""


@dataclass(frozen=True)
class Case:
    """A row: its changes in order, the outcome of its lock's transaction, the expected result."""

    rule: str
    changes: tuple[tuple[str, int, bytes | None], ...]
    """(column family, timestamp in the key, value); no timestamp in keys of locks."""
    answer: Answer
    ended: int | None = None
    """The commit_ts of the lock's transaction, 0 if rolled back, None if undecided."""
    by_snapshot: bool = False


def base(text: str = OLD) -> tuple[tuple[str, int, bytes | None], ...]:
    """Return a row committed long before the snapshot."""
    return (("write", 10, write_record("P", 5, short_value=row(text))),)


def locked_cases() -> Iterator[Case]:
    """Return a committed row with a lock."""
    minimum = {"no min_commit_ts": 0, "below": 45, "at": TS, "above": TS + 1}
    ends = {
        "committed below": 47,
        "committed at": TS,
        "committed above": TS + 9,
        "rolled back": 0,
        "primary missing": None,
        "expired": 0,
        "alive": None,
    }
    for kind, start_ts, least, (end, ended), is_async, is_long in product(
        "PDLSH", (30, TS, TS + 4), minimum.values(), ends.items(), (False, True), (False, True)
    ):
        if (is_long and kind != "P") or (is_async and (kind in "SH" or not least)):
            continue
        if ended and (ended <= start_ts or ended < least):
            continue
        record = LockRecord(
            kind,
            b"primary",
            start_ts,
            ttl=3000,
            min_commit_ts=least,
            secondaries=[b"s"] if is_async else None,
            for_update_ts=start_ts if kind == "S" else 0,
        )
        text = LONG if is_long else NEW
        changes = base()
        if kind == "P" and is_long:
            changes += (("default", start_ts, row(text)),)
        elif kind == "P":
            record.short_value = row(text)
        changes += (("lock", 0, record.encode()),)
        rule, answer = _rule(kind, start_ts, least, end, text)
        yield Case(rule, changes, answer, ended)


def _rule(kind: str, start_ts: int, least: int, end: str, text: str) -> tuple[str, Answer]:
    """TiKV's rules for locks in a snapshot read, in their order."""
    if kind in "LSH":
        return "a lock without data hides nothing", OLD
    if start_ts > TS:
        return "a transaction that began above commits above", OLD
    if least > TS:
        return "min_commit_ts above the snapshot", OLD
    if end in ("primary missing", "alive"):
        return f"undecided: {end}", LOCKED
    if end in ("committed below", "committed at"):
        return "committed at or below: read through the lock", text if kind == "P" else None
    return f"{end}: read past the lock", OLD


def put(
    ts: int, start_ts: int, text: str | None = None, **fields: object
) -> tuple[str, int, bytes]:
    value = None if text is None else row(text)
    return ("write", ts, write_record("P", start_ts, short_value=value, **fields))  # type: ignore[arg-type]


def delete(ts: int, start_ts: int) -> tuple[str, int, bytes]:
    return ("write", ts, write_record("D", start_ts))


def record_cases() -> Iterator[Case]:
    """Records of every kind, without locks."""
    for ts, seen in ((45, True), (TS, True), (TS + 1, False)):
        yield Case("a commit", (*base(), put(ts, 44, NEW)), NEW if seen else OLD)
        yield Case("a delete", (*base(), delete(ts, 44)), None if seen else OLD)
        long = ("default", 44, row(LONG))
        yield Case("a long row", (*base(), long, put(ts, 44)), LONG if seen else OLD)
        for kind in "LR":
            record = ("write", ts, write_record(kind, ts if kind == "R" else 44))
            yield Case("a record without data", (*base(), record), OLD)
        protected = ("write", ts, write_record("R", ts, short_value=b"p"))
        yield Case("a protected rollback", (*base(), protected), OLD)
        lock = ("lock", 0, LockRecord("P", b"p", 44, short_value=row(NEW)).encode())
        done = ("lock", 0, None)
        answer = NEW if seen else OLD
        yield Case("two phases", (*base(), lock, put(ts, 44, NEW), done), answer)
        met = LockRecord("P", b"p", 44, short_value=row(NEW), rollback_ts=[ts]).encode()
        over = put(ts, 44, NEW, overlapped_rollback=True)
        yield Case("a commit over a rollback", (*base(), ("lock", 0, met), over, done), answer)
        changed = put(ts, 44, NEW, source=7)
        yield Case("a commit with a source", (*base(), changed), answer)
        unknown = (*changed[:2], changed[2] + b"?more")
        yield Case("a commit with an unknown tag", (*base(), unknown), answer)
    yield Case("a row deleted and put again", (*base(), delete(20, 19), put(30, 29, NEW)), NEW)
    yield Case("a row that never was", (delete(20, 19),), None)
    yield Case("nothing but a rollback", (("write", 20, write_record("R", 20)),), None)
    gone = (("default", 30, row(LONG)), ("lock", 0, LockRecord("P", b"p", 30).encode()))
    ends = (("default", 30, None), ("lock", 0, None), ("write", 30, write_record("R", 30)))
    yield Case("a long row rolled back", (*base(), *gone, *ends), OLD)


def fence_cases() -> Iterator[Case]:
    """Commits rewritten because of a rollback at the same timestamp."""
    for by_snapshot, text in product((False, True), (NEW, None)):
        again = (("default", 39, row(LONG)), *base(), put(40, 39, text))
        value = text or LONG
        rewritten = put(40, 39, text, overlapped_rollback=True, gc_fence=0)
        rule = "rewritten, nothing above"
        yield Case(rule, (*again, rewritten), value, by_snapshot=by_snapshot)
        for fence, above in (
            (45, delete(45, 44)),
            (TS, delete(TS, 44)),
            (TS + 2, delete(TS + 2, 44)),
        ):
            rewritten = put(40, 39, text, overlapped_rollback=True, gc_fence=fence)
            answer = None if fence <= TS else value
            rule = "rewritten, the fence is there"
            yield Case(rule, (*again, above, rewritten), answer, by_snapshot=by_snapshot)
        newer = put(45, 44, "newer")
        rewritten = put(40, 39, text, overlapped_rollback=True, gc_fence=45)
        rule = "rewritten, a newer row at the fence"
        yield Case(rule, (*again, newer, rewritten), "newer", by_snapshot=by_snapshot)
    for fence in (41, 45, TS, TS + 2):
        rewritten = put(40, 39, NEW, overlapped_rollback=True, gc_fence=fence)
        answer = None if fence <= TS else NEW
        yield Case("the fence was collected", (*base(), rewritten), answer, by_snapshot=True)
        newest = put(48, 47, "newest")
        if fence < 48:
            yield Case(
                "the fence was collected, and put again",
                (*base(), rewritten, newest),
                "newest",
                by_snapshot=True,
            )


def same_timestamp_cases() -> Iterator[Case]:
    """A rollback and a commit of different transactions at one timestamp."""
    for ts, seen in ((40, True), (TS, True), (TS + 1, False)):
        answer = NEW if seen else OLD
        lock = ("lock", 0, LockRecord("P", b"p", 30, short_value=row(NEW)).encode())
        again = put(ts, 30, NEW, overlapped_rollback=True, gc_fence=0)
        committed = (*base(), lock, put(ts, 30, NEW), ("lock", 0, None))
        yield Case("rolled back at a commit's timestamp", (*committed, again), answer)
        plain = put(ts, 30, NEW, overlapped_rollback=True)
        yield Case("likewise, by an old TiKV", (*committed, plain), answer)
        yield Case("the same commit twice", (*committed, put(ts, 30, NEW)), answer)
        next_lock = LockRecord("P", b"p", ts, short_value=row("next")).encode()
        blocked = LOCKED if seen else OLD
        yield Case("a lock at a commit's timestamp", (*committed, ("lock", 0, next_lock)), blocked)


CASES = [*locked_cases(), *record_cases(), *fence_cases(), *same_timestamp_cases()]


def _changes(number: int, case: Case) -> list[Change]:
    own = key(number)
    return [(cf, own if cf == "lock" else at_ts(own, ts), value) for cf, ts, value in case.changes]


def _resolver(ended: int | None) -> Resolve:
    def resolve(locks: Sequence[Lock], snapshot_ts: TimeStamp) -> ResolvedLocks:
        met = {lock.start_ts for lock in locks}
        if ended is None:
            return ResolvedLocks()
        if 0 < ended <= snapshot_ts:
            return ResolvedLocks(committed=dict.fromkeys(met, TimeStamp(ended)))
        return ResolvedLocks(frozenset(met))

    return resolve


def _learning(folder: Path | None, *, by_snapshot: bool) -> Learning:
    """Return a learner with all cases, sent as commands or as a snapshot."""
    tikv = FakeRaftCluster()
    learning = Learning(tikv, HISTORY, folder)
    for number, case in enumerate(CASES):
        # One change per command.
        for change in _changes(number, case) if case.by_snapshot is by_snapshot else ():
            tikv.write([change])
    if by_snapshot:
        learning.install(tikv.regions[1])
    else:
        learning.send(entry for _, _, entry in tikv.log)
    return learning


def _compare(learning: Learning, *, by_snapshot: bool) -> None:
    (view,) = open_tables(learning.learner.store, TABLE.physical_ids, TimeStamp(TS))
    chosen = [(n, case) for n, case in enumerate(CASES) if case.by_snapshot is by_snapshot]
    held = {each.key: each for each in view.locked}
    for ended in {case.ended for _, case in chosen}:
        together = [(n, c) for n, c in chosen if c.ended == ended and c.answer != LOCKED]
        own = [held[key(n)] for n, _ in together if key(n) in held]
        rows = learning.view_rows(TABLE, replace(view, locked=own), _resolver(ended))
        for number, case in together:
            assert rows.get(number, (number, None))[1] == case.answer, case
    for number, case in chosen:
        if case.answer == LOCKED:
            own = [held[key(number)]]
            with pytest.raises(KeyIsLockedError):
                learning.view_rows(TABLE, replace(view, locked=own), _resolver(case.ended))
            with pytest.raises(KeyIsLockedError):
                learning.view_rows(TABLE, replace(view, locked=own), unresolved)


def test_there_are_enough() -> None:
    rules = Counter(case.rule for case in CASES)
    assert len(CASES) >= 200
    assert len(rules) >= 25
    assert {case.answer for case in CASES} >= {OLD, NEW, LONG, LOCKED, None}


@pytest.mark.parametrize("kind", ["memory", "magic"])
@pytest.mark.parametrize("by_snapshot", [False, True])
def test_every_case(kind: str, by_snapshot: bool, tmp_path: Path) -> None:
    folder = tmp_path / "store" if kind == "magic" else None
    learning = _learning(folder, by_snapshot=by_snapshot)
    _compare(learning, by_snapshot=by_snapshot)
    learning.learner.flush()
    _compare(learning, by_snapshot=by_snapshot)
    learning.kill()
    _compare(learning, by_snapshot=by_snapshot)
    learning.close()


def test_commands_again_after_a_restart() -> None:
    learning = _learning(None, by_snapshot=False)
    learning.learner.flush()
    learning.kill()
    learning.send(entry for _, _, entry in learning.tikv.log)
    _compare(learning, by_snapshot=False)
    learning.close()
