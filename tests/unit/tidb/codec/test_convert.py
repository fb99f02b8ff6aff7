"""Changes of type by example: those of the docstrings, nulls, errors."""

from collections.abc import Sequence
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal as D
from typing import Any

import pyarrow as pa
import pytest

from pyspark_theflash.base.errors import UnsupportedError
from pyspark_theflash.tidb.codec.arrow import arrow_type
from pyspark_theflash.tidb.codec.change import ReorgSession
from pyspark_theflash.tidb.codec.convert import convert_column
from pyspark_theflash.tidb.codec.field_type import ColumnFlag, FieldType, MySQLType

T = MySQLType
INT = FieldType(T.LONG, 0, 11, 0, "binary", "binary")
INT_UNSIGNED = FieldType(T.LONG, ColumnFlag.UNSIGNED, 10, 0, "binary", "binary")
TINYINT_UNSIGNED = FieldType(T.TINY, ColumnFlag.UNSIGNED, 3, 0, "binary", "binary")
BIGINT = FieldType(T.LONGLONG, 0, 20, 0, "binary", "binary")
YEAR = FieldType(T.YEAR, ColumnFlag.UNSIGNED, 4, 0, "binary", "binary")
DOUBLE = FieldType(T.DOUBLE, 0, 22, -1, "binary", "binary")
DATE = FieldType(T.DATE, 0, 10, 0, "binary", "binary")
TIME = FieldType(T.TIME, 0, 10, 0, "binary", "binary")
TIME6 = FieldType(T.TIME, 0, 17, 6, "binary", "binary")
DATETIME = FieldType(T.DATETIME, 0, 19, 0, "binary", "binary")
DATETIME6 = FieldType(T.DATETIME, 0, 26, 6, "binary", "binary")
TIMESTAMP = FieldType(T.TIMESTAMP, 0, 19, 0, "binary", "binary")
TIMESTAMP6 = FieldType(T.TIMESTAMP, 0, 26, 6, "binary", "binary")
JSON = FieldType(T.JSON, 0, -1, 0, "binary", "binary")
EARLY, LATE = datetime(2020, 1, 2, 3, 4, 5, 499999), datetime(2020, 12, 31, 23, 59, 59, 500000)


def seconds(number: float) -> timedelta:
    return timedelta(seconds=number)


def decimal(precision: int, scale: int) -> FieldType:
    return FieldType(T.NEWDECIMAL, 0, precision, scale, "binary", "binary")


def varchar(length: int, charset: str = "utf8mb4") -> FieldType:
    return FieldType(T.VARCHAR, 0, length, 0, charset, f"{charset}_bin")


def char(length: int) -> FieldType:
    return FieldType(T.STRING, 0, length, 0, "utf8mb4", "utf8mb4_bin")


def binary(length: int) -> FieldType:
    return FieldType(T.STRING, ColumnFlag.BINARY, length, 0, "binary", "binary")


def varbinary(length: int) -> FieldType:
    return FieldType(T.VARCHAR, ColumnFlag.BINARY, length, 0, "binary", "binary")


def tiny_text(charset: str = "utf8mb4") -> FieldType:
    return FieldType(T.TINY_BLOB, 0, 255, 0, charset, f"{charset}_bin")


def enum(*elements: str) -> FieldType:
    return FieldType(T.ENUM, 0, 1, 0, "utf8mb4", "utf8mb4_bin", elements)


def set_of(*elements: str) -> FieldType:
    return FieldType(T.SET, 0, 1, 0, "utf8mb4", "utf8mb4_bin", elements)


UTC = ReorgSession("UTC", 0, 0, 0, 0)


def convert(
    values: Sequence[Any], old: FieldType, new: FieldType, session: ReorgSession | None = UTC
) -> list[Any]:
    result = convert_column(pa.array(values, arrow_type(old)), old, new, "column d.t.c", session)
    assert result.type == arrow_type(new)
    return result.to_pylist()


def test_a_set_of_many_names() -> None:
    names = ",".join(str(n) for n in range(150_000))
    # In quadratic time, this would take minutes.
    assert convert([names, "," * 900_000, "b,a,b"], varchar(1 << 20), set_of("a", "b")) == [0, 0, 3]


