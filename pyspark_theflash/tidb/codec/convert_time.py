"""Conversion to DATE, DATETIME, TIMESTAMP and TIME, and of these types to numbers.

All dates pass through the packed form, which also represents zero and impossible dates;
`_stored_times` converts it to the stored form. A DATETIME that becomes a DATE is cut. A DATETIME
that loses fractional digits is rounded half up, if necessary into the next year. So is a TIME:
-1.5 s become -1 s. As a number, a date is YYYYMMDD, a date and time YYYYMMDDhhmmss.ffffff, and a
time hhmmss.ffffff. See `ConvertTo` in TiDB's types/datum.go, and `RoundFrac` and `ToNumber` in
types/time.go.
"""

from dataclasses import replace
from decimal import ROUND_HALF_UP, Decimal
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pyspark_theflash.tidb.codec.array import map_distinct, primitive
from pyspark_theflash.tidb.codec.arrow import arrow_type
from pyspark_theflash.tidb.codec.change import TypeChange
from pyspark_theflash.tidb.codec.convert_string import string_form
from pyspark_theflash.tidb.codec.field_type import (
    DATETIME_TYPES,
    STRING_TYPES,
    FieldType,
    MySQLType,
)
from pyspark_theflash.tidb.codec.loose_number import MAX_INT64
from pyspark_theflash.tidb.codec.loose_time import (
    FIRST_DAY,
    LAST_DAY,
    MAX_TIME_US,
    loose_datetime,
    loose_datetime_of_number,
    loose_time,
)
from pyspark_theflash.tidb.codec.reader import Mask, Words
from pyspark_theflash.tidb.codec.time import (
    DAY_US,
    IMPOSSIBLE_DAY,
    Int64s,
    pack,
    packed_times,
    round_half_up,
    unpack_dates,
    unpack_times_of_day,
)
from pyspark_theflash.tidb.codec.zone import day_of_change, local_of, utc_of

_DATE_TYPES: Final = frozenset({MySQLType.DATE, MySQLType.NEWDATE})
_SECOND_US: Final = 1_000_000
_CLOCK_BITS: Final = np.uint64(41)
_CLOCK_MASK: Final = np.uint64((1 << 41) - 1)
_SECOND_BITS: Final = np.uint64(24)
# The bits of minutes, seconds and microseconds.
_HOUR_MASK: Final = np.uint64((1 << 36) - 1)
_MICROSECOND_MASK: Final = np.uint64((1 << 24) - 1)
_MAX_TIME_NUMBER: Final = 838_59_59
# A number from here on is converted to TIME as a date and time.
_MIN_DATETIME_NUMBER: Final = 10**10
_ZERO_US: Final = IMPOSSIBLE_DAY * DAY_US
# TIMESTAMP: 1970-01-01 00:00:01 to 2038-01-19 03:14:07.999999.
_FIRST_TIMESTAMP_US: Final = _SECOND_US
_END_TIMESTAMP_US: Final = (1 << 31) * _SECOND_US


def to_datetime(change: TypeChange, values: pa.Array) -> pa.Array:
    """Convert values to DATE, DATETIME or TIMESTAMP; null where TiDB stores NULL.

    Raises:
        UnsupportedError: The result depends on unknown settings of the session.
    """
    old, new = change.old, change.new
    if old.tp in DATETIME_TYPES or old.tp == MySQLType.TIME:
        packed = _packed(change, values)
        rounded = _round_by_clock(change, packed, old.fsp if new.tp in _DATE_TYPES else new.fsp)
        if new.tp == MySQLType.TIMESTAMP:
            return _local_to_timestamps(change, packed, rounded)
        return _stored_times(change, rounded)
    if new.tp == MySQLType.TIMESTAMP and pa.types.is_unsigned_integer(values.type):
        return pa.nulls(len(values), arrow_type(new))
    if old.tp in STRING_TYPES:
        raw = pc.cast(values, pa.binary())
        parsed = map_distinct(raw, lambda text: loose_datetime(text, new.fsp, change), pa.uint64())
    else:
        parsed = map_distinct(values, lambda n: loose_datetime_of_number(n, change), pa.uint64())
    packed = parsed.to_numpy()
    is_timestamp = new.tp == MySQLType.TIMESTAMP
    return _parsed_to_timestamps(change, packed) if is_timestamp else _stored_times(change, packed)


