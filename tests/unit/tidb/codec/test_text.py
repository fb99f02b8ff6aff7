"""Text forms: values as TiDB formats them, and rejected texts."""

from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pyspark_theflash.base.errors import CodecError, UnsupportedError
from pyspark_theflash.tidb.codec.arrow import arrow_type
from pyspark_theflash.tidb.codec.field_type import ColumnFlag, FieldType, MySQLType
from pyspark_theflash.tidb.codec.text import format_column, parse_column
from tests.support.json_oracle import encode_json

T = MySQLType
UTF8 = "utf8mb4"
DECIMAL_7_7 = FieldType(T.NEWDECIMAL, flen=7, decimal=7)
ENUM = FieldType(T.ENUM, charset=UTF8, elems=("a", "bb", "c,c"))
SET = FieldType(T.SET, charset=UTF8, elems=("a", "b", "c", "d"))
SECONDS = 1_000_000

# (type, stored value, text): the same both ways.
FORMS = [
    (FieldType(T.TINY), -128, "-128"),
    (FieldType(T.LONGLONG, ColumnFlag.UNSIGNED), 2**64 - 1, "18446744073709551615"),
    (FieldType(T.LONG, ColumnFlag.UNSIGNED | ColumnFlag.ZEROFILL, flen=10), 7, "7"),
    (FieldType(T.YEAR), 0, "0000"),
    (FieldType(T.YEAR), 2155, "2155"),
    (FieldType(T.DOUBLE), 0.0, "0"),
    (FieldType(T.DOUBLE), 100.0, "100"),
    (FieldType(T.DOUBLE), 0.1, "0.1"),
    (FieldType(T.DOUBLE), -1.5e-7, "-0.00000015"),
    (FieldType(T.DOUBLE), 1e-15, "0.000000000000001"),
    (FieldType(T.DOUBLE), 9.5e-16, "9.5e-16"),
    (FieldType(T.DOUBLE), 1e14, "100000000000000"),
    (FieldType(T.DOUBLE), 999999999999999.9, "999999999999999.9"),
    (FieldType(T.DOUBLE), 1e15, "1e15"),
    (FieldType(T.DOUBLE), -1e100, "-1e100"),
    (FieldType(T.DOUBLE), 1.7976931348623157e308, "1.7976931348623157e308"),
    (FieldType(T.DOUBLE), 5e-324, "5e-324"),
    (FieldType(T.DOUBLE, flen=10, decimal=3), -225363.9, "-225363.9"),
    (FieldType(T.FLOAT), 0.1, "0.1"),
    (FieldType(T.FLOAT), 123456792.0, "123456790"),
    (FieldType(T.FLOAT), 3e-10, "0.0000000003"),
    (FieldType(T.FLOAT), 1e15, "1e15"),
    (FieldType(T.FLOAT), 3.4e38, "3.4e38"),
    (FieldType(T.FLOAT), 1e-38, "1e-38"),
    (FieldType(T.FLOAT, flen=7, decimal=4), -999.9999, "-999.9999"),
    (DECIMAL_7_7, Decimal("0.0000001"), "0.0000001"),
    (DECIMAL_7_7, Decimal("-0.0000001"), "-0.0000001"),
    (DECIMAL_7_7, Decimal(0), "0.0000000"),
    (FieldType(T.NEWDECIMAL, flen=4, decimal=4), Decimal("0.0712"), "0.0712"),
    (FieldType(T.NEWDECIMAL, flen=12, decimal=2), Decimal(-10), "-10.00"),
    (FieldType(T.NEWDECIMAL, flen=65, decimal=0), Decimal("9" * 65), "9" * 65),
    (FieldType(T.NEWDECIMAL, flen=30, decimal=30), Decimal("-1e-30"), "-0." + "0" * 29 + "1"),
    (FieldType(T.NEWDECIMAL), Decimal(5), "5"),
    (FieldType(T.DATE), -719162, "0001-01-01"),
    (FieldType(T.DATE), 2932896, "9999-12-31"),
    (FieldType(T.DATETIME), 0, "1970-01-01 00:00:00"),
    (FieldType(T.DATETIME, decimal=3), 500_000, "1970-01-01 00:00:00.500"),
    (FieldType(T.TIMESTAMP, decimal=6), 1, "1970-01-01 00:00:00.000001"),
    (FieldType(T.TIME), 0, "00:00:00"),
    (FieldType(T.TIME), -1 * SECONDS, "-00:00:01"),
    (FieldType(T.TIME), (838 * 3600 + 59 * 60 + 59) * SECONDS, "838:59:59"),
    (FieldType(T.TIME, decimal=2), -45296 * SECONDS - 780_000, "-12:34:56.78"),
    (FieldType(T.TIME, decimal=6), -1, "-00:00:00.000001"),
    (ENUM, 3, "c,c"),
    (ENUM, 0, ""),
    (SET, 0, ""),
    (SET, 0b1101, "a,c,d"),
    (FieldType(T.SET, elems=tuple(f"s{n}" for n in range(64))), 1 << 63, "s63"),
    (FieldType(T.VARCHAR, charset=UTF8), "日本 ", "日本 "),
    (FieldType(T.BLOB, charset="binary"), b"\x00\xff", b"\x00\xff"),
    (FieldType(T.BIT, flen=9), 5, b"\x00\x05"),
    (FieldType(T.BIT, flen=64), 2**64 - 1, b"\xff" * 8),
    (FieldType(T.JSON), encode_json({"b": [1, None], "a": 1.5}), '{"a": 1.5, "b": [1, null]}'),
    (FieldType(T.VECTOR), [], "[]"),
    (FieldType(T.VECTOR), [1.0, -0.5, 2.0**-40], "[1,-0.5,0.0000000000009094947]"),
    (FieldType(T.VECTOR), [3e38], "[300000000000000000000000000000000000000]"),
]


