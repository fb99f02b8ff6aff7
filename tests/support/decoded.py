"""Comparison of decoded columns with rows of the oracle."""

import datetime as dt
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from pyspark_theflash.tidb.codec.arrow import arrow_type
from pyspark_theflash.tidb.codec.field_type import DATETIME_TYPES, FieldType
from pyspark_theflash.tidb.codec.row import ColumnSpec, DecodedRows
from tests.support.row_oracle import OddTime, Row, Types

_IMPOSSIBLE_DAY = 10_000_000
_YEAR_0 = -719_528
_EPOCH = dt.datetime(1970, 1, 1)


def types_of(columns: Sequence[ColumnSpec]) -> Types:
    return {spec.id: spec.type for spec in columns}


def assert_decoded(
    decoded: DecodedRows, columns: Sequence[ColumnSpec], rows: Sequence[Row]
) -> None:
    """Check values, absences and Arrow types of decoded columns."""
    for spec, column in zip(columns, decoded.columns, strict=True):
        column.values.validate(full=True)
        assert column.values.type == arrow_type(spec.type)
        assert as_python(column.values) == [row.get(spec.id) for row in rows], spec.name
        absent = [spec.id not in row for row in rows]
        assert (None if column.absent is None else column.absent.tolist()) == (
            absent if any(absent) else None
        ), spec.name


def as_python(values: "pa.Array[Any]") -> list[Any]:
    """Convert stored values to those of the oracle."""
    if pa.types.is_date32(values.type):
        days = values.view(pa.int32()).to_pylist()
        return [None if day is None else _date(day) for day in days]
    if pa.types.is_timestamp(values.type):
        zone = dt.timezone.utc if values.type.tz else None
        return [
            None if us is None else _moment(us // 86_400_000_000, us % 86_400_000_000, zone)
            for us in values.view(pa.int64()).to_pylist()
        ]
    plain: list[Any] = values.to_pylist()
    return plain


def _date(day: int) -> dt.date | OddTime:
    at = _moment(day, 0, None)
    return at if isinstance(at, OddTime) else at.date()


def _moment(day: int, us: int, zone: dt.timezone | None) -> dt.datetime | OddTime:
    clock = us // 3_600_000_000, us // 60_000_000 % 60, us // 1_000_000 % 60, us % 1_000_000
    if day >= _IMPOSSIBLE_DAY:
        months, of_month = divmod(day - _IMPOSSIBLE_DAY, 32)
        return OddTime(*divmod(months, 13), of_month, *clock)
    if day < _YEAR_0 + 366:
        # 400 years later the calendar is the same.
        later = (_EPOCH + dt.timedelta(day + 146_097)).date()
        return OddTime(later.year - 400, later.month, later.day, *clock)
    return (_EPOCH + dt.timedelta(day, microseconds=us)).replace(tzinfo=zone)


def as_stored(values: Sequence[Any], field_type: FieldType) -> "pa.Array[Any]":
    """The inverse of `as_python`."""
    tp = arrow_type(field_type)
    if field_type.tp not in DATETIME_TYPES:
        return pa.array(values, tp)
    unit, number = (1, pa.int32()) if pa.types.is_date32(tp) else (86_400_000_000, pa.int64())
    numbers = [None if value is None else _number(value, unit) for value in values]
    return pa.array(numbers, number).view(tp)


def _number(value: dt.date | OddTime, unit: int) -> int:
    if isinstance(value, OddTime):
        day, us = _odd_day(value), _time_of_day(value)
    elif isinstance(value, dt.datetime):
        day, us = (value.replace(tzinfo=None) - _EPOCH).days, _time_of_day(value)
    else:
        day, us = (value - _EPOCH.date()).days, 0
    return day * unit + us


def _odd_day(value: OddTime) -> int:
    try:
        later = dt.date(value.year + 400, value.month, value.day)
    except ValueError:
        return _IMPOSSIBLE_DAY + (value.year * 13 + value.month) * 32 + value.day
    return (later - _EPOCH.date()).days - 146_097


def _time_of_day(at: dt.datetime | OddTime) -> int:
    return ((at.hour * 60 + at.minute) * 60 + at.second) * 1_000_000 + at.microsecond
