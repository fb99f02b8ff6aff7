"""Changes of type to DATE, DATETIME, TIMESTAMP and TIME, and these as numbers.

All dates go through their packed form, which has zero and impossible ones too; `_stored_times` is
the one place that makes stored dates of it. A DATETIME that becomes a DATE is cut. One that loses
fractional digits is rounded half up, into the next year if need be; so is a TIME: -1.5 s become
-1 s. As numbers, dates are YYYYMMDD, with a time of day YYYYMMDDhhmmss.ffffff; times hhmmss.ffffff.
As `ConvertTo` in TiDB's types/datum.go and `RoundFrac`, `ToNumber` in types/time.go.
"""

from collections.abc import Callable
from dataclasses import replace
from decimal import ROUND_HALF_UP, Decimal
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute

from pyspark_theflash.codec.array import ArrowArray, map_distinct, nulls, primitive
from pyspark_theflash.codec.arrow import arrow_type
from pyspark_theflash.codec.change import Change
from pyspark_theflash.codec.convert_string import string_form
from pyspark_theflash.codec.field_type import DATETIME_TYPES, STRING_TYPES, FieldType, MySQLType
from pyspark_theflash.codec.loose_number import MAX_INT64
from pyspark_theflash.codec.loose_time import (
    MAX_TIME_US,
    loose_datetime,
    loose_datetime_of_number,
    loose_time,
)
from pyspark_theflash.codec.reader import Words
from pyspark_theflash.codec.time import (
    DAY_US,
    IMPOSSIBLE_DAY,
    Int64s,
    pack,
    packed_times,
    unpack_dates,
    unpack_times_of_day,
)
from pyspark_theflash.codec.zone import day_of_change, local_of, utc_of

pc: Any = pyarrow.compute

_DATE_TYPES: Final = frozenset({MySQLType.DATE, MySQLType.NEWDATE})
_SECOND_US: Final = 1_000_000
_CLOCK_BITS: Final = np.uint64(41)
_CLOCK_MASK: Final = np.uint64((1 << 41) - 1)
_MICROSECOND_MASK: Final = np.uint64((1 << 24) - 1)
_MAX_TIME_NUMBER: Final = 838_59_59
# From here on a number is a date and time, not a time.
_LEAST_DATETIME_NUMBER: Final = 10**10
# For None, which as a result is NULL.
_UNKNOWN: Final = -(2**63)


