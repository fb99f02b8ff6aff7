"""Laws of changes of type: they never fail but as promised, and what has room comes back."""

from decimal import Decimal
from typing import Any

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from pyspark_theflash.base.errors import UnsupportedError
from pyspark_theflash.tidb.codec.arrow import arrow_type
from pyspark_theflash.tidb.codec.change import ReorgSession
from pyspark_theflash.tidb.codec.convert import convert_column
from pyspark_theflash.tidb.codec.field_type import (
    DATETIME_TYPES,
    INTEGER_TYPES,
    STRING_TYPES,
    FieldType,
    MySQLType,
)
from pyspark_theflash.tidb.codec.text import format_column
from tests.support.conversions import conversion_types

T = MySQLType
TYPES = conversion_types()
UTC = ReorgSession("UTC", 0, 0, 0, 0)
BITS = {T.TINY: 8, T.SHORT: 16, T.INT24: 24, T.LONG: 32, T.LONGLONG: 64}
DAY_US = 86400 * 10**6
FIRST_DAY, LAST_DAY = -719528, 2932896  # 0000-01-01, 9999-12-31
MAX_TIME_US = (838 * 3600 + 59 * 60 + 59) * 10**6
LOOSE = st.text("0123456789-+:. /TZeEx,a", max_size=30)


def values(ft: FieldType) -> st.SearchStrategy[Any]:
    """Values that a column of the type can have."""
    if ft.tp == T.YEAR:
        return st.just(0) | st.integers(1901, 2155)
    if ft.tp in INTEGER_TYPES:
        bits = BITS[ft.tp]
        top = 2**bits if ft.is_unsigned else 2 ** (bits - 1)
        return st.integers(0 if ft.is_unsigned else -top, top - 1) | st.integers(0, 100)
    if ft.is_binary_string:
        return (st.binary() | LOOSE.map(str.encode)).map(lambda raw: _binary(raw, ft))
    if ft.tp in STRING_TYPES:
        last = {"ascii": 0x7F, "utf8": 0xFFFF}.get(ft.charset)
        characters = st.characters(codec="utf-8", max_codepoint=last)
        return (st.text(characters) | LOOSE).map(lambda text: text[: ft.flen].rstrip(" "))
    if ft.tp == T.NEWDECIMAL:
        most = 10**ft.flen - 1
        unscaled = st.integers(0 if ft.is_unsigned else -most, most) | st.integers(0, 99)
        return unscaled.map(
            lambda n: Decimal((n < 0, tuple(map(int, str(min(abs(n), most)))), -ft.decimal))
        )
    return _other_values(ft)


def _binary(raw: bytes, ft: FieldType) -> bytes:
    cut = raw[: ft.flen]
    return cut.ljust(ft.flen, b"\0") if ft.tp == T.STRING else cut


