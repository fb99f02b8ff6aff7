"""Rows are evaluated in slices, which become smaller if they need too much memory."""

import pytest

from pyspark_theflash.base.budget import Budget
from pyspark_theflash.base.errors import CallCancelledError, SqlMemoryError
from pyspark_theflash.tidb.expression.allowance import in_slices, reserve

WHERE = "where"


def test_slices_are_halved_until_they_fit() -> None:
    evaluated: list[tuple[int, int]] = []

    def evaluate(start: int, count: int) -> int:
        reserve(100 * count)
        evaluated.append((start, count))
        return count

    # A quarter of the budget is for one slice: three rows.
    assert list(in_slices(10, Budget(1200), WHERE, evaluate)) == [2, 2, 2, 2, 2]
    assert evaluated == [(0, 2), (2, 2), (4, 2), (6, 2), (8, 2)]


def test_one_row_may_use_the_whole_budget() -> None:
    def evaluate(_: int, count: int) -> None:
        reserve(1000 * count)

    assert list(in_slices(2, Budget(1000), WHERE, evaluate)) == [None, None]
    with pytest.raises(SqlMemoryError):
        list(in_slices(2, Budget(999), WHERE, evaluate))


def test_a_request_ends_between_slices() -> None:
    evaluated: list[int] = []

    def check() -> None:
        if len(evaluated) == 2:
            raise CallCancelledError("Scan")

    with pytest.raises(CallCancelledError):
        list(in_slices(9, Budget(check=check), WHERE, lambda at, _: evaluated.append(at), 3))
    assert evaluated == [0, 3]
