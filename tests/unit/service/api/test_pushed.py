"""Conversion of requests to pushed-down operations: literals by their texts, invalid literals."""

import math
from decimal import Decimal

import pytest

from pyspark_theflash.base.errors import OptionError, UnsupportedError
from pyspark_theflash.read.pushdown import term
from pyspark_theflash.service.api.pushed import (
    SEALED_BYTES_MAX,
    pushed_of,
    sealed_request,
    sealed_text,
)
from pyspark_theflash.service.wire.message import Expression, Literal, PlanRequest, SortKey
from tests.support.pushed_cases import call, column, literal


def value_of(term):
    pushed = pushed_of(PlanRequest(filter=call("=", column("a"), term)))
    return pushed.filter.arguments[1].value


@pytest.mark.parametrize(
    ("term", "expected"),
    [
        (literal("null"), None),
        (literal("bool", "true"), True),
        (literal("bool", "false"), False),
        (literal("int", "-9223372036854775809"), -(2**63) - 1),
        (literal("int", "+5"), 5),
        (literal("double", "1.0E10"), 1e10),
        (literal("double", "-Infinity"), -math.inf),
        (literal("double", "4.9E-324"), 5e-324),
        (literal("float", "0.1"), 0.10000000149011612),
        (literal("float", "3.4028235E38"), 3.4028234663852886e38),
        (literal("decimal", "-0.50"), Decimal("-0.50")),
        (literal("decimal", "9" * 38), Decimal("9" * 38)),
        (literal("decimal", ".5"), Decimal("0.5")),
        (literal("string", "\N{SNOWMAN}"), "\N{SNOWMAN}"),
        (literal("binary", data=b"\xff"), b"\xff"),
        (literal("date", "-719162"), -719162),
        (literal("timestamp_ntz", "253402300799999999"), 253402300799999999),
    ],
)
def test_literals(term, expected):
    value = value_of(term)
    assert (type(value), str(value)) == (type(expected), str(expected))


def test_a_float_that_is_none():
    assert math.isnan(value_of(literal("double", "NaN")))


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("int", ""),
        ("int", "1.0"),
        ("int", "1_000"),
        ("int", " 1"),
        ("int", "٣"),
        ("int", "9" * 101),
        ("decimal", "1e5"),
        ("decimal", "NaN"),
        ("decimal", "."),
        ("decimal", "-"),
        ("double", "one"),
        ("float", ""),
        ("bool", "1"),
        ("date", "2020-01-01"),
        ("date", str(1 << 31)),
        ("timestamp", str(1 << 63)),
        ("timestamp_ntz", str((-1 << 63) - 1)),
        ("duration", "9" * 31),
    ],
)
def test_what_is_no_literal(kind, text):
    with pytest.raises(OptionError, match=f"not of type {kind}"):
        value_of(literal(kind, text))


@pytest.mark.parametrize("term", [literal("interval", "1"), literal("")])
def test_types_that_there_are_not(term):
    with pytest.raises(UnsupportedError):
        value_of(term)


def test_a_column_is_sorted_by_once():
    names = ("a", "b", "A", "b")
    keys = tuple(SortKey(name, descending=at > 1) for at, name in enumerate(names))
    assert pushed_of(PlanRequest(order=keys, limit=1)).order == (
        term.SortKey("a"),
        term.SortKey("b"),
    )


def test_a_literal_without_a_value():
    with pytest.raises(OptionError):
        value_of(Expression("literal"))


def test_what_is_not_known_stays_a_call():
    """The types of its arguments determine whether it can be evaluated."""
    pushed = pushed_of(PlanRequest(filter=call("sounds like", column("a"), column("b"))))
    assert pushed.filter == term.FunctionTerm(
        "sounds like", (term.ColumnTerm("a"), term.ColumnTerm("b"))
    )


def test_sealed_requests_come_back():
    request = PlanRequest(filter=call("in", column("a"), literal("int", "1")), limit=5)
    assert sealed_request(sealed_text(request)) == request
    assert sealed_request("") == PlanRequest()


def test_what_is_too_large_for_a_ticket():
    long = Expression("literal", literal=Literal("string", "x" * SEALED_BYTES_MAX))
    with pytest.raises(UnsupportedError, match="bytes"):
        sealed_text(PlanRequest(filter=call("=", column("a"), long)))