def to_datetime(change: Change, values: ArrowArray) -> ArrowArray:
    """The old values as DATE, DATETIME or TIMESTAMP; null where TiDB stores NULL.

    Raises:
        UnsupportedError: what became of a value depends on the session that changed the column.
    """
    old, new = change.old, change.new
    if old.tp in DATETIME_TYPES:
        fsp = old.fsp if new.tp in _DATE_TYPES else new.fsp
        packed = _round_packed(packed_times(values), old.fsp, fsp)
    elif old.tp == MySQLType.TIME:
        at = day_of_change(change) * DAY_US + _microseconds(values)
        packed = pack(at // DAY_US, at % DAY_US)
        packed = _round_packed(packed, old.fsp, old.fsp if new.tp in _DATE_TYPES else new.fsp)
    elif new.tp == MySQLType.TIMESTAMP and pa.types.is_unsigned_integer(values.type):
        return nulls(len(values), arrow_type(new))
    elif old.tp in STRING_TYPES:
        raw = pc.cast(values, pa.binary())
        packed = _read_packed(change, raw, lambda text: loose_datetime(text, new.fsp))
    else:
        packed = _read_packed(change, values, loose_datetime_of_number)
    result = _stored_times(change, packed)
    if new.tp != MySQLType.TIMESTAMP or old.tp == MySQLType.TIMESTAMP:
        return result
    local, is_time = pc.cast(result, pa.int64()).to_numpy(), packed != 0
    moved = local.copy()
    moved[is_time] = utc_of(change, local[is_time])
    return primitive(moved, arrow_type(new))


def as_shown(change: Change, values: ArrowArray) -> tuple[Change, ArrowArray]:
    """A change from TIMESTAMP to another type as one from DATETIME: by the session's clock.

    Raises:
        UnsupportedError: the session's time zone is not known.
    """
    utc, is_time = pc.cast(values, pa.int64()).to_numpy(), packed_times(values) != 0
    local = utc.copy()
    if is_time.any():
        local[is_time] = local_of(change, utc[is_time])
    old = replace(change.old, tp=MySQLType.DATETIME)
    return replace(change, old=old), primitive(local, arrow_type(old))


def _read_packed(change: Change, values: ArrowArray, read: Callable[[Any], int | None]) -> Words:
    packed = map_distinct(values, read, pa.uint64())
    if packed.null_count:
        raise change.unsupported("the session's time zone or sql_mode decided about one")
    result: Words = packed.to_numpy()
    return result


def _stored_times(change: Change, packed: Words) -> ArrowArray:
    """Packed times in the form they are stored in."""
    new = change.new
    days, well_formed = unpack_dates(packed)
    if not well_formed.all():
        raise change.unsupported("one was rounded up to the year 10000")
    if new.tp in _DATE_TYPES:
        return primitive(days.astype(np.int32), arrow_type(new))
    time_of_day, _ = unpack_times_of_day(packed)
    return primitive(days * DAY_US + time_of_day, arrow_type(new))


def _round_packed(packed: Words, old_fsp: int, fsp: int) -> Words:
    """Rounded to `fsp` digits. Impossible dates that would become another day stay as they are."""
    if fsp >= old_fsp:
        return packed
    days, _ = unpack_dates(packed)
    exists = days < IMPOSSIBLE_DAY
    time_of_day = _round_up(unpack_times_of_day(packed)[0], fsp)
    carries = time_of_day == DAY_US
    clock = pack(np.zeros_like(days), time_of_day % DAY_US) & _CLOCK_MASK
    rounded = (packed & ~_CLOCK_MASK) | clock
    next_day = pack(days + 1, np.zeros_like(days))
    result: Words = np.where(carries, np.where(exists, next_day, packed), rounded)
    return result


def _round_up(microseconds: Int64s, fsp: int) -> Int64s:
    """Half up, which is towards later also below zero."""
    unit = 10 ** (6 - fsp)
    result: Int64s = (microseconds + unit // 2) // unit * unit
    return result


def to_time(change: Change, values: ArrowArray) -> ArrowArray:
    """The old values as TIME; null where TiDB stores NULL, for numbers far out of range.

    Raises:
        UnsupportedError: what became of a value depends on the session that changed the column.
    """
    old, fsp = change.old, change.new.fsp
    if old.tp in DATETIME_TYPES:
        time_of_day, _ = unpack_times_of_day(packed_times(values))
        return primitive(_round_up(time_of_day, fsp), pa.duration("us"))
    if old.tp == MySQLType.TIME:
        return primitive(_round_up(_microseconds(values), fsp), pa.duration("us"))
    texts = string_form(values, old)
    if old.tp in STRING_TYPES:
        raw = pc.cast(texts, pa.binary())
        result = map_distinct(raw, lambda text: _known(loose_time(text, fsp)), pa.int64())
    else:
        is_float = old.tp in (MySQLType.FLOAT, MySQLType.DOUBLE)
        result = map_distinct(
            texts, lambda text: _time_of_number(text, fsp, is_float=is_float), pa.int64()
        )
    if pc.any(pc.equal(result, _UNKNOWN)).as_py():
        raise change.unsupported("the session's time zone or sql_mode decided about one")
    times: ArrowArray = pc.cast(result, pa.duration("us"))
    return times


def _known(time_us: int | None) -> int:
    return _UNKNOWN if time_us is None else time_us


def _time_of_number(text: str, fsp: int, *, is_float: bool) -> int | None:
    """Of the digits of a number; None for NULL."""
    if is_float:
        number, largest = round(float(text)), MAX_INT64 + 1
    else:
        number, largest = int(Decimal(text).to_integral_value(ROUND_HALF_UP)), MAX_INT64
    if number < -_MAX_TIME_NUMBER or number > largest:
        return None
    if _MAX_TIME_NUMBER < number < _LEAST_DATETIME_NUMBER:
        return MAX_TIME_US
    return _known(loose_time(text.encode(), fsp))


def years(values: ArrowArray) -> Int64s:
    """The years of stored dates."""
    result: Int64s = (packed_times(values) >> _CLOCK_BITS).view(np.int64) // (13 << 5)
    return result


def times_as_numbers(values: ArrowArray, old: FieldType) -> ArrowArray:
    """Dates and times as the numbers that their digits make: int64 for DATE, else decimals."""
    if old.tp == MySQLType.TIME:
        microseconds = _microseconds(values)
        sign = np.sign(microseconds)
        seconds, fraction = np.divmod(np.abs(microseconds), _SECOND_US)
        return _decimals(sign * _clock_number(seconds), sign * fraction)
    packed = packed_times(values)
    if old.tp in _DATE_TYPES:
        return primitive(_date_number(packed), pa.int64())
    seconds, fraction = np.divmod(unpack_times_of_day(packed)[0], _SECOND_US)
    return _decimals(_date_number(packed) * _SECOND_US + _clock_number(seconds), fraction)


def times_as_integers(values: ArrowArray, old: FieldType) -> Int64s:
    """The same rounded to a second, as a time and not as a number: 59.5 s become one minute.

    What cannot be rounded, an impossible date at the end of its day, becomes 0.
    """
    if old.tp == MySQLType.TIME:
        seconds = _round_up(_microseconds(values), 0) // _SECOND_US
        return np.sign(seconds) * _clock_number(np.abs(seconds))
    packed = _round_packed(packed_times(values), old.fsp, 0)
    date = _date_number(packed)
    if old.tp in _DATE_TYPES:
        return date
    seconds = unpack_times_of_day(packed)[0] // _SECOND_US
    is_rounded = packed & _MICROSECOND_MASK == 0
    return np.where(is_rounded, date * _SECOND_US + _clock_number(seconds), 0)


def _microseconds(values: ArrowArray) -> Int64s:
    result: Int64s = pc.cast(values, pa.int64()).to_numpy()
    return result


def _date_number(packed: Words) -> Int64s:
    date = (packed >> _CLOCK_BITS).view(np.int64)
    year, month = np.divmod(date >> 5, 13)
    result: Int64s = year * 10_000 + month * 100 + (date & 31)
    return result


def _clock_number(seconds: Int64s) -> Int64s:
    minutes, second = np.divmod(seconds, 60)
    hour, minute = np.divmod(minutes, 60)
    result: Int64s = hour * 10_000 + minute * 100 + second
    return result


def _decimals(whole: Int64s, millionths: Int64s) -> ArrowArray:
    whole_number = pc.cast(primitive(whole, pa.int64()), pa.decimal128(19, 0))
    fraction = pc.cast(primitive(millionths, pa.int64()), pa.decimal128(19, 0))
    millionth = pa.scalar(Decimal("0.000001"), pa.decimal128(7, 6))
    result: ArrowArray = pc.add(whole_number, pc.multiply(fraction, millionth))
    return result
