"""Grants of latches, waiting for them, and their end."""

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import pytest

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.errors import (
    CorruptionError,
    DeadlineExceededError,
    LatchHeldError,
    LatchLostError,
    LatchOrderError,
    StaleTokenError,
)
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.base.types import FencingToken, RegionID, TimeStamp
from pyspark_theflash.storage.store import transient
from pyspark_theflash.storage.store.folder import open_manifest
from pyspark_theflash.storage.store.latch.latch import (
    STORE,
    Latch,
    LatchKind,
    LatchRequest,
    LatchScope,
    LatchWaiter,
)
from pyspark_theflash.storage.store.latch.lease import LeaseTable
from pyspark_theflash.storage.store.latch.queue import TICKET_MS, LatchQueue
from pyspark_theflash.storage.store.manifest import Manifest, ManifestChange
from tests.support.manual_clock import ManualClock

TABLE, OTHER = LatchScope(7), LatchScope(8)
PARTITION = LatchScope(7, 71)
REGION = LatchScope(7, 71, RegionID(3))
SCOPES = (STORE, TABLE, PARTITION, REGION, OTHER)


def write(scope: LatchScope = STORE, name: str = "a", ttl_ms: int = 100) -> LatchRequest:
    return LatchRequest(LatchKind.WRITE, scope, ttl_ms, name, "user 0")


def admin(scope: LatchScope, *, mutates: bool, name: str = "b") -> LatchRequest:
    return LatchRequest(LatchKind.ADMIN, scope, 100, name, "user 0", mutates)


@pytest.fixture
def open_again(store: Path) -> Iterator[Callable[[], Manifest]]:
    """Open another connection, as another process does."""
    with ExitStack() as undo:
        yield lambda: undo.enter_context(closing(open_manifest(store, LocalFileSystem())))


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def queue(open_again: Callable[[], Manifest], clock: ManualClock) -> LatchQueue:
    return LatchQueue(open_again(), clock)


def held(queue: LatchQueue, wanted: LatchRequest, wait_ms: int = 0) -> Latch:
    return queue.acquire(wanted, wait_ms=wait_ms)


def token(latch: Latch) -> int:
    assert latch.grant is not None
    return latch.grant.token


def test_scopes_overlap_what_they_contain() -> None:
    overlapping = {(a, b) for a, b in itertools.product(SCOPES, SCOPES) if a.overlaps(b)}
    one_branch = (STORE, TABLE, PARTITION, REGION)
    expected = {*itertools.product(one_branch, one_branch), (STORE, OTHER), (OTHER, STORE)}
    assert overlapping == {*expected, (OTHER, OTHER)}
    assert not PARTITION.overlaps(LatchScope(7, 72))
    assert not PARTITION.overlaps(LatchScope(6, 71))


@pytest.mark.parametrize("second", ["read", "write", "admin", "mutating"])
@pytest.mark.parametrize("first", ["read", "write", "admin", "mutating"])
@pytest.mark.parametrize(("one", "two"), [(STORE, TABLE), (REGION, TABLE), (TABLE, OTHER)])
def test_the_matrix(
    queue: LatchQueue, first: str, second: str, one: LatchScope, two: LatchScope
) -> None:
    exclusive = {"write", "mutating"}
    kinds = {
        "read": LatchKind.READ,
        "write": LatchKind.WRITE,
        "admin": LatchKind.ADMIN,
        "mutating": LatchKind.ADMIN,
    }
    wanted = [
        LatchRequest(kinds[kind], scope, 100, name, "", kind == "mutating")
        for kind, scope, name in ((first, one, "a"), (second, two, "b"))
    ]
    held(queue, wanted[0])
    if {first, second} <= exclusive and (one, two) != (TABLE, OTHER):
        with pytest.raises(LatchHeldError):
            held(queue, wanted[1])
    else:
        held(queue, wanted[1])


