"""Hypothesis strategies: field types, and values that a column of a type can hold."""

import datetime as dt
import struct
from decimal import Decimal
from typing import Any

from hypothesis import strategies as st

from pyspark_theflash.tidb.codec.field_type import (
    DATETIME_TYPES,
    INTEGER_TYPES,
    STRING_TYPES,
    ColumnFlag,
    FieldType,
    MySQLType,
)
from tests.support.json_oracle import encode_json, json_values
from tests.support.row_oracle import OddTime

_BITS = {
    MySQLType.TINY: 8,
    MySQLType.SHORT: 16,
    MySQLType.INT24: 24,
    MySQLType.LONG: 32,
    MySQLType.LONGLONG: 64,
}
_MAX_DURATION = dt.timedelta(hours=838, minutes=59, seconds=59)


@st.composite
def _decimal_types(draw: st.DrawFn) -> FieldType:
    precision = draw(st.integers(1, 65))
    return FieldType(MySQLType.NEWDECIMAL, 0, precision, draw(st.integers(0, min(precision, 30))))


def _plain_types() -> st.SearchStrategy[FieldType]:
    integers = st.builds(
        FieldType, st.sampled_from(sorted(_BITS)), st.sampled_from([0, ColumnFlag.UNSIGNED])
    )
    others = st.sampled_from(
        [
            FieldType(MySQLType.YEAR, ColumnFlag.UNSIGNED),
            FieldType(MySQLType.FLOAT),
            FieldType(MySQLType.DOUBLE),
            FieldType(MySQLType.DATE),
            FieldType(MySQLType.DATETIME, decimal=6),
            FieldType(MySQLType.TIMESTAMP, decimal=6),
            FieldType(MySQLType.TIME, decimal=6),
            FieldType(MySQLType.BIT, flen=64),
            FieldType(MySQLType.ENUM),
            FieldType(MySQLType.SET),
            FieldType(MySQLType.VARCHAR, 0, 64, -1, "utf8mb4", "utf8mb4_0900_bin"),
            FieldType(MySQLType.BLOB, 0, -1, -1, "binary", "binary"),
        ]
    )
    return integers | others


def key_types() -> st.SearchStrategy[FieldType]:
    """All types that can be in a key, without trimming."""
    return _plain_types() | _decimal_types()


def field_types() -> st.SearchStrategy[FieldType]:
    """All types."""
    others = st.sampled_from([FieldType(MySQLType.JSON), FieldType(MySQLType.VECTOR)])
    return key_types() | others


def values(ft: FieldType) -> st.SearchStrategy[Any]:
    """Values that a column of the type can have, except NULL."""
    if ft.tp == MySQLType.YEAR:
        return st.just(0) | st.integers(1901, 2155)
    if ft.tp in INTEGER_TYPES:
        bits = _BITS[ft.tp]
        return (
            st.integers(0, 2**bits - 1)
            if ft.is_unsigned
            else st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        )
    if ft.tp in STRING_TYPES:
        return st.binary(max_size=40) if ft.is_binary_string else st.text(max_size=20)
    if ft.tp == MySQLType.NEWDECIMAL:
        most = 10**ft.flen - 1
        return st.integers(-most, most).map(lambda n: Decimal(f"{n}E-{ft.decimal}"))
    if ft.tp == MySQLType.FLOAT:
        return st.floats(width=32, allow_nan=False, allow_infinity=False).map(
            _without_negative_zero
        )
    if ft.tp == MySQLType.DOUBLE:
        return st.floats(allow_nan=False, allow_infinity=False).map(_without_negative_zero)
    if ft.tp == MySQLType.DATE:
        return st.dates() | _odd_dates()
    if ft.tp in DATETIME_TYPES:
        zone = dt.timezone.utc if ft.tp == MySQLType.TIMESTAMP else None
        return st.datetimes().map(lambda at: at.replace(tzinfo=zone)) | _odd_times()
    if ft.tp == MySQLType.TIME:
        return st.timedeltas(-_MAX_DURATION, _MAX_DURATION)
    if ft.tp == MySQLType.JSON:
        return json_values().map(encode_json)
    if ft.tp == MySQLType.VECTOR:
        return st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=5)
    return st.integers(0, 2**64 - 1)


@st.composite
def _odd_dates(draw: st.DrawFn) -> OddTime:
    """Zero and impossible dates, and those of the year 0."""
    ymd = draw(st.tuples(st.integers(0, 9999), st.integers(0, 12), st.sampled_from([0, 30, 31])))
    try:
        dt.date(*ymd)
    except ValueError:
        return OddTime(*ymd)
    return OddTime(0, max(ymd[1], 1), 1)


@st.composite
def _odd_times(draw: st.DrawFn) -> OddTime:
    time = draw(st.times())
    clock = time.hour, time.minute, time.second, time.microsecond
    return OddTime(*draw(_odd_dates())[:3], *clock)


def _without_negative_zero(value: float) -> float:
    return struct.unpack("d", struct.pack("d", value))[0] + 0.0  # type: ignore[no-any-return]
