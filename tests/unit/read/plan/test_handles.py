"""Ranges of an integer primary key derived from conditions: never too small."""

import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyspark_theflash.read.plan.condition import Condition
from pyspark_theflash.read.plan.handles import HandleRanges, node_of
from pyspark_theflash.read.pushdown import term
from pyspark_theflash.read.pushdown.term import LiteralKind, Term
from pyspark_theflash.testing.stores import column, id_column, table_info
from pyspark_theflash.tidb.codec.field_type import ColumnFlag, MySQLType

NAME = column("name", MySQLType.VARCHAR, collate="utf8mb4_bin")
SIGNED = table_info(1, "d.signed", [id_column(), NAME])
UNSIGNED_KEY = column(
    "id", MySQLType.LONGLONG, flag=ColumnFlag.NOT_NULL | ColumnFlag.PRI_KEY | ColumnFlag.UNSIGNED
)
UNSIGNED = table_info(2, "d.unsigned", [UNSIGNED_KEY, NAME])
WITHOUT = table_info(3, "d.without", [id_column(), NAME], has_rowid=True)


def reaches(text: str, start: Any, end: Any, table: Any = SIGNED) -> bool:
    return HandleRanges([Condition.parse(text, table).expression.tree], table).reach(start, end)


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("id = 5", [(5, 6), (None, 6), (5, None), (None, None)], [(6, 7), (None, 5), (6, None)]),
        ("5 = id", [(5, 6)], [(6, 7)]),
        ("id < 5", [(4, 5), (None, -9)], [(5, None)]),
        ("id <= 5", [(5, 6)], [(6, None)]),
        ("id > -5", [(-4, 0)], [(None, -4)]),
        ("-5 >= id", [(-5, -4)], [(-4, None)]),
        ("id between 3 and 4", [(4, 9)], [(5, 9), (0, 3)]),
        ("id in (1, 100)", [(0, 2), (50, 101)], [(2, 100), (101, None)]),
        ("id >= 3 and id < 3", [], [(None, None)]),
        ("id >= 3 and name = 'x' and id < 9", [(8, 9)], [(9, None), (None, 3)]),
        ("id = 1 or id = 8", [(8, 9)], [(2, 8)]),
        ("id = 1 or name = 'x'", [(2, 8)], []),
        ("not id = 1", [(1, 2)], []),
        ("id = '5'", [(6, 7)], []),
        ("id < 2.5", [(6, 7)], []),
        ("id + 1 = 5", [(6, 7)], []),
        ("name is null", [(6, 7)], []),
        ("id > 9223372036854775807", [], [(None, None)]),
    ],
)
def test_signed(text: str, inside: list[Any], outside: list[Any]) -> None:
    assert all(reaches(text, *bounds) for bounds in inside)
    assert not any(reaches(text, *bounds) for bounds in outside)


def test_unsigned_keys_lie_as_their_bits_do() -> None:
    assert reaches("id = 18446744073709551615", -1, 0, UNSIGNED)
    assert not reaches("id = 18446744073709551615", 0, None, UNSIGNED)
    assert not reaches("id < 9223372036854775808", None, 0, UNSIGNED)
    assert reaches("id >= 9223372036854775807", None, -(2**62), UNSIGNED)
    assert not reaches("id >= 9223372036854775807", 0, 5, UNSIGNED)
    assert not reaches("id < -1", None, None, UNSIGNED)
    assert reaches("id > -1", -5, -4, UNSIGNED)


def test_where_the_key_is_no_handle_everything_is_in_reach() -> None:
    assert reaches("id = 5", 6, 7, WITHOUT)
    assert reaches("id = 5", b"\x01", b"\x02")
    assert HandleRanges([], SIGNED).reach(6, 7)


NUMBERS = st.sampled_from([-(2**63), -7, -1, 0, 1, 2, 7, 2**63 - 1])
UNSIGNED_NUMBERS = st.sampled_from([0, 1, 2, 7, 2**63 - 1, 2**63, 2**63 + 1, 2**64 - 1])