def stored(field_type: FieldType, value: object) -> "pa.Array[Any]":
    return pa.array([value], arrow_type(field_type))


@pytest.mark.parametrize(("field_type", "value", "text"), FORMS)
def test_forms(field_type: FieldType, value: object, text: str | bytes) -> None:
    values = stored(field_type, value)
    texts = format_column(values, field_type)
    assert texts.to_pylist() == [text]
    assert parse_column(texts, field_type, "c").equals(values)


@pytest.mark.parametrize(("field_type", "value", "text"), FORMS)
def test_nulls_and_slices(field_type: FieldType, value: object, text: str | bytes) -> None:
    del text
    one = stored(field_type, value)
    null = pa.nulls(1, one.type)
    values = pa.concat_arrays([one, null, one, null, one]).slice(1, 3)
    texts = format_column(values, field_type)
    assert texts.is_null().to_pylist() == [True, False, True]
    assert parse_column(texts, field_type, "c").equals(values)
    # A batch without any value may be text or bytes.
    for nothing in (pa.nulls(2, pa.string()), pa.nulls(0, pa.string()), pa.nulls(2, pa.binary())):
        parsed = parse_column(nothing, field_type, "c")
        assert parsed.equals(pa.nulls(len(nothing), one.type))
        assert format_column(parsed, field_type).null_count == len(nothing)


def test_a_float_with_an_exponent_has_six_digits() -> None:
    """As in TiDB: the text does not determine the value."""
    values = pa.array(np.array([1.17549435e-38, 3.4028235e38, 1.2000005e20], np.float32))
    expected = ["1.17549e-38", "3.40282e38", "1.2e20"]
    assert format_column(values, FieldType(T.FLOAT)).to_pylist() == expected


def test_enum_index_without_element_prints_as_empty() -> None:
    assert format_column(pa.array([4, 2**64 - 1], pa.uint64()), ENUM).to_pylist() == ["", ""]


def test_empty_text_is_the_element_where_there_is_one() -> None:
    field_type = FieldType(T.ENUM, elems=("a", ""))
    assert parse_column(pa.array([""]), field_type, "c").to_pylist() == [2]


def test_set_with_unknown_bits_is_refused() -> None:
    with pytest.raises(CodecError):
        format_column(pa.array([0b10000], pa.uint64()), SET)


