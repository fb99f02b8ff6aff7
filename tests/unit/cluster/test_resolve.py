"""Lock resolution in every state of a transaction and under every policy.

A table contains the expected results by the rules of percolator; TiKV is the model in
`tests/support/percolator.py`.
"""

import itertools
from dataclasses import replace

import pytest

from pyspark_theflash.base.clock import Deadline
from pyspark_theflash.base.errors import (
    KeyIsLockedError,
    LockResolveError,
    TiKVUnavailableError,
)
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.cluster.lock import LockKind
from pyspark_theflash.cluster.resolve import (
    LockPolicy,
    LockResolver,
    ResolvedLocks,
    SecondaryLocks,
)
from tests.support.manual_clock import ManualClock
from tests.support.percolator import Percolator, Refused

WAIT, RESOLVE, FAIL = LockPolicy.WAIT, LockPolicy.RESOLVE, LockPolicy.FAIL
PRIMARY, KEY, OTHER = b"m-primary", b"m-key", b"m-other"
TTL_MS = 3000

IGNORED, COMMITTED, BLOCKED, ERROR = "ignored", "committed", "blocked", "error"

# State of the primary: result of a read that writes nothing, and of one that resolves.
EXPECTED = {
    "live": (BLOCKED, BLOCKED),
    "live, may be pushed": (BLOCKED, IGNORED),
    "live, pushed before": (IGNORED, IGNORED),
    "expired": (BLOCKED, IGNORED),
    "expired, may be pushed": (BLOCKED, IGNORED),
    "expired, pushed before": (IGNORED, IGNORED),
    "committed below": (COMMITTED, COMMITTED),
    "committed at the snapshot": (COMMITTED, COMMITTED),
    "committed above": (IGNORED, IGNORED),
    "rolled back": (IGNORED, IGNORED),
    "missing, lock live": (BLOCKED, BLOCKED),
    "missing, lock expired": (BLOCKED, IGNORED),
    "missing, other's lock, lock expired": (BLOCKED, IGNORED),
    "committed below, other's lock": (COMMITTED, COMMITTED),
    "pessimistic, live": (BLOCKED, BLOCKED),
    "pessimistic, expired": (BLOCKED, IGNORED),
    "pessimistic of another primary, lock live": (BLOCKED, BLOCKED),
    "pessimistic of another primary, lock expired": (BLOCKED, IGNORED),
    "prewritten of another primary": (ERROR, ERROR),
    "async, live": (BLOCKED, BLOCKED),
    "async, live, above": (IGNORED, IGNORED),
    "async, expired, all there": (BLOCKED, COMMITTED),
    "async, expired, a secondary above": (BLOCKED, IGNORED),
    "async, expired, a secondary committed": (BLOCKED, COMMITTED),
    "async, expired, a secondary committed above": (BLOCKED, IGNORED),
    "async, expired, a secondary rolled back": (BLOCKED, IGNORED),
    "async, expired, a secondary never locked": (BLOCKED, IGNORED),
    "async, expired, a secondary only pessimistic": (BLOCKED, IGNORED),
    "async, expired, a secondary in two phases": (BLOCKED, IGNORED),
    "async, expired, secondaries do not agree": (BLOCKED, ERROR),
}
KINDS = (LockKind.PUT, LockKind.DELETE, LockKind.LOCK, LockKind.PESSIMISTIC)


