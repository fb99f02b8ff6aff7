"""Arithmetic, parsing and formatting of packed times and durations.

All functions work on packed values (`tidb/codec/time.py`), which include 0000-00-00 and 2020-02-31;
only functions that compute a weekday or day count need to check whether the date exists.
"""

import re
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from pyspark_theflash.tidb.codec.reader import Mask, Words
from pyspark_theflash.tidb.codec.time import (
    DAY_US,
    IMPOSSIBLE_DAY,
    Int64s,
    pack,
    unpack_dates,
    unpack_times_of_day,
)
from pyspark_theflash.tidb.expression.failure import LackingError

SECOND_US: Final = 1_000_000
# The space characters that Go trims; Python's strip() removes more.
SPACES: Final = "\t\n\v\f\r \u1680\u2028\u2029\u202f\u205f\u3000" + "".join(
    map(chr, range(0x2000, 0x200B))
)
# 838:59:59, the largest TIME.
MAX_DURATION_US: Final = ((838 * 60 + 59) * 60 + 59) * SECOND_US
_FRACTION_DIGITS: Final = 6
MAX_YEAR: Final = 9999
_MAX_DAY: Final = 31

_DATE_TEXT: Final = re.compile(
    r"(\d{1,4})[^\w\s](\d{1,2})[^\w\s](\d{1,2})"
    r"(?:(?:[T\s]+|[^\w\s])(\d{1,2})(?:[^\w\s](\d{1,2})(?:[^\w\s](\d{1,2})(?:\.(\d*))?)?)?)?",
    re.ASCII,
)
_DATE_DIGITS: Final = re.compile(
    r"(\d{4}|\d{2})(\d\d)(\d\d)(?:(\d\d)(\d\d)(\d\d))?(?:\.(\d*))?", re.ASCII
)
# Too few numbers for a date, or too few or too many digits for one without separators, or a space
# before the day. TiDB and TiKV convert such a text to NULL.
_NO_DATE: Final = re.compile(r"\d{1,4}(?:\.\d*|\D+(?:\d{1,4}\D*)?|\s+\d[\d:]*)?|\d{15,}", re.ASCII)
_DATE_AND_MORE: Final = re.compile(r"\d{1,4}[:/-](\d{1,2})[:/-](\d{1,2})\.\d+", re.ASCII)
_CLOCK_TEXT: Final = re.compile(
    r"(-?)(?:(\d+)\s+)?(\d+):(\d{1,2})(?::(\d{1,2}))?(?:\.(\d*))?", re.ASCII
)
_CLOCK_DIGITS: Final = re.compile(r"(-?)(\d{1,7})(?:\.(\d*))?", re.ASCII)


class Parts(NamedTuple):
    """Fields of packed times."""

    year: Int64s
    month: Int64s
    day: Int64s
    hour: Int64s
    minute: Int64s
    second: Int64s
    micro: Int64s


def parts(packed: Words) -> Parts:
    """Return the fields of packed times."""
    micro = (packed & np.uint64((1 << 24) - 1)).view(np.int64)
    clock = (packed >> np.uint64(24)).view(np.int64)
    date = clock >> 17
    year, month = np.divmod(date >> 5, 13)
    return Parts(year, month, date & 31, clock >> 12 & 31, clock >> 6 & 63, clock & 63, micro)


def day_exists(packed: Words) -> Mask:
    """Return whether the date exists in the calendar."""
    return unpack_dates(packed)[0] < IMPOSSIBLE_DAY


def dates_only(packed: Words) -> Words:
    """Return midnight of the same day."""
    midnight: Words = packed >> np.uint64(41) << np.uint64(41)
    return midnight


def time_of_day(packed: Words) -> Int64s:
    """Return the microseconds since midnight."""
    return unpack_times_of_day(packed)[0]