@st.composite
def conditions(draw: st.DrawFn, numbers: st.SearchStrategy[int], depth: int = 3) -> str:
    """Generate a condition that Python can evaluate, too."""
    if depth and draw(st.booleans()):
        left, right = (draw(conditions(numbers, depth - 1)) for _ in range(2))
        return f"({left} {draw(st.sampled_from(['and', 'or']))} {right})"
    comparison = draw(st.sampled_from(["<", "<=", ">", ">=", "<>"]))
    operands = ["id", str(draw(numbers))]
    return f" {comparison} ".join(operands if draw(st.booleans()) else operands[::-1])


def check(text: str, values: list[int], table: Any) -> None:
    ranges = pickle.loads(
        pickle.dumps(HandleRanges([Condition.parse(text, table).expression.tree], table))
    )
    for value in values:
        is_true = eval(text.replace("<>", "!="), {"id": value})
        handle = value - 2**64 if value >= 2**63 else value
        # `<>` is ignored, so ranges may be too large.
        if is_true or "<>" not in text:
            end = None if handle == 2**63 - 1 else handle + 1
            assert ranges.reach(handle, end) == is_true


@given(conditions(NUMBERS), st.lists(NUMBERS))
def test_signed_keys_are_as_the_condition_says(text: str, values: list[int]) -> None:
    check(text, values, SIGNED)


@given(conditions(UNSIGNED_NUMBERS), st.lists(UNSIGNED_NUMBERS))
def test_unsigned_keys_are_as_the_condition_says(text: str, values: list[int]) -> None:
    check(text, values, UNSIGNED)


def column_(name: str) -> Term:
    return term.ColumnTerm(name)


def number(value: Any, kind: LiteralKind = LiteralKind.INT) -> Term:
    return term.LiteralTerm(kind, value)


def call(name: str, *arguments: Term) -> Term:
    return term.FunctionTerm(name, arguments)


ID = column_("ID")


@pytest.mark.parametrize(
    ("filter", "inside", "outside"),
    [
        (call("=", ID, number(5)), [(5, 6)], [(6, 7), (None, 5)]),
        (call("<=>", number(5), ID), [(5, 6)], [(6, 7), (None, 5)]),
        (call("in", ID, number(1), number(100)), [(0, 2)], [(2, 100)]),
        (
            call(
                "and",
                call(">", ID, number(3)),
                call("is null", column_("name")),
                call("<", ID, number(9)),
            ),
            [(4, 5)],
            [(9, None), (None, 4)],
        ),
        (call("or", *(call("=", ID, number(n)) for n in (1, 5, 9))), [(5, 6)], [(2, 5), (6, 9)]),
        (call("not", call("=", ID, number(1))), [(1, 2)], []),
        (call("=", ID, number(None, LiteralKind.NULL)), [(1, 2)], []),
        (call("in", ID, number(1), number(None, LiteralKind.NULL)), [(5, 6)], []),
        (call("=", ID, number(1.0, LiteralKind.DOUBLE)), [(5, 6)], []),
        (call("=", ID, number(True, LiteralKind.BOOL)), [(5, 6)], []),
        (call("is not null", ID), [(5, 6)], []),
        (call(">", ID, number(2**70)), [], [(None, None)]),
    ],
)
def test_filters(filter: Term, inside: list[Any], outside: list[Any]) -> None:
    ranges = HandleRanges([node_of(filter)], SIGNED)
    assert all(ranges.reach(*bounds) for bounds in inside)
    assert not any(ranges.reach(*bounds) for bounds in outside)


def test_several_conditions_hold_at_once() -> None:
    where = Condition.parse("id > 5", SIGNED).expression.tree
    ranges = HandleRanges([where, node_of(call("<", ID, number(9)))], SIGNED)
    assert ranges.reach(6, 7)
    assert not ranges.reach(9, None)
    assert not ranges.reach(None, 6)