class Scene:
    """A transaction in one of these states, with a lock on KEY, and a snapshot above its start."""

    def __init__(self, state: str, kind: LockKind = LockKind.PUT) -> None:
        self.tikv = Percolator()
        self.tikv.splits = [b"m-l", b"m-p"]
        words = state.split(", ")
        self.start = self.tikv.tso()
        self.below = self.tikv.tso()
        self.snapshot = TimeStamp(self.start + 1000)
        self.value = None if kind is LockKind.DELETE else b"new"
        is_async = words[0] == "async"
        above = self.snapshot + 5
        floor = {"pushed before": above, "may be pushed": self.below}.get(words[-1], 0)
        if is_async:
            self._async(words[-1], kind, above if words[-1] == "above" else self.below)
        else:
            self.tikv.prewrite(self.start, PRIMARY, {KEY: self.value}, ttl_ms=TTL_MS, kind=kind)
            self._primary(words[0], words, floor, above)
        if any("expired" in word for word in words):
            self.tikv.pass_ms(TTL_MS + 1)

    def _primary(self, word: str, words: list[str], floor: int, above: int) -> None:
        tikv, start = self.tikv, self.start
        if word.startswith(("live", "expired", "committed", "rolled")):
            tikv.prewrite(start, PRIMARY, {PRIMARY: b"p"}, ttl_ms=TTL_MS, min_commit_ts=floor)
        if word.startswith("committed"):
            at = {"below": self.below, "above": above}.get(word.split()[-1], self.snapshot)
            tikv.commit(start, at, [PRIMARY])
        if word == "rolled back":
            tikv.rollback(start, [PRIMARY])
        if word.startswith(("pessimistic", "prewritten")):
            kind = LockKind.PESSIMISTIC if word.startswith("pess") else LockKind.PUT
            mine = OTHER if "another" in word else PRIMARY
            tikv.prewrite(start, mine, {PRIMARY: b""}, ttl_ms=TTL_MS, kind=kind)
        if "other's lock" in words:
            tikv.prewrite(tikv.tso() + 10**6, PRIMARY, {PRIMARY: b"x"}, ttl_ms=10**9)

    def _async(self, word: str, kind: LockKind, floor: int) -> None:
        tikv, start, above = self.tikv, self.start, self.snapshot + 5
        secondaries = [KEY, OTHER]
        tikv.prewrite(
            start,
            PRIMARY,
            {PRIMARY: b"p"},
            ttl_ms=TTL_MS,
            min_commit_ts=floor,
            secondaries=secondaries,
        )
        at = {"min_commit_ts": self.below, "secondaries": (), "ttl_ms": TTL_MS}
        tikv.prewrite(start, PRIMARY, {KEY: self.value}, kind=kind, **at)
        if word == "a secondary never locked":
            return
        if word == "a secondary only pessimistic":
            tikv.prewrite(start, PRIMARY, {OTHER: b""}, kind=LockKind.PESSIMISTIC)
            return
        if word == "a secondary in two phases":
            tikv.prewrite(start, PRIMARY, {OTHER: b"o"}, ttl_ms=TTL_MS)
            return
        if word == "a secondary above":
            at["min_commit_ts"] = above
        tikv.prewrite(start, PRIMARY, {OTHER: b"o"}, **at)
        if word.startswith("a secondary committed"):
            tikv.commit(start, above if word.endswith("above") else self.below, [OTHER])
        if word == "a secondary rolled back":
            tikv.rollback(start, [OTHER])
        if word == "secondaries do not agree":
            tikv.rollback(start, [OTHER])
            tikv.commit(start, self.below, [KEY])
            tikv.locks[KEY + b"2"] = tikv.locks[PRIMARY]

    def read(self, resolver: LockResolver, snapshot: int | None = None) -> ResolvedLocks:
        deadline = Deadline(ManualClock(), 2000)
        at = TimeStamp(self.snapshot if snapshot is None else snapshot)
        lock = self.tikv.locks.get(KEY) or self.tikv.locks[KEY + b"2"]
        return resolver.resolve([lock], at, deadline)

    def outcome(self, policy: LockPolicy) -> str:
        try:
            resolved = self.read(LockResolver(self.tikv, policy))
        except KeyIsLockedError as error:
            named = f"a meta key is locked by transaction start_ts={self.start}" in str(error)
            return BLOCKED if named else f"blocked by something else: {error}"
        except LockResolveError:
            return ERROR
        assert resolved.ignored | set(resolved.committed) == {self.start}
        assert not (resolved.ignored and resolved.committed)
        return IGNORED if resolved.ignored else COMMITTED


def possible(state: str, kind: LockKind) -> bool:
    """Return whether a state and a lock kind can be combined."""
    return not (state == "async, expired, secondaries do not agree" and kind is not LockKind.PUT)


STATES = [(s, k) for s, k in itertools.product(EXPECTED, KINDS) if possible(s, k)]