@pytest.mark.parametrize(
    ("old", "new", "values", "wanted"),
    [
        (INT, BIGINT, [-(2**31), 0], [-(2**31), 0]),
        (INT, INT_UNSIGNED, [-1, 5], [0, 5]),
        (BIGINT, TINYINT_UNSIGNED, [-1, 300], [0, 255]),
        (BIGINT, INT, [2**40, -(2**40)], [2**31 - 1, -(2**31)]),
        (DOUBLE, INT, [0.5, 1.5, 2.5, -0.5, 1e300], [0, 2, 2, 0, 2**31 - 1]),
        (decimal(3, 1), INT, [D("0.5"), D("2.5"), D("-0.5")], [1, 3, -1]),
        (varchar(9), INT, ["12abc", "2.5", "1e2", "x", " 7 "], [12, 3, 100, 0, 7]),
        (varchar(9), INT_UNSIGNED, ["-1", "1"], [None, 1]),
        (INT, decimal(3, 1), [5, 100, -100], [D("5.0"), D("99.9"), D("-99.9")]),
        (decimal(4, 2), decimal(3, 1), [D("1.25"), D("-1.25")], [D("1.3"), D("-1.3")]),
        (DOUBLE, decimal(5, 2), [1.005, 1e9], [D("1.01"), D("999.99")]),
        (INT, DOUBLE, [-3], [-3.0]),
        (INT, YEAR, [0, 5, 70, 1900, 2020], [0, 2005, 1970, 1901, 2020]),
        (varchar(4), YEAR, ["0", "0000", "99"], [2000, 0, 1999]),
        (INT, varchar(2), [7, 100, -10], ["7", "10", "-1"]),
        (DOUBLE, varchar(30), [1e20, 0.1, 1e-7], ["100000000000000000000", "0.1", "0.0000001"]),
        (YEAR, char(4), [0, 2020], ["0", "2020"]),
        (varchar(9), char(3), ["a  ", "abcd", "é🙂好x"], ["a", "abc", "é🙂好"]),
        (varchar(9), binary(3), ["a", "é!!"], [b"a\0\0", "é!".encode()]),
        (binary(3), varchar(9), [b"a\0\0"], ["a\0\0"]),
        (varbinary(9), varchar(3), [b"abcd", b"abcd\xff"], ["abc", "abcd"]),
        (varchar(9), varchar(9, "ascii"), ["a", "é?"], ["a", "é?"]),
        (varchar(9), varchar(8, "ascii"), ["a", "é?"], ["a", "??"]),
        (varchar(999), tiny_text(), ["é" * 200], ["é" * 127]),
        (varchar(100), tiny_text(), ["好" * 100], ["好" * 100]),
        (DATETIME6, DATE, [LATE], [date(2020, 12, 31)]),
        (DATETIME6, DATETIME, [EARLY, LATE], [EARLY.replace(microsecond=0), datetime(2021, 1, 1)]),
        (DATETIME6, BIGINT, [LATE], [2021_01_01_00_00_00]),
        (DATETIME6, decimal(20, 6), [LATE], [D("20201231235959.500000")]),
        (DATETIME, TIME, [EARLY.replace(microsecond=0)], [seconds(11045)]),
        (DATE, INT, [date(2020, 1, 2)], [2020_01_02]),
        (DATE, YEAR, [date(2020, 1, 2)], [2020]),
        (DATE, DATETIME, [date(2020, 1, 2)], [datetime(2020, 1, 2)]),
        (INT, DATE, [20200102, 200102], [date(2020, 1, 2), date(2020, 1, 2)]),
        (varchar(30), DATE, ["20-1-2", "2020/01/02 10.00"], [date(2020, 1, 2)] * 2),
        (TIME6, TIME, [seconds(1.5), seconds(-1.5)], [seconds(2), seconds(-1)]),
        (TIME, INT, [-timedelta(hours=12, minutes=3)], [-12_03_00]),
        (INT, TIME, [12_03_00, -9_00_00_00], [timedelta(hours=12, minutes=3), None]),
        (varchar(30), TIME, ["1 2:03", "99"], [timedelta(days=1, hours=2, minutes=3), timedelta()]),
        (enum("a", "b"), varchar(9), [0, 1, 2], ["", "a", "b"]),
        (enum("a", "b"), enum("a", "b", "c"), [0, 1, 2], [0, 1, 2]),
        (enum("a", "b"), enum("b", "c"), [0, 1, 2], [0, 0, 1]),
        (enum("a", "b"), set_of("b", "a"), [0, 1, 2], [0, 2, 1]),
        (enum("a", "b"), INT, [0, 2], [0, 2]),
        (set_of("a", "b"), varchar(9), [0, 3], ["", "a,b"]),
        (varchar(9), enum("a", "b"), ["b", "2", "0x1", "c", ""], [2, 2, 1, 0, 0]),
        (varchar(9), set_of("a", "b"), ["b,a", "3", "c", ""], [3, 3, 0, 0]),
        (INT, enum("a", "b"), [1, 3, -1], [1, 0, 0]),
        (INT, FieldType(T.BIT, 0, 3), [5, 8, -1], [5, 7, 7]),
        (FieldType(T.BIT, 0, 3), varchar(9), [5], ["5"]),
    ],
)  # fmt: skip
def test_values(old: FieldType, new: FieldType, values: list[Any], wanted: list[Any]) -> None:
    assert convert(values, old, new) == wanted
    assert convert([None, *values, None], old, new) == [None, *wanted, None]
    assert convert([], old, new) == []
    assert convert([None], old, new) == [None]