def test_tokens_grow_over_everything(
    queue: LatchQueue, clock: ManualClock, open_again: Callable[[], Manifest]
) -> None:
    seen = [token(held(queue, write(OTHER))), token(held(queue, write(TABLE)))]
    clock.boot, clock.now_ms = "another run", 0
    for manifest in (open_again(), open_again()):
        seen.append(token(held(LatchQueue(manifest, clock), write(TABLE))))
        clock.now_ms += 100
    assert seen == sorted(set(seen))


def test_time_ends_a_latch(queue: LatchQueue, clock: ManualClock) -> None:
    first = held(queue, write())
    clock.now_ms += 60
    queue.renew(first.claim)
    clock.now_ms += 99
    queue.look(first.claim)
    with pytest.raises(LatchHeldError):
        held(queue, write(name="b"))
    clock.now_ms += 1
    second = held(queue, write(name="b"))
    assert token(second) > token(first)
    for act in (queue.renew, queue.release, queue.look):
        with pytest.raises(LatchLostError):
            act(first.claim)
        with pytest.raises(LatchLostError):
            act(replace(second.claim, token=token(second) - 1))
    queue.release(second.claim)
    held(queue, write(name="c"))


def test_a_latch_is_its_identitys(queue: LatchQueue, open_again: Callable[[], Manifest]) -> None:
    """Another caller's latch is treated as one that does not exist, also by a commit."""
    latch, manifest = held(queue, write()), open_again()
    other = replace(latch.claim, identity="user 1")
    for claim in (other, replace(latch.claim, id="none"), replace(latch.claim, identity="")):
        for act in (queue.renew, queue.release, queue.look):
            with pytest.raises(LatchLostError, match=f"latch {claim.id} .* is not held by this"):
                act(claim)
        with pytest.raises(LatchLostError):
            manifest.commit(ManifestChange(), FencingToken(0), queue.guard([claim]))
    queue.release(latch.claim)


def test_a_lease_is_no_granted_latch(
    queue: LatchQueue, clock: ManualClock, open_again: Callable[[], Manifest]
) -> None:
    leases = LeaseTable(open_again(), clock)
    lease = leases.take(TimeStamp(5), 100, identity="user 0")
    leases.take(TimeStamp(5), 100)
    assert sorted(latch.identity for latch in leases.living()) == ["", "user 0"]
    leases.renew(lease)
    assert sorted(latch.identity for latch in leases.living()) == ["", "user 0"]
    for latch in leases.living():
        with pytest.raises(LatchLostError):
            queue.release(latch.claim)


def test_a_commit_under_a_latch_that_has_ended(
    queue: LatchQueue, clock: ManualClock, open_again: Callable[[], Manifest]
) -> None:
    """Writes are rejected although the latch was not granted again."""
    manifest = open_again()
    latch = held(queue, write())
    guard = queue.guard([latch.claim])
    before = manifest.commit(ManifestChange(), FencingToken(0), guard)
    clock.now_ms += 100
    with pytest.raises(LatchLostError):
        manifest.commit(ManifestChange(), FencingToken(0), guard)
    with pytest.raises(StaleTokenError):
        manifest.commit(ManifestChange(), FencingToken(9), guard)
    assert manifest.head().generation == before


def test_first_come_first_served(store: Path) -> None:
    """Five waiting requests are granted in order; readers do not wait."""
    clock, order, tickets = SystemClock(), [], 0

    def wait(name: str) -> None:
        with closing(open_manifest(store, LocalFileSystem())) as manifest:
            mine = LatchQueue(manifest, clock)
            latch = held(mine, write(TABLE, name, 20_000), 20_000)
            order.append((name, token(latch)))
            mine.release(latch.claim)

    with closing(open_manifest(store, LocalFileSystem())) as manifest:
        queue = LatchQueue(manifest, clock)
        first = held(queue, write(TABLE, "first", 20_000))
        threads = [threading.Thread(target=wait, args=(f"{n}",)) for n in range(5)]
        for thread in threads:
            thread.start()
            tickets += 1
            while len(queue.waiting()) < tickets:
                clock.sleep_ms(2)
        held(queue, LatchRequest(LatchKind.READ, TABLE, 100))
        with pytest.raises(LatchHeldError):
            held(queue, write(TABLE, "late"))
        held(queue, write(OTHER, "elsewhere"))
        queue.release(first.claim)
        for thread in threads:
            thread.join()
        assert [name for name, _ in order] == ["0", "1", "2", "3", "4"]
        assert [number for _, number in order] == sorted(number for _, number in order)
        assert queue.waiting() == []