@pytest.mark.parametrize("policy", list(LockPolicy))
@pytest.mark.parametrize(("state", "kind"), STATES)
def test_every_state(state: str, kind: LockKind, policy: LockPolicy) -> None:
    scene = Scene(state, kind)
    before = scene.tikv.state()
    if kind in (LockKind.LOCK, LockKind.PESSIMISTIC):
        assert scene.read(LockResolver(scene.tikv, policy)) == ResolvedLocks()
        assert scene.tikv.calls == []
        return
    assert scene.outcome(policy) == EXPECTED[state][policy is RESOLVE]
    if policy is not RESOLVE:
        assert scene.tikv.state() == before
        return
    # An ignored transaction cannot become visible below the snapshot later.
    if EXPECTED[state][1] == IGNORED:
        with_lock = scene.tikv.locks.get(PRIMARY)
        if with_lock is not None and with_lock.start_ts == scene.start:
            with pytest.raises(Refused):
                scene.tikv.commit(scene.start, scene.snapshot, [PRIMARY])


@pytest.mark.parametrize("policy", list(LockPolicy))
@pytest.mark.parametrize("state", EXPECTED)
def test_transactions_above_the_snapshot(state: str, policy: LockPolicy) -> None:
    scene = Scene(state)
    resolved = scene.read(LockResolver(scene.tikv, policy), scene.start - 1)
    assert (resolved, scene.tikv.calls) == (ResolvedLocks(), [])


def test_a_lock_that_says_itself_that_it_commits_above() -> None:
    scene = Scene("live")
    lock = replace(scene.tikv.locks[KEY], min_commit_ts=TimeStamp(scene.snapshot + 1))
    resolved = LockResolver(scene.tikv, FAIL).resolve(
        [lock], scene.snapshot, Deadline(ManualClock(), 100)
    )
    assert (resolved.ignored, scene.tikv.calls) == ({scene.start}, [])


@pytest.mark.parametrize("state", EXPECTED)
def test_resolving_twice_ends_the_same(state: str) -> None:
    first, second = Scene(state), Scene(state)
    resolver = LockResolver(first.tikv, RESOLVE)
    lock = first.tikv.locks.get(KEY)
    try:
        resolved = first.read(resolver)
    except (KeyIsLockedError, LockResolveError):
        return
    calls = len(first.tikv.calls)
    first.tikv.locks.setdefault(KEY, lock)
    assert first.read(resolver) == resolved == second.read(LockResolver(second.tikv, RESOLVE))
    again = [c for c in first.tikv.calls[calls:] if c != "resolve"]
    # Only undecided transactions are checked again.
    assert again in ([], ["now", "check_status"])


def test_waiting_sees_the_owner_commit() -> None:
    scene = Scene("live")

    def commit(_: int) -> None:
        if PRIMARY in scene.tikv.locks:
            scene.tikv.commit(scene.start, scene.below, [PRIMARY])

    resolved = LockResolver(scene.tikv, WAIT).resolve(
        [scene.tikv.locks[KEY]], scene.snapshot, Deadline(ManualClock(commit), 2000)
    )
    assert resolved == ResolvedLocks(frozenset(), {scene.start: scene.below})


def test_waiting_ends_when_time_is_up() -> None:
    scene = Scene("live")
    clock = ManualClock(scene.tikv.pass_ms)
    started = clock.boottime_ms()
    with pytest.raises(KeyIsLockedError, match="has not ended within 60000 ms"):
        LockResolver(scene.tikv, WAIT).resolve(
            [scene.tikv.locks[KEY]], scene.snapshot, Deadline(clock, 60_000)
        )
    assert clock.boottime_ms() == started + 60_000


def test_resolving_waits_for_the_owner_to_die() -> None:
    """The resolver waits for a live primary, regardless of the age of its other locks."""
    scene = Scene("live")
    alive_until = scene.tikv.now_ms + 20_000

    def keep_alive(ms: int) -> None:
        scene.tikv.pass_ms(ms)
        if scene.tikv.now_ms < alive_until and PRIMARY in scene.tikv.locks:
            age_ms = scene.tikv.now_ms - (scene.start >> 18)
            scene.tikv.prewrite(scene.start, PRIMARY, {PRIMARY: b"p"}, ttl_ms=age_ms + TTL_MS)

    clock = ManualClock(keep_alive)
    resolved = LockResolver(scene.tikv, RESOLVE).resolve(
        [scene.tikv.locks[KEY]], scene.snapshot, Deadline(clock, 60_000)
    )
    assert resolved.ignored == {scene.start}
    assert scene.tikv.now_ms >= alive_until


