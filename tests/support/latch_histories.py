"""Random histories of callers of one service against a model of who holds what.

Each step is a call by one of several identities, by the same code as a server's, and many name a
latch, handle or token of another caller, an ended one, or a guess. The model is two dicts: a call
succeeds exactly if the caller's identity owns the latch and its time has not passed. A rejected
call leaves the list of latches and the store's position unchanged.
"""

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Final

from pyspark_theflash.base.errors import (
    LatchHeldError,
    LatchLostError,
    LatchNotFoundError,
    LeaseExpiredError,
    OptionError,
    RoleError,
    TheFlashError,
    TicketError,
)
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.service.api.call import CallContext, local_identity
from pyspark_theflash.service.api.service import Service
from pyspark_theflash.service.wire import message
from pyspark_theflash.service.wire.method import METHODS, Role
from pyspark_theflash.testing.stores import StoreBuilder, id_column, table_info
from tests.support.manual_clock import ManualClock

if TYPE_CHECKING:
    from collections.abc import Callable

TABLES: Final = (table_info(7, "d.t", [id_column()]), table_info(8, "d.u", [id_column()]))
SCOPES: Final = (
    message.LatchScope(),
    message.LatchScope(table_id=7),
    message.LatchScope(table_id=7, physical_id=7),
    message.LatchScope(table_id=8),
)
CALLERS: Final = (
    ("token one", Role.READ),
    ("token two", Role.READ),
    ("token three", Role.WRITE),
    ("token four", Role.WRITE),
    ("token five", Role.ADMIN),
    (local_identity(), Role.ADMIN),
    ("user 4000000000", Role.ADMIN),
)
KINDS: Final = {"read": Role.READ, "write": Role.WRITE, "admin": Role.ADMIN}
KEPT_MAX: Final = 60
"""The largest number of ended latches and handles that are used again."""


@dataclass(frozen=True)
class Held:
    """A latch or handle as it was given to `owner`."""

    owner: str
    kind: str
    request: message.AcquireRequest
    id: str
    token: int
    handle: bytes
    expires_ms: int
    ttl_ms: int


