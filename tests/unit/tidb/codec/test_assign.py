"""Assignment of values to columns: what TiDB stores in strict mode, or an error."""

from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from pyspark_theflash.base.errors import ColumnValueError
from pyspark_theflash.tidb.codec.arrow import arrow_type
from pyspark_theflash.tidb.codec.assign import assign, shown_type
from pyspark_theflash.tidb.codec.field_type import ColumnFlag, FieldType, MySQLType

UNSIGNED = int(ColumnFlag.UNSIGNED)
TINY, INT = FieldType(MySQLType.TINY), FieldType(MySQLType.LONG)
UINT = FieldType(MySQLType.LONGLONG, UNSIGNED)
DECIMAL = FieldType(MySQLType.NEWDECIMAL, 0, 5, 2)
FLOAT, DOUBLE = FieldType(MySQLType.FLOAT), FieldType(MySQLType.DOUBLE)
VARCHAR = FieldType(MySQLType.VARCHAR, 0, 3, -1, "utf8mb4")
CHAR = FieldType(MySQLType.STRING, 0, 3, -1, "utf8mb4")
TEXT = FieldType(MySQLType.TINY_BLOB, 0, 4, -1, "utf8mb4")
BINARY = FieldType(MySQLType.STRING, 0, 3, -1, "binary")
DATE, DATETIME = FieldType(MySQLType.DATE), FieldType(MySQLType.DATETIME)
TIMESTAMP, TIME = FieldType(MySQLType.TIMESTAMP, 0, -1, 3), FieldType(MySQLType.TIME)
BIT, YEAR = FieldType(MySQLType.BIT, 0, 3), FieldType(MySQLType.YEAR, UNSIGNED)
ENUM = FieldType(MySQLType.ENUM, elems=("x", "a"))
JSON = FieldType(MySQLType.JSON)
NOON = datetime(2024, 1, 2, 12, 0, 0, 600_000)


@pytest.mark.parametrize(
    ("given", "tp", "stored"),
    [
        ([1, -128, None], TINY, [1, -128, None]),
        ([True, False], INT, [1, 0]),
        ([Decimal("2.5"), Decimal("-2.5"), Decimal("9.5")], INT, [3, -3, 10]),
        ([2.5, 3.5], INT, [2, 4]),
        (["12"], INT, [12]),
        (pa.array([2**64 - 1], pa.uint64()), UINT, [2**64 - 1]),
        ([Decimal("1.005"), Decimal("-1.005")], DECIMAL, [Decimal("1.01"), Decimal("-1.01")]),
        ([1.005, 2.5], DECIMAL, [Decimal("1.01"), Decimal("2.50")]),
        (["-7"], DECIMAL, [Decimal("-7.00")]),
        ([Decimal("0.1"), Decimal("123456789012345678.9")], DOUBLE, [0.1, 123456789012345678.9]),
        (["äöü", None], VARCHAR, ["äöü", None]),
        ([1, 20], VARCHAR, ["1", "20"]),
        ([1.5, 1.0], VARCHAR, ["1.5", "1"]),
        (["a  "], CHAR, ["a"]),
        (pa.array(["a", "b"]).dictionary_encode(), VARCHAR, ["a", "b"]),
        (["a"], BINARY, [b"a\0\0"]),
        (["2024-02-29"], DATE, [date(2024, 2, 29)]),
        ([datetime(2024, 1, 2)], DATE, [date(2024, 1, 2)]),
        ([NOON, None], DATETIME, [datetime(2024, 1, 2, 12, 0, 1), None]),
        ([date(2024, 1, 2)], DATETIME, [datetime(2024, 1, 2)]),
        (["-10:00:00"], TIME, [-timedelta(hours=10)]),
        ([pa.MonthDayNano([0, 0, 25 * 3600 * 10**9])], TIME, [timedelta(hours=25)]),
        ([5], BIT, [5]),
        ([b"\x05"], BIT, [5]),
        ([2024, 0], YEAR, [2024, 0]),
        (["a"], ENUM, [2]),
        (pa.nulls(2), JSON, [None, None]),
    ],
)
def test_stored(given: Any, tp: FieldType, stored: list[Any]) -> None:
    values = given if isinstance(given, pa.Array) else pa.array(given)
    assigned = assign(values, tp, "t.c")
    assert (assigned.type, assigned.to_pylist()) == (arrow_type(tp), stored)


@pytest.mark.parametrize(
    ("given", "tp"),
    [
        ([128], TINY),
        ([-1], UINT),
        ([1e30], INT),
        ([float("nan")], INT),
        (["x"], INT),
        (["1.5"], INT),
        ([b"1"], INT),
        ([Decimal("999.995")], DECIMAL),
        ([float("inf")], DECIMAL),
        (["1e400"], DECIMAL),
        ([1e39], FLOAT),
        (["abcd"], VARCHAR),
        ([b"\xff"], VARCHAR),
        ([date(2024, 1, 1)], VARCHAR),
        (["aéé"], TEXT),
        (["abcd"], BINARY),
        (["2023-02-29"], DATE),
        (["0000-00-00"], DATE),
        (["2024-1-2"], DATE),
        ([NOON], DATE),
        ([20240102], DATE),
        (["1970-01-01 00:00:00"], TIMESTAMP),
        (["2038-01-19 03:14:08"], TIMESTAMP),
        ([pa.MonthDayNano([0, 0, 839 * 3600 * 10**9])], TIME),
        ([pa.MonthDayNano([0, 1, 0])], TIME),
        ([8], BIT),
        ([1900], YEAR),
        (["b"], ENUM),
        ([""], ENUM),
        (["{"], JSON),
        ([None], FieldType(MySQLType.LONG, int(ColumnFlag.NOT_NULL))),
    ],
)
def test_rejected(given: list[Any], tp: FieldType) -> None:
    with pytest.raises(ColumnValueError, match=r"^column t\.c: ") as caught:
        assign(pa.array(given), tp, "t.c")
    assert caught.value.__cause__ is None
    assert str(caught.value).endswith(("NOT NULL", f"not valid for {shown_type(tp)}"))
