"""Text forms: formatted values can be parsed, and parsed values are formatted the same again."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from pyspark_theflash.base.errors import CodecError
from pyspark_theflash.tidb.codec.arrow import arrow_type
from pyspark_theflash.tidb.codec.field_type import ColumnFlag, FieldType, MySQLType
from pyspark_theflash.tidb.codec.jsonl import format_jsonl, parse_jsonl
from pyspark_theflash.tidb.codec.text import format_column, parse_column
from pyspark_theflash.tidb.codec.time import IMPOSSIBLE_DAY
from tests.support.json_oracle import FRACTIONS, encode_json, json_values

T = MySQLType
INTEGER_BITS = {T.TINY: 8, T.SHORT: 16, T.INT24: 24, T.LONG: 32, T.LONGLONG: 64}
MICROSECONDS = 10**6
FIRST_DAY, LAST_DAY = -719528, 2932896  # 0000-01-01, 9999-12-31
DAY_US = 86400 * MICROSECONDS
MAX_TIME_US = (838 * 3600 + 59 * 60 + 59) * MICROSECONDS
TEXT = st.text(st.characters(codec="utf-8"))
# Beside an exponent TiDB prints 6 digits of a FLOAT, which need not read back.
FLOATS_WITHOUT_EXPONENT = st.floats(-(2.0**49), 2.0**49, width=32).filter(
    lambda value: value == 0 or abs(value) > 2e-15
)

FINITE_FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)

Case = tuple[FieldType, Sequence[object]]


def columns(field_type: FieldType, values: st.SearchStrategy[Any]) -> st.SearchStrategy[Case]:
    return st.tuples(st.just(field_type), st.lists(st.none() | values, max_size=20))


def integers(tp: MySQLType, unsigned: bool) -> st.SearchStrategy[Case]:
    bits = INTEGER_BITS[tp]
    low, high = (0, 2**bits - 1) if unsigned else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return columns(FieldType(tp, ColumnFlag.UNSIGNED if unsigned else 0), st.integers(low, high))


@st.composite
def decimals(draw: st.DrawFn) -> Case:
    scale = draw(st.integers(0, 30))
    precision = draw(st.integers(max(scale, 1), 65))
    unscaled = st.integers(-(10**precision) + 1, 10**precision - 1)
    values = unscaled.map(lambda n: Decimal((n < 0, Decimal(abs(n)).as_tuple().digits, -scale)))
    return draw(columns(FieldType(T.NEWDECIMAL, flen=precision, decimal=scale), values))


@st.composite
def times(draw: st.DrawFn, tp: MySQLType, low_us: int, high_us: int) -> Case:
    fsp = draw(st.integers(0, 6))
    unit = 10 ** (6 - fsp)
    ticks = st.integers(low_us // unit, high_us // unit)
    return draw(columns(FieldType(tp, decimal=fsp), ticks.map(lambda n: n * unit)))


IMPOSSIBLE_DAYS = st.builds(
    lambda year, month, day: IMPOSSIBLE_DAY + ((year * 13 + month) * 32 + day),
    st.integers(0, 9999),
    st.just(0) | st.just(2),
    st.just(0) | st.just(31),
)


@st.composite
def impossible_times(draw: st.DrawFn) -> Case:
    fsp = draw(st.integers(0, 6))
    unit = 10 ** (6 - fsp)
    time = st.integers(0, DAY_US // unit - 1)
    at = st.tuples(IMPOSSIBLE_DAYS, time).map(lambda pair: pair[0] * DAY_US + pair[1] * unit)
    return draw(columns(FieldType(T.DATETIME, decimal=fsp), at))


@st.composite
def chosen(draw: st.DrawFn, tp: MySQLType) -> Case:
    name = TEXT.filter(lambda text: text and "," not in text)
    elems = tuple(draw(st.lists(name, min_size=1, max_size=64, unique=True)))
    last = len(elems) if tp == T.ENUM else 2 ** len(elems) - 1
    return draw(columns(FieldType(tp, elems=elems), st.integers(0, last)))


@st.composite
def bits(draw: st.DrawFn) -> Case:
    flen = draw(st.integers(1, 64))
    return draw(columns(FieldType(T.BIT, flen=flen), st.integers(0, 2**flen - 1)))


CASES = st.one_of(
    *(integers(tp, unsigned) for tp in INTEGER_BITS for unsigned in (False, True)),
    columns(FieldType(T.YEAR), st.just(0) | st.integers(1901, 2155)),
    columns(FieldType(T.DOUBLE), st.floats(allow_nan=False, allow_infinity=False)),
    columns(FieldType(T.FLOAT), FLOATS_WITHOUT_EXPONENT),
    decimals(),
    columns(FieldType(T.DATE), st.integers(FIRST_DAY, LAST_DAY) | IMPOSSIBLE_DAYS),
    times(T.DATETIME, FIRST_DAY * DAY_US, (LAST_DAY + 1) * DAY_US - 1),
    impossible_times(),
    times(T.TIMESTAMP, MICROSECONDS, 2**31 * MICROSECONDS - 1),
    times(T.TIME, -MAX_TIME_US, MAX_TIME_US),
    chosen(T.ENUM),
    chosen(T.SET),
    bits(),
    columns(FieldType(T.VARCHAR, charset="utf8mb4"), TEXT),
    columns(FieldType(T.BLOB, charset="binary"), st.binary()),
    columns(FieldType(T.JSON), json_values(FRACTIONS).map(encode_json)),
    columns(FieldType(T.VECTOR), st.lists(FINITE_FLOATS, max_size=5)),
)


def stored(values: Sequence[object], tp: pa.DataType) -> "pa.Array[Any]":
    """Times are passed as numbers, since Python's times have a smaller range."""
    if pa.types.is_timestamp(tp):
        return pa.array(values, pa.int64()).view(tp)
    return pa.array(values, tp)