def test_part_of_an_array() -> None:
    values = pa.array(["x", "1", None, "2", "y"]).slice(1, 3)
    assert convert_column(values, varchar(9), INT, "c").to_pylist() == [1, None, 2]


def test_timestamps_keep_to_utc() -> None:
    half_past = datetime(2020, 1, 2, 3, 4, 5, 500000, tzinfo=timezone.utc)
    wanted = datetime(2020, 1, 2, 3, 4, 6, tzinfo=timezone.utc)
    assert convert([half_past], TIMESTAMP6, TIMESTAMP) == [wanted]
    with pytest.raises(UnsupportedError, match="time zone"):
        convert([half_past], TIMESTAMP6, TIMESTAMP, session=None)
    assert convert([half_past], TIMESTAMP6, TIMESTAMP6) == [half_past]


NEW_YORK = ("America/New_York", 0)
EAST = ("UTC", 8 * 3600)


@pytest.mark.parametrize(
    ("zone", "old", "new", "value", "wanted"),
    [
        (NEW_YORK, TIMESTAMP, DATETIME, "2020-07-01T04:00:00Z", "2020-07-01T00:00:00"),
        (NEW_YORK, TIMESTAMP, varchar(30), "2020-01-01T04:00:00Z", "2019-12-31 23:00:00"),
        (NEW_YORK, DATETIME, TIMESTAMP, "2020-07-01T00:00:00", "2020-07-01T04:00:00Z"),
        # It occurs twice; Go uses the first one.
        (NEW_YORK, DATETIME, TIMESTAMP, "2021-11-07T01:30:00", "2021-11-07T05:30:00Z"),
        (EAST, DATETIME, TIMESTAMP, "2020-07-01T00:00:00", "2020-06-30T16:00:00Z"),
        (EAST, varchar(30), TIMESTAMP, "2020-07-01", "2020-06-30T16:00:00Z"),
        (EAST, TIME, DATETIME, timedelta(hours=-1), "2020-01-01T23:00:00"),
        (EAST, TIME, TIMESTAMP, timedelta(hours=25), "2020-01-02T17:00:00Z"),
        # A value out of range is kept if sql_mode is not strict.
        (EAST, DATETIME, TIMESTAMP, "1960-01-01T08:00:00", "1960-01-01T00:00:00Z"),
        (EAST, varchar(30), DATETIME, "2020-01-02 03:04:05.5+01:00", "2020-01-02T10:04:06"),
        # The clock that is set back shows an hour earlier.
        (NEW_YORK, DATETIME6, DATETIME, "2021-11-07T01:59:59.500000", "2021-11-07T01:00:00"),
        (NEW_YORK, TIMESTAMP6, TIMESTAMP, "2021-11-07T06:30:00Z", "2021-11-07T05:30:00Z"),
    ],
)
def test_what_the_session_tells(
    zone: tuple[str, int], old: FieldType, new: FieldType, value: Any, wanted: str
) -> None:
    """The column was changed at 2020-01-01 23:00 in UTC."""
    at_ms = 1577919600_000
    session = ReorgSession(*zone, at_ms, at_ms + 1000)
    if isinstance(value, str) and old.tp != T.VARCHAR:
        value = datetime.fromisoformat(value.replace("Z", "+00:00"))
    old_values = pa.array([value, None], arrow_type(old))
    converted = convert_column(old_values, old, new, "c", session)
    texts = [None if v is None else str(v) for v in converted.to_pylist()]
    shown = wanted.replace("T", " ").replace("Z", "+00:00")
    assert texts == [shown, None]


