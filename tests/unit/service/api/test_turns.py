"""Turns of callers whose calls compute."""

import threading
from collections.abc import Iterator

import pytest

from pyspark_theflash.base.errors import DeadlineExceededError
from pyspark_theflash.service.api.call import CallContext
from pyspark_theflash.service.api.turns import Turns
from pyspark_theflash.service.wire.method import Role
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
    turns = Turns(2)
    first = [Work(turns, call("one")) for _ in range(2)]
    for work in first:
        assert work.begun.wait(60)
    third = Work(turns, call("one"))
    with pytest.raises(DeadlineExceededError):
        next(turns.of(iter([1]), call("one", timeout_ms=200)))
    assert not third.begun.is_set()
    for others in (call("two"), call("one", Role.ADMIN)):
        assert list(turns.of(iter([1, 2]), others)) == [1, 2]
    first[0].end()
    assert third.begun.wait(60)
    for work in (third, first[1]):
        work.end()
    assert not turns._running


def test_no_turn_is_held_between_items() -> None:
    """As while a batch is sent to a caller that does not receive it."""
    turns = Turns(1)
    waiting = turns.of(iter([1, 2]), call("one"))
    assert next(waiting) == 1
    assert list(turns.of(iter([1, 2]), call("one"))) == [1, 2]
    assert list(waiting) == [2]


def test_errors_end_a_turn() -> None:
    turns = Turns(1)

    def failing() -> Iterator[int]:
        raise ArithmeticError
        yield 1

    with pytest.raises(ArithmeticError):
        next(turns.of(failing(), call("one")))
    wait_until(lambda: list(turns.of(iter([1]), call("one"))) == [1])
