"""Rows that pushed filters leave out early: never one that Spark would keep."""

from datetime import date
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from pyspark.sql.datasource import (
    EqualNullSafe,
    EqualTo,
    Filter,
    GreaterThan,
    In,
    IsNotNull,
    IsNull,
    LessThanOrEqual,
    Not,
    StringContains,
    StringStartsWith,
)

from pyspark_theflash.datasource.filters import prefilter

ROWS = pa.table(
    {
        "n": pa.array([1, 2, None, 4], pa.int32()),
        "s": pa.array(["ab", "b", None, "abc"]),
        "d": pa.array([date(2024, 1, day) for day in (1, 2, 3, 4)]),
        "m": pa.array([Decimal("1.10"), None, Decimal("3.00"), Decimal("-4.00")]),
        "f": pa.array([float("nan"), 1.0, None, 2.0]),
    }
)


@pytest.mark.parametrize(
    ("filters", "kept"),
    [
        ([EqualTo(("n",), 2)], [1]),
        ([EqualNullSafe(("n",), 2)], [1]),
        ([GreaterThan(("n",), 1), LessThanOrEqual(("d",), date(2024, 1, 3))], [1]),
        ([In(("n",), (1, 4, None))], [0, 3]),
        ([Not(In(("n",), (1, 4)))], [1, 2]),
        ([Not(EqualTo(("n",), 2))], [0, 3]),
        ([IsNull(("s",))], [2]),
        ([IsNotNull(("s",))], [0, 1, 3]),
        ([StringStartsWith(("s",), "ab")], [0, 3]),
        ([StringContains(("s",), "b"), Not(StringStartsWith(("s",), "abc"))], [0, 1]),
        ([GreaterThan(("m",), Decimal("1.00"))], [0, 2]),
    ],
)
def test_understood(filters: list[Filter], kept: list[int]) -> None:
    expression = prefilter(filters, ROWS.schema)
    numbered = ROWS.append_column("row", pa.array(range(len(ROWS))))
    assert numbered.filter(expression).column("row").to_pylist() == kept


@pytest.mark.parametrize(
    "left",
    [
        GreaterThan(("f",), 1.0),
        Not(EqualNullSafe(("n",), 2)),
        EqualTo(("n",), 2**40),
        EqualTo(("m",), Decimal("1.234")),
        EqualTo(("unknown",), 1),
        EqualTo(("s", "inner"), "x"),
        Not(IsNull(("n",))),
    ],
)
def test_left_to_spark(left: Any) -> None:
    assert prefilter([left], ROWS.schema) is None
