"""Date and time functions.

Arguments are converted to DATETIME, or to TIME for functions such as HOUR. A date with month 0 or
day 0 has a year, a month and a day, but no weekday and no day number: these are NULL.
"""

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from pyspark_theflash.tidb.codec.reader import Mask, Words
from pyspark_theflash.tidb.codec.time import Int64s
from pyspark_theflash.tidb.expression import times
from pyspark_theflash.tidb.expression.convert import to_duration, to_integer, to_time
from pyspark_theflash.tidb.expression.failure import LackingError, reject_in_condition
from pyspark_theflash.tidb.expression.vector import Kind, Vector, decimals, integers

_DAY_SECONDS: Final = 86_400
# `day_number` of 1970-01-01.
_EPOCH_DAY: Final = 719_528
_EPOCH_WEEKDAY: Final = 4
_MAX_DIGITS: Final = 6
# TiDB's result if the week is in the year -1.
_NO_YEAR_WEEK: Final = 2**32 - 1
_MONDAY_FIRST, _FIRST_WEEKDAY = 1, 4


def _of_date(function: Callable[[times.Parts], Int64s]) -> Callable[[Sequence[Vector]], Vector]:
    """Return a function of date parts, zero parts included."""

    def apply(operands: Sequence[Vector]) -> Vector:
        time = to_time(operands[0])
        return integers(function(times.parts(time.data)), time.null)

    return apply


def _of_day(function: Callable[[Words], Int64s]) -> Callable[[Sequence[Vector]], Vector]:
    """Return a function that is NULL for dates with month 0 or day 0."""

    def apply(operands: Sequence[Vector]) -> Vector:
        time = to_time(operands[0])
        return integers(function(time.data), time.null | _is_partial(time))

    return apply


def _is_partial(time: Vector) -> Mask:
    p = times.parts(time.data)
    partial: Mask = (p.month == 0) | (p.day == 0)
    if (partial & ~time.null & (time.data != 0)).any():
        reject_in_condition("a date without a month or day")
    return partial


def _of_clock(function: Callable[[Int64s], Int64s]) -> Callable[[Sequence[Vector]], Vector]:
    """Return a function of the magnitude of a TIME, in microseconds."""

    def apply(operands: Sequence[Vector]) -> Vector:
        duration = to_duration(operands[0])
        return integers(function(np.abs(duration.data)), duration.null)

    return apply


def _weekday(packed: Words) -> Int64s:
    """Return 0 for Sunday; as in Go, February 31st is March 3rd and the year 0 a leap year."""
    p = times.parts(packed)
    months = ((p.year - 1970) * 12 + p.month - 1).astype("M8[M]")
    days = months.astype("M8[D]").astype(np.int64) + p.day - 1
    return (days + _EPOCH_WEEKDAY) % 7


def _day_of_year(packed: Words) -> Int64s:
    first = times.first_of_year(times.parts(packed).year)
    return times.day_number(packed) - times.day_number(first) + 1