def test_a_wait_ends(queue: LatchQueue, clock: ManualClock) -> None:
    held(queue, write(ttl_ms=100_000))
    begin = clock.now_ms
    with pytest.raises(LatchHeldError, match="a \\(user 0\\)"):
        held(queue, write(name="b"), 5_000)
    assert 5_000 <= clock.now_ms - begin < 5_100
    assert queue.waiting() == []

    def check() -> None:
        if clock.now_ms > begin + 6_000:
            raise DeadlineExceededError("AcquireLatch", 1)

    with pytest.raises(DeadlineExceededError):
        queue.acquire(write(name="b"), wait_ms=5_000, check=check)
    assert queue.waiting() == []


def test_who_died_waiting_is_passed(queue: LatchQueue, clock: ManualClock) -> None:
    def die() -> None:
        raise SystemExit

    latch = held(queue, write(ttl_ms=100_000))
    with pytest.raises(SystemExit):
        queue.acquire(write(name="b"), wait_ms=50_000, check=die)
    ticket = LatchWaiter("dead", 99, clock.boot_id(), clock.now_ms + TICKET_MS, write(name="b"))
    with transient.opened(queue._manifest, write=True) as rows:
        rows.put(transient.TICKET_KIND, ticket.id, ticket.to_body())
    queue.release(latch.claim)
    with pytest.raises(LatchHeldError):
        held(queue, write(name="c"))
    clock.now_ms += TICKET_MS
    held(queue, write(name="c"))


def test_who_holds_waits_only_for_what_is_behind(queue: LatchQueue) -> None:
    """Otherwise two holders could wait for each other's latches."""
    held(queue, write(TABLE, "a"))
    held(queue, write(OTHER, "b"))
    with pytest.raises(LatchOrderError):
        held(queue, write(TABLE, "b"), 1_000)
    with pytest.raises(LatchHeldError):
        held(queue, write(TABLE, "b"))
    with pytest.raises(LatchHeldError, match="same caller"):
        held(queue, write(STORE, "a"), 1_000)


def test_nobody_waits_for_who_waits_for_him(
    queue: LatchQueue, clock: ManualClock, open_again: Callable[[], Manifest]
) -> None:
    """`b` waits for the store, a part of which `a` holds; `a` may acquire another part."""
    held(queue, write(TABLE, "a", 100_000))
    other, looks = LatchQueue(open_again(), clock), 0

    def look() -> None:
        nonlocal looks
        looks += 1
        if looks == 1:
            held(other, write(OTHER, "a", 100_000))
            with pytest.raises(LatchHeldError):
                held(other, write(LatchScope(9), "c"))

    with pytest.raises(LatchHeldError):
        queue.acquire(write(STORE, "b"), wait_ms=100, check=look)
    assert looks


def test_what_pins_pins(queue: LatchQueue, clock: ManualClock) -> None:
    leases = LeaseTable(queue._manifest, clock)
    wanted = LatchRequest(LatchKind.READ, TABLE, 100, "r", "")
    latch = queue.acquire(wanted, snapshot_ts=TimeStamp(5))
    held(queue, write())
    assert leases.oldest_snapshot_ts() == 5
    assert leases.oldest_generation() == latch.generation
    clock.now_ms += 100
    assert leases.oldest_snapshot_ts() is None


@pytest.mark.parametrize(
    "kind", [transient.TICKET_KIND, transient.FENCE_KIND, transient.LATCH_KIND]
)
def test_a_row_that_is_none(queue: LatchQueue, kind: str) -> None:
    with transient.opened(queue._manifest, write=True) as rows:
        rows.put(kind, "token", b"[1, 2]")
    with pytest.raises(CorruptionError):
        held(queue, write())