def day_number(packed: Words) -> Int64s:
    """Return MySQL's day number (`calc_daynr`); days past a month's end count on."""
    p = parts(packed)
    delta = 365 * p.year + 31 * (p.month - 1) + p.day
    early = p.month <= 2
    year = np.maximum(p.year - early, 0)
    delta -= np.where(early, 0, (p.month * 4 + 23) // 10)
    number: Int64s = delta + year // 4 - (year // 100 + 1) * 3 // 4
    return np.where((p.year == 0) & (p.month == 0), 0, number)


def first_of_year(year: Int64s) -> Words:
    """Return January 1st of a year."""
    packed: Words = pack_years(year) + np.uint64((1 << 5 | 1) << 41)
    return packed


def pack_years(year: Int64s) -> Words:
    """Return packed years with month 0 and day 0."""
    return (year * 13 << 46).astype(np.uint64)


def round_times(packed: Words, digits: int) -> Words:
    """Round times half up to `digits` fractional digits."""
    unit = 10 ** (_FRACTION_DIGITS - digits)
    micro = (packed & np.uint64((1 << 24) - 1)).view(np.int64)
    rounded = (micro + unit // 2) // unit * unit
    result: Words = packed - micro.view(np.uint64) + (rounded % SECOND_US).astype(np.uint64)
    carried = np.flatnonzero(rounded >= SECOND_US)
    if len(carried):
        days, clock = unpack_dates(result[carried])[0], time_of_day(result[carried])
        more, clock = np.divmod(clock + SECOND_US, DAY_US)
        result[carried] = pack(days + more, clock)
    return result


def time_number(packed: Words, *, is_date: bool) -> Int64s:
    """Return the number 20240229 or 20240229123456, without the fraction."""
    p = parts(packed)
    date = (p.year * 100 + p.month) * 100 + p.day
    clock = (p.hour * 100 + p.minute) * 100 + p.second
    return date if is_date else date * 10**6 + clock


def duration_number(micros: Int64s) -> Int64s:
    """Return the number [-]HHMMSS, e.g. -8385959, without the fraction."""
    minutes, second = np.divmod(np.abs(micros) // SECOND_US, 60)
    hour, minute = np.divmod(minutes, 60)
    number: Int64s = np.sign(micros) * ((hour * 100 + minute) * 100 + second)
    return number


def duration_text(micros: int, digits: int) -> str:
    """Format a duration as TiDB does."""
    seconds, micro = divmod(abs(micros), SECOND_US)
    minutes, second = divmod(seconds, 60)
    text = f"{'-' if micros < 0 else ''}{minutes // 60:02}:{minutes % 60:02}:{second:02}"
    return f"{text}.{micro:06}"[: len(text) + 1 + digits] if digits else text


def parse_time(text: str) -> int | None:
    """Parse a date with optional time of day to a packed time; None where TiDB returns NULL.

    Raises:
        LackingError: The text has an unsupported format, which TiDB may accept.
    """
    text = text.strip(SPACES)
    match = _DATE_TEXT.fullmatch(text) or (
        _DATE_DIGITS.fullmatch(text) if text[:1].isdigit() else None
    )
    if match is None:
        if text[:1].isdigit():
            raise LackingError("a date text of an unusual form")
        return None
    year, month, day, hour, minute, second = (int(part or 0) for part in match.groups()[:6])
    if len(match[1]) <= 2 and any((year, month, day)):
        year += 2000 if year < 70 else 1900
    return _packed(year, month, day, hour, minute, second, match[7] or "")


def _packed(
    year: int, month: int, day: int, hour: int, minute: int, second: int, fraction: str
) -> int | None:
    """Pack the fields; None if one is out of range or the day does not exist."""
    if month > 12 or day > _MAX_DAY or hour > 23 or minute > 59 or second > 59:
        return None
    micro = int(fraction[:7].ljust(7, "0"))
    packed = ((year * 13 + month) << 5 | day) << 41 | hour << 36 | minute << 30 | second << 24
    whole = np.array([packed], np.uint64)
    if month and day and not day_exists(whole)[0]:
        return None
    micro = (micro + 5) // 10
    if micro < SECOND_US:
        return packed | micro
    return int(round_times(whole | np.uint64(SECOND_US - 1), 0)[0])


def is_no_date(text: str) -> bool:
    """Return whether a text is no date to TiDB and TiKV; False if that is not certain."""
    text = text.strip(SPACES)
    if more := _DATE_AND_MORE.fullmatch(text):
        return int(more[1]) > 12 or int(more[2]) > _MAX_DAY
    return _NO_DATE.fullmatch(text) is not None


_NO_DATES: Final = (
    (691231, 700101),
    (99991231, 101000000),
    (691231235959, 700101000000),
)
"""Between these numbers, TiDB reads none as a date: see `parseDateTimeFromNum`."""


def parse_time_number(number: int) -> int | None:
    """Parse 20240229 or 20240229123456, with or without century; 0 is 0000-00-00."""
    if number == 0:
        return 0
    digits = str(number)
    if number < 101 or len(digits) > 14 or any(low < number < high for low, high in _NO_DATES):
        return None
    width = 6 if len(digits) <= 6 else 8 if len(digits) <= 8 else 12 if len(digits) <= 12 else 14
    return parse_time(digits.zfill(width))


def parse_duration(text: str) -> int | None:
    """Parse a TIME to microseconds, clipped to its range; a date is reduced to its time of day.

    Raises:
        LackingError: The text has an unsupported format, which TiDB may accept.
    """
    text = text.strip(SPACES)
    if _DATE_TEXT.fullmatch(text) and ":" in text and not _CLOCK_TEXT.fullmatch(text):
        packed = parse_time(text)
        return None if packed is None else int(time_of_day(np.array([packed], np.uint64))[0])
    if match := _CLOCK_TEXT.fullmatch(text):
        sign, days, hours, minute, second, fraction = match.groups()
        hour = int(days or 0) * 24 + int(hours)
        return _duration(sign, hour, int(minute), int(second or 0), fraction or "")
    if match := _CLOCK_DIGITS.fullmatch(text):
        number = int(match[2])
        clock = number // 10000, number // 100 % 100, number % 100
        return _duration(match[1], *clock, match[3] or "")
    if text[:1].isdigit() or text[:1] == "-":
        raise LackingError("a time text of an unusual form")
    return None


def _duration(sign: str, hour: int, minute: int, second: int, fraction: str) -> int | None:
    if minute > 59 or second > 59:
        return None
    micro = (int(fraction[:7].ljust(7, "0")) + 5) // 10
    total = min(((hour * 60 + minute) * 60 + second) * SECOND_US + micro, MAX_DURATION_US)
    return -total if sign else total


def packed_array(values: npt.NDArray[np.object_], null: Mask) -> tuple[Words, Mask]:
    """Convert parser results to (packed times, NULL mask); rows in `null` were not parsed."""
    missing = missing_in(values, null)
    return np.where(missing, 0, values).astype(np.uint64), missing


def missing_in(values: npt.NDArray[np.object_], null: Mask) -> Mask:
    """Return the rows that were not parsed, or for which the parser returned None."""
    return null | np.array([value is None for value in values], np.bool_)