year: Final = _of_date(lambda p: p.year)
month: Final = _of_date(lambda p: p.month)
day: Final = _of_date(lambda p: p.day)
quarter: Final = _of_date(lambda p: (p.month + 2) // 3)
day_of_week: Final = _of_day(lambda packed: _weekday(packed) + 1)
weekday: Final = _of_day(lambda packed: (_weekday(packed) + 6) % 7)
day_of_year: Final = _of_day(_day_of_year)
to_days: Final = _of_day(times.day_number)
hour: Final = _of_clock(lambda micros: micros // times.SECOND_US // 3600)
minute: Final = _of_clock(lambda micros: micros // times.SECOND_US // 60 % 60)
second: Final = _of_clock(lambda micros: micros // times.SECOND_US % 60)
microsecond: Final = _of_clock(lambda micros: micros % times.SECOND_US)


def to_seconds(operands: Sequence[Vector]) -> Vector:
    """`TO_SECONDS`."""
    time = to_time(operands[0])
    clock = times.time_of_day(time.data) // times.SECOND_US
    seconds = times.day_number(time.data) * _DAY_SECONDS + clock
    return integers(seconds, time.null | _is_partial(time))


def time_to_sec(operands: Sequence[Vector]) -> Vector:
    """`TIME_TO_SEC`."""
    duration = to_duration(operands[0])
    seconds = np.sign(duration.data) * (np.abs(duration.data) // times.SECOND_US)
    return integers(seconds, duration.null)


def date(operands: Sequence[Vector]) -> Vector:
    """`DATE`. Raises `LackingError`: A date is 0000-00-00, whose result depends on the SQL mode."""
    day = to_time(operands[0], is_date=True)
    if (day.data[~day.null] == 0).any():
        raise LackingError("DATE of 0000-00-00")
    return day


def date_diff(operands: Sequence[Vector]) -> Vector:
    """`DATEDIFF`."""
    left, right = (to_time(v) for v in operands)
    null = left.null | right.null | _is_partial(left) | _is_partial(right)
    return integers(times.day_number(left.data) - times.day_number(right.data), null)


def unix_timestamp(operands: Sequence[Vector]) -> Vector:
    """`UNIX_TIMESTAMP` in UTC; 0 for invalid dates and outside 1970 to 2038."""
    digits = _timestamp_digits(operands[0])
    time = to_time(operands[0])
    seconds = (times.day_number(time.data) - _EPOCH_DAY) * _DAY_SECONDS
    micros = seconds * times.SECOND_US + times.time_of_day(time.data)
    inside = (micros >= times.SECOND_US) & (micros < 2**31 * times.SECOND_US)
    micros = np.where(inside & times.day_exists(time.data), micros, 0)
    if digits == 0:
        return integers(micros // times.SECOND_US, time.null)
    unit = 10 ** (_MAX_DIGITS - digits)
    return decimals((micros // unit).astype(object), time.null, digits)


def _timestamp_digits(value: Vector) -> int:
    """Return the number of fractional digits of the result."""
    if value.kind is Kind.TEXT:
        if not value.is_constant or value.null[0]:
            return _MAX_DIGITS
        return min(len(str(value.data[0].as_py()).partition(".")[2]), _MAX_DIGITS)
    return min(value.digits, _MAX_DIGITS)


def year_week(operands: Sequence[Vector]) -> Vector:
    """`YEARWEEK(date[, mode])`."""
    time = to_time(operands[0])
    mode = to_integer(operands[1]).constant() if len(operands) > 1 else 0
    null = time.null | _is_partial(time)
    return integers(_year_week(time.data, int(mode or 0) & 7), null)


def _year_week(packed: Words, mode: int) -> Int64s:
    """Return year and week as 202401, computed as in MySQL's `calc_week`."""
    monday_first = bool(mode & _MONDAY_FIRST)
    # The flag has the opposite meaning if weeks begin on Sunday.
    by_first_weekday = bool(mode & _FIRST_WEEKDAY) == monday_first
    p = times.parts(packed)
    number, year = times.day_number(packed), p.year
    first = times.day_number(times.first_of_year(year))
    weekday = (first + (5 if monday_first else 6)) % 7

    before = (p.month == 1) & (p.day <= 7 - weekday)
    year = np.where(before, year - 1, year)
    days = _days_in_year(year)
    first = np.where(before, first - days, first)
    weekday = np.where(before, (weekday + 53 * 7 - days) % 7, weekday)

    belongs_later = weekday != 0 if by_first_weekday else weekday >= 4
    days_passed = number - np.where(belongs_later, first + 7 - weekday, first - weekday)
    next_weekday = (weekday + _days_in_year(year)) % 7
    in_next = next_weekday == 0 if by_first_weekday else next_weekday < 4
    in_next &= days_passed >= 52 * 7
    week = np.where(in_next, 1, days_passed // 7 + 1)
    result = week + np.where(in_next, year + 1, year) * 100
    return np.where(result < 0, _NO_YEAR_WEEK, result)


def _days_in_year(year: Int64s) -> Int64s:
    is_leap = (year % 4 == 0) & ((year % 100 != 0) | ((year % 400 == 0) & (year != 0)))
    days: Int64s = 365 + is_leap.astype(np.int64)
    return days


_DATE_UNITS: Final[dict[str, Callable[[times.Parts], Int64s]]] = {
    "day": lambda p: p.day,
    "month": lambda p: p.month,
    "quarter": lambda p: (p.month + 2) // 3,
    "year": lambda p: p.year,
    "year_month": lambda p: p.year * 100 + p.month,
    "day_hour": lambda p: p.day * 100 + p.hour,
    "day_minute": lambda p: (p.day * 100 + p.hour) * 100 + p.minute,
    "day_second": lambda p: ((p.day * 100 + p.hour) * 100 + p.minute) * 100 + p.second,
    "day_microsecond": lambda p: (
        (((p.day * 100 + p.hour) * 100 + p.minute) * 100 + p.second) * 10**6 + p.micro
    ),
}
_CLOCK_UNITS: Final[dict[str, tuple[int, int]]] = {
    # HHMMSSuuuuuu divided by the first number, modulo the second.
    "microsecond": (1, 10**6),
    "second": (10**6, 10**2),
    "minute": (10**8, 10**2),
    "hour": (10**10, 10**6),
    "second_microsecond": (1, 10**8),
    "minute_microsecond": (1, 10**10),
    "minute_second": (10**6, 10**4),
    "hour_microsecond": (1, 10**18),
    "hour_second": (10**6, 10**12),
    "hour_minute": (10**8, 10**10),
    "day_microsecond": (1, 10**18),
    "day_second": (10**6, 10**12),
    "day_minute": (10**8, 10**10),
    "day_hour": (10**10, 10**6),
}


def extract(operands: Sequence[Vector]) -> Vector:
    """`EXTRACT(unit FROM value)`, as `(unit, value)`.

    Raises:
        LackingError: The unit is WEEK, or combines days and time for a text or a number.
    """
    unit, value = str(operands[0].constant()), operands[1]
    if unit in _DATE_UNITS and unit in _CLOCK_UNITS:
        if value.kind not in (Kind.TIME, Kind.DURATION, Kind.NULL):
            raise LackingError(f"EXTRACT({unit.upper()}) from a value that is no date or time")
        is_clock = value.kind is Kind.DURATION
    else:
        is_clock = unit in _CLOCK_UNITS
    if value.kind not in (Kind.TIME, Kind.DURATION, Kind.TEXT, Kind.NULL):
        reject_in_condition("EXTRACT from a number")
    if not is_clock:
        if unit not in _DATE_UNITS:
            raise LackingError(f"EXTRACT({unit.upper()})")
        return _of_date(_DATE_UNITS[unit])([value])
    duration = to_duration(value)
    micros = np.abs(duration.data)
    number = times.duration_number(micros) * 10**6 + micros % times.SECOND_US
    divisor, modulus = _CLOCK_UNITS[unit]
    return integers(np.sign(duration.data) * (number // divisor % modulus), duration.null)