@pytest.mark.parametrize(
    ("old", "new", "value", "why", "session"),
    [
        (DATETIME, TIMESTAMP, "2021-03-14T02:30:00", "valid time", ReorgSession(*NEW_YORK, 0, 0)),
        (DATETIME6, TIMESTAMP, "1960-01-01T00:00:00.5", "more frac", ReorgSession(*EAST, 0, 0)),
        (DATETIME, TIMESTAMP, "9999-12-31T23:00:00", "valid time", ReorgSession(*NEW_YORK, 0, 0)),
        (DATETIME6, DATETIME, "9999-12-31T23:59:59.999999", "year 10000", UTC),
        (DATETIME, TIMESTAMP, "2020-01-01T00:00:00", "server's", ReorgSession("Local", 0, 0, 0)),
        (
            DATETIME,
            TIMESTAMP,
            "2020-01-01T00:00:00",
            "unknown time zone",
            ReorgSession("Mars/Base", 0, 0, 0),
        ),
        (TIME, DATETIME, timedelta(0), "two days", ReorgSession("UTC", 0, 0, 86_400_000)),
    ],
)
def test_what_not_even_the_session_tells(
    old: FieldType, new: FieldType, value: Any, why: str, session: ReorgSession
) -> None:
    moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    with pytest.raises(UnsupportedError, match=why):
        convert_column(pa.array([moment], arrow_type(old)), old, new, "c", session)


@pytest.mark.parametrize(
    ("old", "value", "wanted"),
    [
        (varchar(30), ' {"b": [1, 2.5], "a": null}', '{"a": null, "b": [1, 2.5]}'),
        (varchar(30), "{", None),
        (varbinary(9), b'"\xff"', '"\ufffd"'),
        (INT, -7, "-7"),
        (DOUBLE, 0.5, "0.5"),
        (decimal(4, 2), D("2.50"), "2.5"),
        (YEAR, 2020, "2020"),
        (FieldType(T.BIT, 0, 9), 65, r'"\u0000A"'),
        (DATE, date(2020, 1, 2), '"2020-01-02"'),
        (DATETIME, datetime(2020, 1, 2, 3, 4, 5), '"2020-01-02 03:04:05.000000"'),
        (TIMESTAMP, datetime(2020, 1, 2, tzinfo=timezone.utc), '"2020-01-02 00:00:00.000000"'),
        (TIME, -timedelta(hours=1), '"-01:00:00.000000"'),
        (enum("[1]", "x"), 1, "[1]"),
        (set_of("1", "2"), 2, "2"),
        (set_of("1", "2"), 3, None),
    ],
)
def test_to_json(old: FieldType, value: Any, wanted: str | None) -> None:
    as_json = convert_column(pa.array([value, None], arrow_type(old)), old, JSON, "c", UTC)
    assert convert_column(as_json, JSON, varchar(30), "c").to_pylist() == [wanted, None]


@pytest.mark.parametrize(
    ("text", "new", "wanted"),
    [
        ("true", INT, 1),
        ("[7]", INT, 0),
        ("2.5", INT, 2),
        ("1e300", INT, 2**31 - 1),
        ('"12abc"', INT, 12),
        ('"-5"', INT_UNSIGNED, 0),
        ("-5", INT_UNSIGNED, 0),
        ("null", DOUBLE, 0.0),
        ('"1e2"', DOUBLE, 100.0),
        ("18446744073709551615", decimal(25, 1), D("18446744073709551615.0")),
        ("0.125", decimal(4, 2), D("0.13")),
        ('"70"', YEAR, 1970),
        ('"2020-01-02 10:00"', DATE, date(2020, 1, 2)),
        (r'"\"2020-01-0\u0032\""', DATE, date(2020, 1, 2)),
        ("20200102", DATE, date(2020, 1, 2)),
        ('"1 2:03"', TIME, timedelta(days=1, hours=2, minutes=3)),
        (r'"\"\\\""', TIME, None),
    ],
)  # fmt: skip
def test_from_json(text: str, new: FieldType, wanted: Any) -> None:
    value = convert_column(pa.array([text, None]), varchar(30), JSON, "c")
    converted = convert_column(value, JSON, new, "c", UTC)
    assert converted.type == arrow_type(new)
    assert converted.to_pylist() == [wanted, None]


