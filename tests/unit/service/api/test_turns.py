"""Turns of callers whose calls compute."""

import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from pyspark_theflash.base.errors import DeadlineExceededError, TicketError
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.service.api.call import CallContext
from pyspark_theflash.service.api.service import Service
from pyspark_theflash.service.api.turns import Turns
from pyspark_theflash.service.wire import message
from pyspark_theflash.service.wire.method import METHODS, Role
from pyspark_theflash.testing.stores import StoreBuilder, id_column, table_info
from tests.support.manual_clock import ManualClock
from tests.support.processes import CLOCK, wait_until


def call(identity: str, role: Role = Role.READ, timeout_ms: int = 60_000) -> CallContext:
    return CallContext("Scan", timeout_ms, CLOCK, role=role, identity=identity)


class Work:
    """Two items; the first is computed until `ended` is set."""

    def __init__(self, turns: Turns, context: CallContext) -> None:
        self.begun, self.ended = threading.Event(), threading.Event()
        self.received: list[int] = []
        self._items = turns.of(self._computed(), context)
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _computed(self) -> Iterator[int]:
        self.begun.set()
        self.ended.wait(60)
        yield 1
        yield 2

    def _run(self) -> None:
        self.received += self._items

    def end(self) -> None:
        self.ended.set()
        self.thread.join(60)
        assert self.received == [1, 2]


def test_a_caller_has_only_so_many_turns() -> None:
    turns = Turns(2, CLOCK)
    first = [Work(turns, call("one")) for _ in range(2)]
    for work in first:
        assert work.begun.wait(60)
    third = Work(turns, call("one"))
    with pytest.raises(DeadlineExceededError):
        next(turns.of(iter([1]), call("one", timeout_ms=200)))
    assert not third.begun.is_set()
    assert list(turns.of(iter([1, 2]), call("one", Role.ADMIN))) == [1, 2]
    first[0].end()
    assert third.begun.wait(60)
    for work in (third, first[1]):
        work.end()
    assert not turns._running


def test_no_turn_is_held_between_items() -> None:
    """As while a batch is sent to a caller that does not receive it."""
    turns = Turns(1, CLOCK)
    waiting = turns.of(iter([1, 2]), call("one"))
    assert next(waiting) == 1
    assert list(turns.of(iter([1, 2]), call("one"))) == [1, 2]
    assert list(waiting) == [2]


def test_errors_end_a_turn() -> None:
    turns = Turns(1, CLOCK)

    def failing() -> Iterator[int]:
        raise ArithmeticError
        yield 1

    with pytest.raises(ArithmeticError):
        next(turns.of(failing(), call("one")))
    wait_until(lambda: list(turns.of(iter([1]), call("one"))) == [1])


def test_callers_share_turns_while_others_use_them() -> None:
    clock = ManualClock()
    turns = Turns(2, clock)
    with turns.turn(call("one")):
        with turns.turn(call("one")):
            """No other caller has turns."""
        with turns.turn(call("two")):
            """The first caller keeps its turn."""
        with pytest.raises(DeadlineExceededError), turns.turn(call("one", timeout_ms=200)):
            pytest.fail("a second turn beside another caller's")
        clock.sleep_ms(60_000)
        with turns.turn(call("one")):
            """The other caller has stopped."""
    assert not turns._running


CALLS: dict[str, tuple[str, object]] = {
    "plan": ("PlanScan", message.PlanRequest(table="shop.item")),
    "tables": ("ListTables", message.TablesRequest()),
    "release": ("ReleaseSnapshot", message.SnapshotRequest(b"")),
    "status": ("GetStatus", message.StatusRequest()),
}


@pytest.mark.parametrize("name", CALLS)
def test_one_plan_of_a_caller_at_a_time(name: str, tmp_path: Path) -> None:
    """So callers with many connections do not keep others from the lock of the manifest."""
    table = table_info(7, "shop.item", [id_column()])
    path = StoreBuilder(tmp_path / "store", table).publish(200, {table: [(1, 150, [1])]}).path
    service = Service(path, fs=LocalFileSystem(), clock=CLOCK)
    method, request = CALLS[name]

    def answered(identity: str, timeout_ms: int = 60_000) -> None:
        with suppress(TicketError):
            service.answer(METHODS[method], request, call(identity, timeout_ms=timeout_ms))

    with closing(service):
        with service._planning.turn(call("one")):
            with pytest.raises(DeadlineExceededError):
                answered("one", timeout_ms=200)
            answered("two")
        answered("one")
        assert not service._planning._running