def test_a_time_to_live_of_zero_is_over() -> None:
    tikv = Percolator()
    start = tikv.tso()
    tikv.prewrite(start, PRIMARY, {PRIMARY: b"p", KEY: b"k"}, ttl_ms=0)
    snapshot, deadline = tikv.tso(), Deadline(ManualClock(), 100)
    with pytest.raises(KeyIsLockedError):
        LockResolver(tikv, WAIT).resolve([tikv.locks[KEY]], snapshot, deadline)
    resolved = LockResolver(tikv, RESOLVE).resolve([tikv.locks[KEY]], snapshot, deadline)
    assert (resolved.ignored, tikv.locks) == ({start}, {})


def test_many_locks_of_some_transactions() -> None:
    tikv, keys = Percolator(), [b"m%d" % n for n in range(10)]
    for n in range(0, 10, 2):
        start = tikv.tso()
        tikv.prewrite(start, keys[n], {keys[n]: b"1", keys[n + 1]: b"2"})
        if n % 4:
            tikv.commit(start, tikv.tso(), [keys[n]])
    tikv.pass_ms(TTL_MS + 1)
    locks = list(tikv.locks.values())
    resolved = LockResolver(tikv, RESOLVE).resolve(locks, tikv.tso(), Deadline(ManualClock(), 100))
    assert (len(resolved.ignored), len(resolved.committed), tikv.locks) == (3, 2, {})


class Slow(Percolator):
    """Every call takes some time, and ends at the deadline."""

    clock = ManualClock()

    def check_status(self, check, deadline):
        if not deadline.sleep_ms(70):
            raise TiKVUnavailableError("there", "DEADLINE_EXCEEDED")
        return super().check_status(check, deadline)


def test_time_that_runs_out_while_asking() -> None:
    scene, slow = Scene("live"), Slow()
    slow.locks = scene.tikv.locks
    with pytest.raises(KeyIsLockedError, match=f"start_ts={scene.start}"):
        LockResolver(slow, WAIT).resolve(
            [slow.locks[KEY]], scene.snapshot, Deadline(slow.clock, 300)
        )


class Broken(Percolator):
    def resolve(self, *_: object) -> None:
        raise TiKVUnavailableError("there", "down")


def test_cleaning_up_may_fail() -> None:
    scene = Scene("rolled back")
    broken = Broken()
    broken.locks, broken.records = scene.tikv.locks, scene.tikv.records
    resolved = LockResolver(broken, RESOLVE).resolve(
        [scene.tikv.locks[KEY]], scene.snapshot, Deadline(ManualClock(), 100)
    )
    assert resolved.ignored == {scene.start}


class Strange(Percolator):
    answer: SecondaryLocks

    def check_secondaries(self, *_: object) -> list[SecondaryLocks]:
        return [self.answer]


@pytest.mark.parametrize("fault", ["other's lock", "below min_commit_ts"])
def test_secondaries_that_cannot_be(fault: str) -> None:
    scene = Scene("async, expired, all there")
    strange = Strange()
    strange.locks, strange.now_ms = scene.tikv.locks, scene.tikv.now_ms
    start = scene.start + 1
    strange.prewrite(start, b"m-x", {b"m-x": b""}, secondaries=(), min_commit_ts=start + 1)
    strange.answer = (
        SecondaryLocks(1, (strange.locks[b"m-x"],), TimeStamp(0))
        if fault == "other's lock"
        else SecondaryLocks(2, (), TimeStamp(scene.below - 1))
    )
    with pytest.raises(LockResolveError):
        LockResolver(strange, RESOLVE).resolve(
            [strange.locks[KEY]], scene.snapshot, Deadline(ManualClock(), 100)
        )


def test_what_is_known_does_not_change() -> None:
    scene = Scene("committed below")
    resolver = LockResolver(scene.tikv, WAIT)
    scene.read(resolver)
    with pytest.raises(LockResolveError, match="ended both at"):
        resolver._cache(scene.start, TimeStamp(0))