def _packed(change: TypeChange, values: pa.Array) -> Words:
    """Pack dates; a TIME is added to the day of the change."""
    if change.old.tp != MySQLType.TIME:
        return packed_times(values)
    at = day_of_change(change) * DAY_US + _microseconds(values)
    return pack(at // DAY_US, at % DAY_US)


def _local_to_timestamps(change: TypeChange, packed: Words, rounded: Words) -> pa.Array:
    """Convert local times to TIMESTAMP. Times out of its range are kept, and not rounded."""
    unrounded_us, local = _local_us(change, packed), _local_us(change, rounded)
    is_time = packed != 0
    utc, exists = utc_of(change, unrounded_us[is_time])
    in_range = _in_range(utc)
    local[is_time] = np.where(in_range, utc_of(change, local[is_time])[0], utc)
    if (utc[~in_range] % 10 ** (6 - change.new.fsp)).any():
        reason = "an out-of-range TIMESTAMP keeps more fractional digits than the column has"
        raise change.unsupported(reason)
    if not (exists & (unrounded_us[is_time] < _ZERO_US)).all() or _leaves_calendar(utc):
        raise change.unsupported("a value is not a valid time in the session's time zone")
    return primitive(local, arrow_type(change.new))


def _leaves_calendar(times_us: Int64s) -> bool:
    days = times_us // DAY_US
    return bool(((days < FIRST_DAY) | (days > LAST_DAY)).any())


def _parsed_to_timestamps(change: TypeChange, packed: Words) -> pa.Array:
    """Convert parsed local times to TIMESTAMP; zero for times out of its range."""
    local = _local_us(change, packed)
    is_day = local < _ZERO_US
    result = np.full_like(local, _ZERO_US)
    if is_day.any():
        utc, exists = utc_of(change, local[is_day])
        result[is_day] = np.where(exists & _in_range(utc), utc, _ZERO_US)
    return primitive(result, arrow_type(change.new))


def _in_range(utc_us: Int64s) -> Mask:
    return (utc_us >= _FIRST_TIMESTAMP_US) & (utc_us < _END_TIMESTAMP_US)


def _local_us(change: TypeChange, packed: Words) -> Int64s:
    """Convert packed times to stored microseconds; impossible dates are after all others."""
    days, well_formed = unpack_dates(packed)
    if not well_formed.all():
        raise change.unsupported("a value is rounded up to the year 10000")
    return days * DAY_US + unpack_times_of_day(packed)[0]


def to_session_time(change: TypeChange, values: pa.Array) -> tuple[TypeChange, pa.Array]:
    """Convert TIMESTAMPs to local times of the session.

    The old type becomes DATETIME, except for conversions to JSON, which has its own TIMESTAMP.

    Raises:
        UnsupportedError: The session's time zone is unknown.
    """
    utc, is_time = pc.cast(values, pa.int64()).to_numpy(), packed_times(values) != 0
    local = utc.copy()
    if is_time.any():
        local[is_time] = local_of(change, utc[is_time])
    old = replace(change.old, tp=MySQLType.DATETIME)
    datetimes = primitive(local, arrow_type(old))
    is_json = change.new.tp == MySQLType.JSON
    return change if is_json else replace(change, old=old), datetimes


def _stored_times(change: TypeChange, packed: Words) -> pa.Array:
    """Convert packed times to the stored form of the new type."""
    new, times_us = change.new, _local_us(change, packed)
    if new.tp in _DATE_TYPES:
        return primitive((times_us // DAY_US).astype(np.int32), arrow_type(new))
    return primitive(times_us, arrow_type(new))


def _round_by_clock(change: TypeChange, packed: Words, fsp: int) -> Words:
    """Round to `fsp` digits by the session's clock, which may jump at the next full second."""
    rounded = _round_packed(packed, change.old.fsp, fsp)
    is_carried = (rounded >> _SECOND_BITS != packed >> _SECOND_BITS) & (rounded != packed)
    if change.session is None:
        # Clocks change only at full hours, so the time zone does not matter elsewhere.
        is_carried &= (rounded & _HOUR_MASK) == 0
    exists = unpack_dates(packed)[0] < IMPOSSIBLE_DAY
    (carried,) = np.nonzero(is_carried & exists)
    if len(carried):
        utc, is_valid = utc_of(change, _local_us(change, packed[carried]))
        unit = 10 ** (6 - fsp)
        days, time_of_day = np.divmod(local_of(change, (utc + unit // 2) // unit * unit), DAY_US)
        rounded[carried] = np.where(is_valid, pack(days, time_of_day), rounded[carried])
    return rounded


def _round_packed(packed: Words, old_fsp: int, fsp: int) -> Words:
    """Round to `fsp` digits. Impossible dates that would carry into the next day are unchanged."""
    if fsp >= old_fsp:
        return packed
    days, _ = unpack_dates(packed)
    exists = days < IMPOSSIBLE_DAY
    time_of_day = round_half_up(unpack_times_of_day(packed)[0], fsp)
    carries = time_of_day == DAY_US
    clock = pack(np.zeros_like(days), time_of_day % DAY_US) & _CLOCK_MASK
    rounded = (packed & ~_CLOCK_MASK) | clock
    next_day = pack(days + 1, np.zeros_like(days))
    return np.where(carries, np.where(exists, next_day, packed), rounded)


def to_time(change: TypeChange, values: pa.Array) -> pa.Array:
    """Convert values to TIME; null where TiDB stores NULL, for numbers far out of range.

    Raises:
        UnsupportedError: The result depends on unknown settings of the session.
    """
    old, fsp = change.old, change.new.fsp
    if old.tp in DATETIME_TYPES:
        time_of_day, _ = unpack_times_of_day(packed_times(values))
        return primitive(round_half_up(time_of_day, fsp), pa.duration("us"))
    if old.tp == MySQLType.TIME:
        return primitive(round_half_up(_microseconds(values), fsp), pa.duration("us"))
    texts = string_form(values, old)
    if old.tp in STRING_TYPES:
        raw = pc.cast(texts, pa.binary())
        result = map_distinct(raw, lambda text: loose_time(text, fsp, change), pa.int64())
    else:
        result = map_distinct(texts, lambda text: _time_of_number(text, change), pa.int64())
    return pc.cast(result, pa.duration("us"))


def _time_of_number(text: str, change: TypeChange) -> int | None:
    """Convert the digits of a number to TIME; return None for NULL."""
    if change.old.tp in (MySQLType.FLOAT, MySQLType.DOUBLE):
        number, largest = round(float(text)), MAX_INT64 + 1
    else:
        number, largest = int(Decimal(text).to_integral_value(ROUND_HALF_UP)), MAX_INT64
    if number < -_MAX_TIME_NUMBER or number > largest:
        return None
    if _MAX_TIME_NUMBER < number < _MIN_DATETIME_NUMBER:
        return MAX_TIME_US
    return loose_time(text.encode(), change.new.fsp, change)


def years(values: pa.Array) -> Int64s:
    """Return the years of stored dates."""
    result: Int64s = (packed_times(values) >> _CLOCK_BITS).view(np.int64) // (13 << 5)
    return result


def times_as_numbers(values: pa.Array, old: FieldType) -> pa.Array:
    """Convert dates and times to the numbers of their digits: int64 for DATE, else decimals."""
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


def times_as_integers(change: TypeChange, values: pa.Array) -> Int64s:
    """Round times to full seconds (59.5 s become one minute) and convert them to their digits.

    An impossible date that would carry into the next day becomes 0.
    """
    old = change.old
    if old.tp == MySQLType.TIME:
        seconds = round_half_up(_microseconds(values), 0) // _SECOND_US
        return np.sign(seconds) * _clock_number(np.abs(seconds))
    packed = _round_by_clock(change, packed_times(values), 0)
    date = _date_number(packed)
    if old.tp in _DATE_TYPES:
        return date
    seconds = unpack_times_of_day(packed)[0] // _SECOND_US
    is_rounded = packed & _MICROSECOND_MASK == 0
    return np.where(is_rounded, date * _SECOND_US + _clock_number(seconds), 0)


def _microseconds(values: pa.Array) -> Int64s:
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


def _decimals(whole: Int64s, millionths: Int64s) -> pa.Array:
    whole_number = pc.cast(primitive(whole, pa.int64()), pa.decimal128(19, 0))
    fraction = pc.cast(primitive(millionths, pa.int64()), pa.decimal128(19, 0))
    millionth = pa.scalar(Decimal("0.000001"), pa.decimal128(7, 6))
    return pc.add(whole_number, pc.multiply(fraction, millionth))