def test_fewer_digits_than_the_type_has() -> None:
    """Column defaults in TableInfo look like this."""
    decimal = FieldType(T.NEWDECIMAL, flen=5, decimal=2)
    assert parse_column(pa.array(["0", "1.5"]), decimal, "c").to_pylist() == [0, Decimal("1.5")]
    time = FieldType(T.TIME, decimal=6)
    parsed = parse_column(pa.array(["00:00:01", "00:00:00.5"]), time, "c")
    assert parsed.cast(pa.int64()).to_pylist() == [SECONDS, SECONDS // 2]


@pytest.mark.parametrize(
    ("field_type", "texts"),
    [
        (
            FieldType(T.TINY),
            ["", " 1", "1 ", "1\n", "+1", "0x1F", "1.0", "128", "-129", "٣", "secret"],
        ),
        (FieldType(T.LONGLONG, ColumnFlag.UNSIGNED), ["-1", "18446744073709551616"]),
        (FieldType(T.DOUBLE), ["", "nan", "inf", "1e999", "0x1p3", ".5", "5.", "1e+5", "1E5"]),
        (FieldType(T.FLOAT), ["3.5e38"]),
        (FieldType(T.NEWDECIMAL, flen=4, decimal=2), ["1e1", "100", "0.001", ".5", "1,0", ""]),
        (
            FieldType(T.DATE),
            ["", "2024-1-01", "2024-13-01", "2024-01-32", "20240101", "2024-01-01 "],
        ),
        (FieldType(T.DATETIME), ["2024-01-01", "2024-01-01T00:00:00", "2024-01-01 24:00:00"]),
        (FieldType(T.TIMESTAMP), ["2024-01-01 00:00:00Z", "2024-01-01 00:00:00.1234567"]),
        (FieldType(T.TIME), ["839:00:00", "1:00:00", "00:60:00", "00:00:00.", "--01:00:00", ""]),
        (FieldType(T.YEAR), ["", "20 4", "99999"]),
        (ENUM, ["b", "A", "1", " "]),
        (SET, ["e", "a,", "a b", ",", "A"]),
        (FieldType(T.VARCHAR, charset="binary"), ["00"]),
        (FieldType(T.BIT, flen=9), [b"", b"\x01", b"\x02\x00", b"\x00\x00\x01"]),
        (FieldType(T.VARCHAR, charset=UTF8), [b"\x00"]),
        (FieldType(T.JSON), ["", "{", "secret", "[1,]", "1e999"]),
        (
            FieldType(T.VECTOR),
            ["", "[", "[1,]", "[,1]", "1", "[nan]", "[1e5]", "[ 1]", "[4" + "0" * 38 + "]"],
        ),
    ],
)
def test_bad_text_is_refused_without_showing_it(
    field_type: FieldType, texts: list[str | bytes]
) -> None:
    for text in texts:
        with pytest.raises(CodecError) as caught:
            parse_column(pa.array([None, text]), field_type, "db.t.c")
        assert "db.t.c" in str(caught.value)
        assert "secret" not in str(caught.value)
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    ("tp", "texts"),
    [
        (T.DATE, ["0000-00-00", "2020-00-01", "2020-02-30", "0000-01-01", "9999-12-00"]),
        (T.DATETIME, ["0000-00-00 00:00:00", "2021-02-29 10:00:00", "0000-00-00 23:59:59"]),
        (T.TIMESTAMP, ["0000-00-00 00:00:00"]),
    ],
)
def test_dates_of_no_calendar(tp: MySQLType, texts: list[str]) -> None:
    """Alone, among others, and in a slice."""
    usual = "2024-02-29" + texts[0][10:]
    for column in [[text] for text in texts] + [[usual, None, *texts, usual]]:
        values = parse_column(pa.array(column), FieldType(tp), "c")
        assert format_column(values, FieldType(tp)).to_pylist() == column
        assert format_column(values[1:], FieldType(tp)).to_pylist() == column[1:]


def test_fractions_of_impossible_times() -> None:
    field_type = FieldType(T.DATETIME, decimal=3)
    texts = pa.array(["2020-02-31 10:00:00.5", "2020-02-31 10:00:00", "0000-00-00 00:00:00.001"])
    values = parse_column(texts, field_type, "c")
    assert format_column(values, field_type).to_pylist() == [
        "2020-02-31 10:00:00.500",
        "2020-02-31 10:00:00.000",
        "0000-00-00 00:00:00.001",
    ]


@pytest.mark.parametrize("tp", [T.NULL, T.UNSPECIFIED])
def test_types_without_a_text_form(tp: MySQLType) -> None:
    with pytest.raises(UnsupportedError, match=tp.name):
        format_column(pa.nulls(1), FieldType(tp))
    with pytest.raises(UnsupportedError, match=tp.name):
        parse_column(pa.array(["x"]), FieldType(tp), "c")


def test_json_in_the_store_that_is_none() -> None:
    for value in (b"", b"\x02", b"\x0c\x05ab", b"\x04\x03", b"\x09" + bytes(9)):
        with pytest.raises(CodecError):
            format_column(pa.array([b"\x04\x00", None, value]), FieldType(T.JSON))
