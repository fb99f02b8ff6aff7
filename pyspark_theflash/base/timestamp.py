"""Parsing and formatting of TiDB timestamps in user input and output.

A timestamp is passed as

    a TSO       470613571969220631, as a number or as text
    a time      '2026-11-21T09:05:30.250+08:00', '2026-11-21 01:05:30Z'; a time zone is required
    a datetime  with a time zone

A time means the first TSO of its millisecond. A read there returns what was committed *before* that
millisecond, like TiDB's `AS OF TIMESTAMP`.
"""

import operator
import re
from datetime import datetime, timedelta, timezone
from typing import Final, SupportsIndex, TypeAlias

from pyspark_theflash.base.types import MAX_TS, TimeStamp, from_physical_ms, physical_ms

AnyTimestamp: TypeAlias = int | str | datetime
"""Type of a timestamp argument; see the module docstring."""

_TIME: Final = re.compile(
    r"(\d{4})-(\d{1,2})-(\d{1,2})"
    r"(?:[ T](\d{1,2}):(\d{2})(?::(\d{2})(?:\.(\d{1,9}))?)?)?"
    r"\s*(Z|UTC|[+-]\d{2}(?::?\d{2})?)?",
    re.ASCII | re.IGNORECASE,
)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MILLISECOND: Final = timedelta(milliseconds=1)
_PLAUSIBLE_S: Final = range(1_262_304_000, 4_102_444_800)
"""2010 to 2100. TSOs are larger than counts of seconds, milli- or microseconds in this range."""
_UNITS: Final = (("seconds", 1), ("milliseconds", 10**3), ("microseconds", 10**6))


def parse_timestamp(value: AnyTimestamp | SupportsIndex) -> TimeStamp:
    """Convert `value` to a TSO; see the module docstring.

    Raises:
        ValueError: It is not a timestamp, or looks like a Unix time.
    """
    if isinstance(value, datetime):
        return _of_datetime(value)
    if isinstance(value, str):
        text = value.strip()
        return _of_number(int(text)) if _is_number(text) else _of_time(text)
    if isinstance(value, bool):
        raise ValueError(f"{value!r} is not a timestamp")
    try:
        return _of_number(operator.index(value))
    except TypeError:
        raise ValueError(f"{value!r} is not a timestamp") from None


def utc(ts: TimeStamp | int) -> str:
    """Format the time of a TSO in UTC, with milliseconds."""
    moment = _EPOCH + timedelta(milliseconds=physical_ms(TimeStamp(ts)))
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def shown(ts: TimeStamp | int) -> str:
    """Format a timestamp for display: the TSO and its time in UTC."""
    return f"{ts} ({utc(ts)})"


def _is_number(text: str) -> bool:
    # Longer numbers are not TSOs, and converting a text takes quadratic time.
    return text.isascii() and text.isdigit() and len(text) <= 30


def _of_number(number: int) -> TimeStamp:
    if not 0 <= number < MAX_TS:
        raise ValueError(f"{number} is not a TSO, a whole number from 0 to 2**64 - 2")
    for unit, per_second in _UNITS:
        if number // per_second in _PLAUSIBLE_S:
            ts = from_physical_ms(number * 1000 // per_second)
            raise ValueError(
                f"{number} looks like {unit} since 1970 and not like a TSO; "
                f"for that time write {ts} or {utc(ts)}"
            )
    return TimeStamp(number)


def _of_time(text: str) -> TimeStamp:
    match = _TIME.fullmatch(text)
    if match is None:
        raise ValueError(
            f"{text[:100]!r} is neither a TSO nor a time such as 2024-02-03T04:05:06.123Z or "
            "2024-02-03 04:05:06+08:00"
        )
    *parts, fraction, zone = match.groups()
    if zone is None:
        raise ValueError(f"{text!r} has no time zone: write {text}Z for UTC, or {text}+08:00")
    year, month, day, hour, minute, second = (int(part or 0) for part in parts)
    try:
        moment = datetime(year, month, day, hour, minute, second, tzinfo=timezone.utc)
    except ValueError as error:
        raise ValueError(f"{text!r} is not a time: {error}") from None
    milliseconds = int((fraction or "").ljust(3, "0")[:3])
    return _of_elapsed(moment - _EPOCH - _offset(zone), milliseconds, text)


def _of_datetime(moment: datetime) -> TimeStamp:
    offset = moment.utcoffset()
    if offset is None:
        raise ValueError(
            f"{moment.isoformat()} has no time zone: set one, such as tzinfo=timezone.utc"
        )
    elapsed = moment.replace(tzinfo=timezone.utc) - _EPOCH - offset
    return _of_elapsed(elapsed, 0, moment.isoformat())


def _of_elapsed(elapsed: timedelta, more_ms: int, text: str) -> TimeStamp:
    milliseconds = elapsed // _MILLISECOND + more_ms
    if not 0 <= milliseconds <= physical_ms(MAX_TS):
        raise ValueError(f"{text!r} is outside the range of a TSO")
    return from_physical_ms(milliseconds)


def _offset(zone: str) -> timedelta:
    """Return the offset of `Z`, `UTC`, `+08`, `-0330` or `+05:30`."""
    digits = re.sub(r"\D", "", zone).ljust(4, "0")
    hours, minutes = int(digits[:2]), int(digits[2:])
    if hours > 23 or minutes > 59:
        raise ValueError(f"{zone!r} is not an offset from UTC")
    offset = timedelta(hours=hours, minutes=minutes)
    return -offset if zone.startswith("-") else offset
