"""The runner reports the failures that it is meant to detect."""

import random
from functools import cache
from threading import Event

import numpy as np
import pytest

from pyspark_theflash.base.errors import CodecError, InternalError
from tests.fuzz import run
from tests.fuzz.mutate import bytes_like, changed_json, json_like, sql_like
from tests.fuzz.run import Target, fuzz, nth_input


def failures_of(parse):
    return list(fuzz(Target([], bytes_like([b"abc"]), parse), 20, "x").failures)


def raising(error):
    def parse(data):
        raise error

    return parse


def test_typed_errors_are_none():
    findings = fuzz(Target([], bytes_like([b"abc"]), raising(CodecError("x", "y"))), 20, "x")
    assert not findings.failures
    assert findings.outcomes == {"CodecError": 20}


@pytest.mark.parametrize("error", [InternalError("x"), ValueError("x"), SystemExit(1)])
def test_other_errors(error):
    (what,) = failures_of(raising(error))
    assert what.startswith(type(error).__name__)


class Unprintable(CodecError):
    def __str__(self):
        raise KeyError


def test_errors_that_cannot_be_printed():
    (what,) = failures_of(raising(Unprintable("x", "y")))
    assert what.startswith("KeyError")


def test_an_engineer_may_interrupt():
    with pytest.raises(KeyboardInterrupt):
        failures_of(raising(KeyboardInterrupt()))


def test_one_cause_is_one_failure():
    assert failures_of(lambda data: [][0]) == ["IndexError (list index out of range)"]


def test_what_is_allocated_and_never_touched():
    assert [f.split()[0] for f in failures_of(lambda data: bytes(1 << 30))] == ["MemoryError"]


def test_what_is_allocated(monkeypatch):
    monkeypatch.setattr(run, "MOST_BYTES", 20 << 20)
    np.ones((60 << 20) // 8)
    assert failures_of(lambda data: np.ones((30 << 20) // 8)) == ["more than 20 MiB"]


def test_time_of_a_first_look_only(monkeypatch):
    monkeypatch.setattr(run, "MOST_SECONDS", 0.01)
    sums = cache(lambda: sum(range(10_000_000)))
    assert failures_of(lambda data: sums()) == ["slower than 0.01 s"]


def test_waiting(monkeypatch):
    monkeypatch.setattr(run, "MOST_SECONDS", 0.01)
    assert failures_of(lambda data: Event().wait(0.02)) == ["slower than 0.01 s"]


def test_a_machine_that_was_busy_once(monkeypatch):
    monkeypatch.setattr(run, "MOST_SECONDS", 0.01)
    waits = cache(lambda: Event().wait(0.02))
    assert failures_of(lambda data: waits()) == []


def test_a_failure_can_be_repeated():
    def parse(data):
        if len(data) > 20:
            raise ValueError

    target = Target([], bytes_like([b"abc", b"defghi"]), parse)
    (failure,) = fuzz(target, 1000, "x").failures.values()
    assert nth_input(target, failure.number, "x") == failure.data
    assert len(failure.data) > 20


def test_wrong_seeds_are_refused():
    with pytest.raises(CodecError):
        fuzz(Target([b"a"], bytes_like([b"a"]), raising(CodecError("x", "y"))), 1, "x")


def test_a_limit_of_seconds():
    findings = fuzz(Target([], bytes_like([b"abc"]), len), 10**9, "x", seconds=0.05)
    assert 0 < findings.inputs < 10**9


@pytest.mark.parametrize(
    "mutate",
    [
        bytes_like([b"abc", b"defghi"]),
        json_like([{"a": [1, {"b": None}]}]),
        sql_like([b"f(`a`, 'b') + 1"], [b"x"]),
    ],
)
def test_inputs_differ_and_come_again(mutate):
    first, second = random.Random("seed"), random.Random("seed")
    inputs = [mutate(first) for _ in range(200)]
    assert inputs == [mutate(second) for _ in range(200)]
    assert len(set(inputs)) > 100


def test_documents_are_not_changed_in_place():
    rng, document = random.Random(1), {"a": [1, {"b": [2, 3]}]}
    assert all(changed_json(rng, document) is not document for _ in range(100))
    assert document == {"a": [1, {"b": [2, 3]}]}