@pytest.mark.parametrize(
    ("old", "new", "value", "why"),
    [
        (TIMESTAMP, DATETIME, datetime(2020, 1, 2, tzinfo=timezone.utc), "time zone"),
        (TIMESTAMP, varchar(30), datetime(2020, 1, 2, tzinfo=timezone.utc), "time zone"),
        (DATETIME, TIMESTAMP, datetime(2020, 1, 2), "time zone"),
        (varchar(30), TIMESTAMP, "2020-01-02", "time zone"),
        (varchar(30), DATETIME, "2020-01-02 03:04:05+01:00", "time zone"),
        (varchar(30), DATE, "2020-02-31", "sql_mode"),
        (INT, DATE, 20210229, "sql_mode"),
        (TIME, DATETIME, timedelta(hours=1), "time zone"),
        (DOUBLE, TINYINT_UNSIGNED, 255.0, "2^64 - 1"),
        (varbinary(9), varchar(9, "latin1"), b"\xff", "not valid UTF-8"),
        (varchar(30), DATETIME, "2020-01-02 03:04:05.5", "time zone"),
        (DATETIME6, DATETIME, datetime(2020, 1, 2, 3, 59, 59, 500000), "time zone"),
        (DATETIME6, BIGINT, datetime(2020, 1, 2, 3, 59, 59, 500000), "time zone"),
        (TIMESTAMP, JSON, datetime(2020, 1, 2, tzinfo=timezone.utc), "time zone"),
        (JSON, TINYINT_UNSIGNED, b"\x0c\x03300", "outside the column's range"),
        (JSON, DATE, b"\x0c\x0a2020-02-30", "sql_mode"),
        (JSON, FieldType(T.BIT, 0, 3), b"\x04\x00", "a change of type from JSON to BIT"),
        (JSON, enum("a"), b"\x04\x00", "a change of type from JSON to ENUM"),
        (DATE, enum("a"), date(2020, 1, 2), "a change of type from DATE to ENUM"),
    ],
)
def test_what_the_values_do_not_tell(old: FieldType, new: FieldType, value: Any, why: str) -> None:
    with pytest.raises(UnsupportedError) as caught:
        convert([None, value], old, new, session=None)
    message = str(caught.value)
    assert message.startswith("column d.t.c: ")
    assert why in message


def test_null_became_a_time_in_timestamp_not_null() -> None:
    new = FieldType(T.TIMESTAMP, ColumnFlag.NOT_NULL, 19, 0)
    with pytest.raises(UnsupportedError, match="NULL became the time at which"):
        convert([None], DATETIME, new)
    assert convert([None], TIMESTAMP, new) == [None]


def test_unknown_collation_names_the_column() -> None:
    new = FieldType(T.ENUM, 0, 1, 0, "utf8mb4", "utf8mb4_klingon_ci", ("a",))
    with pytest.raises(UnsupportedError, match=r"column d\.t\.c: collation utf8mb4_klingon_ci"):
        convert(["a"], varchar(9), new)


def test_huge_texts_are_read_in_time() -> None:
    digits = "0" * 100_000 + "9" * 100_000
    texts = [
        digits,
        f"1e{digits}",
        f"0.{digits}",
        f"{digits}:{digits}",
        digits + "-1-1",
        "-" * 10**5,
    ]
    assert convert(texts, varchar(-1), BIGINT) == [2**63 - 1, 0, 0, 2**63 - 1, 2**63 - 1, 0]
    assert convert(["-0e" + "0" * 10_000 + "1"], varchar(-1), INT_UNSIGNED) == [None]
    assert convert(texts[:1], varchar(-1), decimal(5, 2)) == [D("999.99")]
    assert convert(texts[:1], varchar(-1), DOUBLE) == [1.7976931348623157e308]
    assert convert(texts[3:], varchar(-1), TIME) == [timedelta()] * 3