# -- many readers


def readers(manifest: Manifest, clock: ManualClock, count: int) -> LeaseTable:
    leases = LeaseTable(manifest, clock)
    for _ in range(count):
        leases.take(TimeStamp(5), 1_000, identity="a reader")
    return leases


def test_read_latches_are_not_read(
    queue: LatchQueue,
    clock: ManualClock,
    open_again: Callable[[], Manifest],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A write latch costs the same beside any number of them."""
    verified: list[str] = []
    check = transient.TransientRecords._checked

    def counted(self: transient.TransientRecords, kind: str, *row: object) -> int:
        verified.append(kind)
        return check(self, kind, *row)

    queue.release(held(queue, write()).claim)
    monkeypatch.setattr(transient.TransientRecords, "_checked", counted)
    costs = []
    for count in (10, 90):
        readers(open_again(), clock, count)
        verified.clear()
        latch = held(queue, write(TABLE))
        with pytest.raises(LatchHeldError):
            held(queue, write(TABLE, "b"))
        queue.release(latch.claim)
        costs.append(len(verified))
    assert costs[0] == costs[1] < 40


def test_a_grant_of_an_earlier_version(queue: LatchQueue, clock: ManualClock) -> None:
    """It counts tokens, and does not note which latches exclude others."""
    first = held(queue, write(TABLE))
    latch = replace(first, id="unnoted", grant=replace(first.grant, token=FencingToken(99)))
    latch = replace(latch, grant=replace(latch.grant, wanted=write(OTHER, "b")))
    with transient.opened(queue._manifest, write=True) as rows:
        rows.put(transient.FENCE_KIND, "token", b"99")
        rows.put(transient.LATCH_KIND, latch.id, latch.to_body())
    with pytest.raises(LatchHeldError, match="latch of b"):
        held(queue, write(OTHER, "c"))
    queue.release(first.claim)
    assert token(held(queue, write(TABLE, "c"))) == 100
    with pytest.raises(LatchHeldError, match="latch of b"):
        held(queue, write(OTHER, "c"))


def test_latches_that_were_removed(
    queue: LatchQueue, clock: ManualClock, open_again: Callable[[], Manifest]
) -> None:
    leases = readers(open_again(), clock, 2)
    first, _ = held(queue, write(TABLE)), held(queue, write(OTHER, "b"))
    leases.remove(first.id)
    held(queue, write(TABLE, "c"))
    with pytest.raises(LatchHeldError, match="latch of b"):
        held(queue, write(OTHER, "c"))


def test_a_latch_that_damage_hides(queue: LatchQueue, open_again: Callable[[], Manifest]) -> None:
    latch = held(queue, write())
    with open_again().transient_transaction(write=True) as db:
        db.execute("DELETE FROM board WHERE key = ?", (latch.id,))
    with pytest.raises(CorruptionError):
        held(queue, write(name="b"))


def test_the_read_latches_of_a_caller(
    queue: LatchQueue, clock: ManualClock, open_again: Callable[[], Manifest]
) -> None:
    leases = readers(open_again(), clock, 3)
    LeaseTable(queue._manifest, clock).take(TimeStamp(5), 1_000, identity="another")
    LeaseTable(queue._manifest, clock).take(TimeStamp(5), 1_000)
    first = set(leases.ids_of("a reader", 9))
    clock.now_ms += 500
    readers(queue._manifest, clock, 1)
    wanted = LatchRequest(LatchKind.READ, TABLE, 1_000, "r", "a reader")
    last = queue.acquire(wanted, snapshot_ts=TimeStamp(5))
    held(queue, write())
    later = set(leases.ids_of("a reader", 9)) - first
    assert (len(first), len(later), last.id in later) == (3, 2, True)
    assert leases.ids_of("nobody", 9) == leases.ids_of("", 9) == []
    clock.now_ms += 500
    assert len(leases.ids_of("a reader", 5)) == 5
    assert set(leases.ids_of("a reader", 4)) == set(leases.ids_of("a reader", 9)) == later
    assert len(leases.living()) == 2