class LatchHistory:
    """One history of a new store in `folder`; `step` makes a call and compares."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.clock, self.random = ManualClock(), Random(seed)
        StoreBuilder(folder, *TABLES).publish(200)
        self.service = Service(folder, fs=LocalFileSystem(), clock=self.clock)
        self.held: dict[str, Held] = {}
        self.ended: dict[str, Held] = {}
        self.position: str | None = None
        self.resolved_ts = 200
        self.counts: Counter[str] = Counter()

    def close(self) -> None:
        self.service.close()

    def step(self) -> None:
        """Make a call, or let time pass."""
        acts: tuple[tuple[Callable[[], None], int], ...] = (
            (self._acquire, 24),
            (self._snapshot, 10),
            (self._use_latch, 40),
            (self._use_handle, 30),
            (self._write, 3),
            (self._remove, 4),
            (self._list, 6),
            (self._pass_time, 20),
        )
        (act,) = self.random.choices([a for a, _ in acts], [w for _, w in acts])
        self.counts[act.__name__.strip("_")] += 1
        act()

    # -- calls

    def _answer(self, name: str, request: Any, who: tuple[str, Role], *rows: Any) -> Any:
        """Make a call as a server does."""
        called = METHODS[name]
        identity, role = who
        called.check(role)
        call = CallContext(name, 60_000, self.clock, role=role, identity=identity)
        return self.service.answer(called, request, call, *rows)

    def _refused(self, name: str, request: Any, who: tuple[str, Role], *rows: Any) -> TheFlashError:
        """Call, and return the error. Fails if there is none."""
        try:
            self._answer(name, request, who, *rows)
        except TheFlashError as error:
            self.counts["refused"] += 1
            return error
        raise AssertionError(f"{name} of {request} was answered to {who}")

    def _acquire(self) -> None:
        who = self.random.choice(CALLERS)
        kind = self.random.choice(list(KINDS))
        request = message.AcquireRequest(
            kind,
            scope=self.random.choice((SCOPES[0], *SCOPES)),
            ttl_ms=self.random.randrange(1_000, 60_000 if kind == "read" else 10_000),
            name=self.random.choice("ab"),
            mutates=kind == "admin" and self.random.random() < 0.3,
        )
        if who[1] < KINDS[kind]:
            assert isinstance(self._refused("AcquireLatch", request, who), RoleError)
        elif any(_conflict(request, other.request) for other in self._living()):
            assert isinstance(self._refused("AcquireLatch", request, who), LatchHeldError)
        else:
            latch = self._answer("AcquireLatch", request, who)
            assert latch.identity == who[0]
            self._keep(who, request, latch.id, latch.token, latch.handle)

    def _snapshot(self) -> None:
        who, ttl_ms = self.random.choice(CALLERS), self.random.randrange(1_000, 60_000)
        name = "Pin" if who[1] is Role.ADMIN and self.random.random() < 0.5 else "TakeSnapshot"
        snapshot = self._answer(name, message.Moment(ttl_ms=ttl_ms), who)
        kind = "pin" if name == "Pin" else "read"
        request = message.AcquireRequest(kind, ttl_ms=ttl_ms)
        self._keep(who, request, snapshot.latch_id, 0, snapshot.handle)

    def _use_latch(self) -> None:
        """Renew or release a latch by its id and token, or by a guess of them."""
        who, one = self.random.choice(CALLERS), self._any()
        if one is None:
            return
        if self.random.random() < 0.6:
            who = self._owner(one)
        id, token = one.id, one.token
        guess = self.random.random()
        if guess < 0.1:
            token += self.random.choice((-1, 1, 2))
        elif guess < 0.15:
            id = f"{self.random.getrandbits(128):032x}"
        request = message.LatchRequest(id, max(token, 0))
        name = self.random.choice(("RenewLatch", "RenewLatch", "ReleaseLatch"))
        is_held = self._is_living(one) and one.owner == who[0] and one.token > 0
        if not is_held or (id, token) != (one.id, one.token):
            error = self._refused(name, request, who)
            assert isinstance(error, LatchLostError)
            # The same error for another caller's latch and for an unknown one.
            unknown = self._refused(name, replace(request, id="0" * 32), who)
            assert str(error) == str(unknown).replace("0" * 32, id)
        else:
            self._answer(name, request, who)
            self._after(name == "ReleaseLatch", one)

    def _use_handle(self) -> None:
        """Renew, release or read a snapshot by its handle."""
        who, one = self.random.choice(CALLERS), self._any()
        if one is None or not one.handle:
            return
        if self.random.random() < 0.6:
            who = self._owner(one)
        name = self.random.choice(("RenewSnapshot", "ReleaseSnapshot", "ListTables"))
        request: Any = message.SnapshotRequest(one.handle)
        if name == "ListTables":
            request = message.TablesRequest(message.Moment(handle=one.handle))
        if one.owner != who[0]:
            error = self._refused(name, request, who)
            assert isinstance(error, TicketError)
            forged = one.handle[:-1] + bytes([one.handle[-1] ^ 1])
            unknown = self._refused("RenewSnapshot", message.SnapshotRequest(forged), who)
            assert str(error) == str(unknown)
        elif not self._is_living(one) and name != "ReleaseSnapshot":
            assert isinstance(self._refused(name, request, who), LeaseExpiredError)
        else:
            self._answer(name, request, who)
            self._after(name == "ReleaseSnapshot", one)

    def _write(self) -> None:
        """Write under latches, of which one may be another's."""
        who = self.random.choice([each for each in CALLERS if each[1] >= Role.WRITE])
        some = [x for x in (*self.held.values(), *self.ended.values()) if x.kind == "write"]
        whole = [x for x in self._living() if x.kind == "write" and x.request.scope == SCOPES[0]]
        some = whole or some
        chosen = self.random.sample(some, min(len(some), self.random.randrange(1, 3)))
        if chosen and self.random.random() < 0.7:
            who, chosen = self._owner(chosen[0]), chosen[:1]
        position = str(self.random.getrandbits(30))
        claims = tuple(message.LatchRequest(one.id, one.token) for one in chosen)
        request = message.WriteRequest(claims, resolved_ts=self.resolved_ts + 1, position=position)
        own = all(self._is_living(one) and one.owner == who[0] for one in chosen)
        of_store = any(one.request.scope == SCOPES[0] for one in chosen)
        if own and of_store:
            self._answer("Write", request, who, [])
            self.counts["written"] += 1
            self.position, self.resolved_ts = position, self.resolved_ts + 1
        else:
            error = self._refused("Write", request, who, [])
            assert isinstance(error, OptionError if own else LatchLostError)
        status = self._answer("GetStatus", message.StatusRequest(), who)
        assert (status.position, status.resolved_ts) == (self.position, self.resolved_ts)

    def _remove(self) -> None:
        who, one = self.random.choice(CALLERS), self._any()
        if one is None:
            return
        request = message.LatchRequest(one.id)
        if who[1] is not Role.ADMIN:
            assert isinstance(self._refused("RemoveLatch", request, who), RoleError)
        elif not self._is_living(one):
            assert isinstance(self._refused("RemoveLatch", request, who), LatchNotFoundError)
        else:
            self._answer("RemoveLatch", request, who)
            self._after(True, one)

    def _list(self) -> None:
        """Only administrators see the latches, all of them, and whose they are."""
        who = self.random.choice(CALLERS)
        if who[1] is not Role.ADMIN:
            error = self._refused("ListLatches", message.LatchesRequest(), who)
            assert isinstance(error, RoleError)
            return
        self.compare(who)

    def compare(self, who: tuple[str, Role] = CALLERS[-1]) -> None:
        """Compare the list of latches with the model."""
        listed = self._answer("ListLatches", message.LatchesRequest(), who).latches
        by_id = {latch.id: (latch.identity, latch.kind) for latch in listed}
        assert by_id == {one.id: (one.owner, one.kind) for one in self._living()}

    def _pass_time(self) -> None:
        self.clock.now_ms += self.random.randrange(1, 5_000)
        if self.random.random() < 0.01:
            self.clock.boot += "+"
            self.ended.update(self.held)
            self.held.clear()

    # -- the model

    def _living(self) -> list[Held]:
        return [one for one in self.held.values() if self._is_living(one)]

    def _is_living(self, one: Held) -> bool:
        return one.id in self.held and one.expires_ms > self.clock.now_ms

    def _owner(self, one: Held) -> tuple[str, Role]:
        return next(each for each in CALLERS if each[0] == one.owner)

    def _any(self) -> Held | None:
        every = [*self.held.values(), *self.held.values(), *self.ended.values()]
        return self.random.choice(every) if every else None

    def _keep(
        self,
        who: tuple[str, Role],
        request: message.AcquireRequest,
        id: str,
        token: int | None,
        handle: bytes,
    ) -> None:
        assert id not in self.held
        assert id not in self.ended
        until_ms, kind = self.clock.now_ms + request.ttl_ms, request.kind
        self.held[id] = Held(
            who[0], kind, request, id, token or 0, handle, until_ms, request.ttl_ms
        )
        gone = [one for one in self.held.values() if not self._is_living(one)]
        for one in gone:
            self.ended[one.id] = self.held.pop(one.id)
        while len(self.ended) > KEPT_MAX:
            del self.ended[next(iter(self.ended))]

    def _after(self, is_over: bool, one: Held) -> None:
        """Record that a latch was renewed or has ended."""
        if is_over and one.id in self.held:
            self.ended[one.id] = self.held.pop(one.id)
        elif one.id in self.held:
            self.held[one.id] = replace(one, expires_ms=self.clock.now_ms + one.ttl_ms)


def _conflict(one: message.AcquireRequest, other: message.AcquireRequest) -> bool:
    """Return whether two latches exclude each other, by the rule of `latch.py`."""
    if not all(each.kind == "write" or each.mutates for each in (one, other)):
        return False
    paths = [(s.table_id, s.physical_id) for s in (one.scope, other.scope)]
    shorter, longer = sorted([[i for i in path if i] for path in paths], key=len)
    return longer[: len(shorter)] == shorter


def run_history(folder: Path, seed: int, steps: int) -> Counter[str]:
    """Run a history. Raises `AssertionError` at the first difference."""
    history = LatchHistory(folder, seed)
    try:
        for _ in range(steps):
            history.step()
        history.compare()
    except AssertionError as error:
        made = sum(history.counts.values())
        raise AssertionError(f"seed {seed}, after {made} calls: {error}") from error
    finally:
        history.close()
    return history.counts
