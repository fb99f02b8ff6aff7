"""The runner finds what it is there to find."""

import random

import numpy as np
import pytest

from pyspark_theflash.errors import CodecError, InternalError
from tests.fuzz import run
from tests.fuzz.mutate import bytes_like, changed_json, json_like, sql_like
from tests.fuzz.run import Target, fuzz


def failures_of(parse):
    return list(fuzz(Target([], bytes_like([b"abc"]), parse), 20, "x").failures)


def raising(error):
    def parse(data):
        raise error

    return parse


def test_typed_errors_are_none():
    found = fuzz(Target([], bytes_like([b"abc"]), raising(CodecError("x", "y"))), 20, "x")
    assert not found.failures
    assert found.outcomes == {"CodecError": 20}


@pytest.mark.parametrize("error", [InternalError("x"), ValueError("x"), SystemExit(1)])
def test_other_errors(error):
    (what,) = failures_of(raising(error))
    assert what.startswith(type(error).__name__)


def test_one_cause_is_one_failure():
    assert failures_of(lambda data: [][0]) == ["IndexError (list index out of range)"]


def test_what_is_allocated_and_never_touched():
    assert [f.split()[0] for f in failures_of(lambda data: bytes(1 << 30))] == ["MemoryError"]


def test_what_is_allocated():
    # Above whatever this process has used before; it may be more than can be had.
    floats = run._peak_bytes() // 8 + (300 << 20) // 8
    found = fuzz(Target([], bytes_like([b"abc"]), lambda data: np.ones(floats)), 1, "x")
    assert len(found.failures) == 1


def test_time(monkeypatch):
    monkeypatch.setattr(run, "MOST_SECONDS", 0.0)
    assert failures_of(len) == ["slower than 0.0 s"]


def test_wrong_seeds_are_refused():
    with pytest.raises(CodecError):
        fuzz(Target([b"a"], bytes_like([b"a"]), raising(CodecError("x", "y"))), 1, "x")


def test_a_limit_of_seconds():
    found = fuzz(Target([], bytes_like([b"abc"]), len), 10**9, "x", seconds=0.05)
    assert 0 < found.inputs < 10**9


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