def _other_values(ft: FieldType) -> st.SearchStrategy[Any]:
    if ft.tp in (T.FLOAT, T.DOUBLE):
        width = 32 if ft.tp == T.FLOAT else 64
        low = 0 if ft.is_unsigned else None
        floats = st.floats(low, allow_nan=False, allow_infinity=False, width=width)
        return floats.map(lambda number: number + 0.0) | st.integers(0, 10**6).map(float)
    if ft.tp == T.DATE:
        return st.integers(FIRST_DAY, LAST_DAY)
    if ft.tp in DATETIME_TYPES:
        first, last = FIRST_DAY * DAY_US, (LAST_DAY + 1) * DAY_US - 1
        return st.integers(first, last).map(
            lambda us: us // 10 ** (6 - ft.fsp) * 10 ** (6 - ft.fsp)
        )
    if ft.tp == T.TIME:
        unit = 10 ** (6 - ft.fsp)
        return st.integers(-MAX_TIME_US // unit, MAX_TIME_US // unit).map(lambda n: n * unit)
    if ft.tp == T.BIT:
        return st.integers(0, 2**ft.flen - 1)
    if ft.tp == T.ENUM:
        return st.integers(0, len(ft.elems))
    return st.integers(0, 2 ** len(ft.elems) - 1)


@st.composite
def columns(draw: st.DrawFn, names: st.SearchStrategy[str]) -> tuple[FieldType, pa.Array]:
    ft = TYPES[draw(names)]
    column = draw(st.lists(st.none() | values(ft), max_size=8))
    return ft, pa.array(column, arrow_type(ft))


ANY = st.sampled_from(sorted(TYPES))


@given(columns(ANY), ANY)
def test_all_pairs_convert_or_are_refused(column: tuple[FieldType, pa.Array], name: str) -> None:
    old, stored = column
    new = TYPES[name]
    try:
        converted = convert_column(stored, old, new, "column c")
    except UnsupportedError:
        return
    converted.validate(full=True)
    assert converted.type == arrow_type(new)
    assert len(converted) == len(stored)
    assert converted.filter(stored.is_null()).null_count == stored.null_count
    # The result is of the new type: it can be formatted, and converting it again changes nothing.
    format_column(converted, new)
    assert convert_column(converted, new, new, "column c").equals(converted)


@given(columns(ANY), ANY, st.data())
def test_a_value_converts_alike_wherever_it_stands(
    column: tuple[FieldType, pa.Array], name: str, data: st.DataObject
) -> None:
    old, stored = column
    start = data.draw(st.integers(0, len(stored)))
    try:
        converted = convert_column(stored, old, TYPES[name], "column c")
    except UnsupportedError:
        return
    rest = convert_column(stored.slice(start), old, TYPES[name], "column c")
    assert rest.equals(converted.slice(start))


WIDENINGS = [
    ("tinyint", "smallint"),
    ("tinyint_u", "int"),
    ("int_u", "bigint"),
    ("int", "dec10_0"),
    ("bigint", "dec65_30"),
    ("bigint_u", "dec65_0"),
    ("int", "double"),
    ("bigint", "varchar64"),
    ("bigint_u", "varbinary64"),
    ("double", "longtext"),
    ("float", "double"),
    ("float", "longtext"),
    ("dec5_2", "dec38_10"),
    ("dec65_30", "longtext"),
    ("dec5_2", "double"),
    ("date", "datetime"),
    ("date", "varchar64"),
    ("datetime3", "datetime6"),
    ("datetime6", "varchar64"),
    ("timestamp", "timestamp6"),
    ("time3", "time6"),
    ("time6", "varchar64"),
    ("time", "int"),
    ("varchar10_utf8", "varchar64"),
    ("char10", "text"),
    ("varchar64_latin1", "text"),
    ("varchar64", "varbinary64"),
    ("enum_abc", "enum_more"),
    ("enum_abc", "tinyint"),
    ("set_abc", "set_more"),
    ("set_abc", "varchar64"),
    ("bit9", "int"),
    ("year", "int"),
]


@given(st.sampled_from(WIDENINGS), st.data())
def test_what_has_room_comes_back(pair: tuple[str, str], data: st.DataObject) -> None:
    (old, stored), new = data.draw(columns(st.just(pair[0]))), TYPES[pair[1]]
    wide = convert_column(stored, old, new, "column c", UTC)
    assert convert_column(wide, new, old, "column c", UTC).equals(stored)


@given(columns(ANY))
def test_no_change_of_type_changes_nothing(column: tuple[FieldType, pa.Array]) -> None:
    ft, stored = column
    assert convert_column(stored, ft, ft, "column c").equals(stored)


@given(columns(st.sampled_from(["tinyint", "int", "bigint", "bigint_u", "dec5_2", "dec38_10"])))
def test_numbers_as_text_are_what_is_printed(column: tuple[FieldType, pa.Array]) -> None:
    ft, stored = column
    texts = convert_column(stored, ft, TYPES["longtext"], "column c")
    assert texts.equals(format_column(stored, ft))