@given(CASES)
def test_what_is_printed_reads_back(case: Case) -> None:
    field_type, values = case
    column = stored(values, arrow_type(field_type))
    texts = format_column(column, field_type)
    assert parse_column(texts, field_type, "c").equals(column)


@given(CASES, st.data())
def test_any_text_reads_as_what_prints_it_or_is_refused(case: Case, data: st.DataObject) -> None:
    field_type, _ = case
    if format_column(pa.nulls(0, arrow_type(field_type)), field_type).type == pa.string():
        texts = pa.array([data.draw(TEXT | st.text("0123456789-:. e,", max_size=26))])
    else:
        texts = pa.array([data.draw(st.binary(max_size=9))])
    try:
        column = parse_column(texts, field_type, "c")
    except CodecError:
        return
    printed = format_column(column, field_type)
    assert format_column(parse_column(printed, field_type, "c"), field_type).equals(printed)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_double_has_the_shortest_digits_without_a_needless_exponent(value: float) -> None:
    text = format_column(pa.array([value]), FieldType(T.DOUBLE)).to_pylist()[0]
    shortest = Decimal(repr(value))
    assert Decimal(text) == shortest
    assert ("e" in text) == (value != 0 and not 1e-15 <= abs(value) < 1e15)
    if "." in text and "e" not in text:
        assert not text.endswith("0")


@given(st.floats(allow_nan=False, allow_infinity=False, width=32))
def test_float_has_at_most_six_digits_beside_an_exponent(value: float) -> None:
    text = format_column(pa.array([value], pa.float32()), FieldType(T.FLOAT)).to_pylist()[0]
    if "e" in text:
        assert len(text.split("e")[0].replace("-", "").replace(".", "")) <= 6
        assert float(text) == float(f"{value:.5e}")
    else:
        assert np.float32(text) == np.float32(value)


@given(
    st.integers(1, 4).flatmap(
        lambda width: st.lists(
            st.tuples(*[st.none() | TEXT] * width, st.none() | st.binary(max_size=8)),
            min_size=1,
            max_size=10,
        )
    )
)
def test_rows_as_json_lines_read_back(rows: list[tuple[str | bytes | None, ...]]) -> None:
    *texts, last = zip(*rows, strict=True)
    table = [*(pa.array(column, pa.string()) for column in texts), pa.array(last, pa.binary())]
    lines = list(format_jsonl(table))
    assert all("\n" not in line for line in lines)
    for column, again in zip(table, parse_jsonl(lines), strict=True):
        assert again.to_pylist() == column.to_pylist()
        assert again.type == column.type or column.null_count == len(column)
