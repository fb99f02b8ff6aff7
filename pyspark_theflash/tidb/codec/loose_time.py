"""Parsing of dates and times from texts and numbers that are not in TiDB's own form.

    20-1-2, 2020/01/02 03.04, 20200102T030405, 200102          text -> date and time
    20200102, 200102, 20200102030405                           number -> date and time
    1 12:30, 12:30:45.5, 123045, 2020-01-02T12:30:45           text -> time

Dates and times are returned packed (`tidb.codec.time`), times in microseconds. Like TiDB without a
strict sql_mode, the functions return zero for text that cannot be parsed, or the parsed part of a
time. These results depend on the session, and raise `UnsupportedError` if its settings are unknown:

- A time with a time zone is converted to the session's time zone.
- A time that is rounded up to the next second becomes zero if it does not exist in the session's
  time zone.
- A date like February 30 is valid only under ALLOW_INVALID_DATES.

See `ParseTime`, `ParseTimeFromNum` and `ParseDuration` in TiDB's types/time.go. Texts are bytes,
because TiDB examines single bytes; they are decoded as Latin-1 here.
"""

import re
from calendar import isleap
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from pyspark_theflash.tidb.codec.change import TypeChange
from pyspark_theflash.tidb.codec.field_type import MySQLType
from pyspark_theflash.tidb.codec.loose_number import MAX_INT64, trim
from pyspark_theflash.tidb.codec.time import DAY_US, Int64s, pack, unpack_dates, unpack_fields
from pyspark_theflash.tidb.codec.zone import local_of, utc_of

MAX_TIME_US: Final = (838 * 3600 + 59 * 60 + 59) * 1_000_000
_MAX_YEAR: Final = 9999
# 0000-01-01 and 9999-12-31 in days since 1970.
FIRST_DAY: Final = -719_528
LAST_DAY: Final = 2_932_896
_FRACTION_DIGITS: Final = 6
_SECOND_US: Final = 10**_FRACTION_DIGITS
_MAX_ZONE_MINUTES: Final = 14 * 60
# A number with more digits is out of range for every part of a date.
_MAX_PART_DIGITS: Final = 9
_INT64_DIGITS: Final = 19
# A text of at least this length with trailing characters is a date and time, not a time.
_DATETIME_DIGITS: Final = 12

_PUNCTUATION: Final = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
# The single bytes that Go's `unicode.IsPunct` accepts.
_GO_PUNCTUATION: Final = "!\"#%&'()*,-./:;?@[\\]_{}\xa1\xa7\xab\xb6\xb7\xbb\xbf"
_DATE_TIME_SEPARATORS: Final = "T \t\n\v\f\r"
_ZONE: Final = re.compile(
    r"(Z|(?P<sign>[+-])(?P<hour>\d\d)((?P<colon>:?)(?P<minute>\d\d))?)\Z", re.A
)
_DIGITS: Final = re.compile(r"\d+", re.A)
# Widths of the parts of a date without separators, by its length.
_COMPACT: Final = {
    14: (4, 2, 2, 2, 2, 2),
    12: (2, 2, 2, 2, 2, 2),
    11: (2, 2, 2, 2, 2, 1),
    10: (2, 2, 2, 2, 2),
    9: (2, 2, 2, 2, 1),
    8: (4, 2, 2),
    7: (2, 2, 2, 1),
    6: (2, 2, 2),
    5: (2, 2, 1),
}
# The single bytes that Go's `unicode.IsSpace` accepts.
_SPACES: Final = "\t\n\v\f\r \x85\xa0"
_COLON: Final = re.compile(rf"[{_SPACES}]*:[{_SPACES}]*")
_GAP: Final = re.compile(rf"[{_SPACES}]+")
_FRACTION: Final = re.compile(r"\.(\d*)", re.A)
_LIKE_DATETIME: Final = re.compile(
    r"(\d{{12}}|\d{{14}})(?!\d)|\d+[{0}]\d+[{0}]\d+[ T]".format(re.escape(_GO_PUNCTUATION)),
    re.A,
)


class _Fields(NamedTuple):
    """Year to microsecond. The date and time need not exist."""

    year: int = 0
    month: int = 0
    day: int = 0
    hour: int = 0
    minute: int = 0
    second: int = 0
    microsecond: int = 0

    @property
    def is_well_formed(self) -> bool:
        return (
            self.year <= _MAX_YEAR
            and self.month <= 12
            and self.day <= 31
            and self.hour < 24
            and self.minute < 60
            and self.second < 60
        )

    @property
    def days_in_month(self) -> int:
        if self.month == 2:
            return 29 if isleap(self.year) else 28
        return 30 if self.month in (4, 6, 9, 11) else 31

    @property
    def exists(self) -> bool:
        return self.is_well_formed and self.month > 0 and 0 < self.day <= self.days_in_month

    @property
    def packed(self) -> int:
        """The packed form: date, time of day and microseconds. The fields must be well formed."""
        date = (self.year * 13 + self.month) << 5 | self.day
        clock = self.hour << 12 | self.minute << 6 | self.second
        return (date << 17 | clock) << 24 | self.microsecond

    @property
    def since_1970_us(self) -> Int64s:
        """Microseconds since 1970, as an array of one. The date and time must exist."""
        days, _ = unpack_dates(np.array([self.packed], np.uint64))
        return days * DAY_US + _time_of_day(self.packed)

    def checked(self, change: TypeChange) -> int:
        """Return the packed form, or 0 if TiDB does not store this date and time."""
        if not self.is_well_formed:
            return 0
        if self.month > 0 and self.day > self.days_in_month:
            # TIMESTAMP does not allow such a date.
            is_valid = change.new.tp != MySQLType.TIMESTAMP and change.keeps_invalid_dates
            return self.packed if is_valid else 0
        return self.packed


def loose_datetime(text: bytes, fsp: int, change: TypeChange) -> int:
    """Parse date and time, rounded to `fsp` digits; return it packed. Raises `UnsupportedError`."""
    pieces, fraction, zone = _split(text.decode("latin-1"))
    if fraction and _is_incomplete(pieces):
        pieces, fraction = [*pieces, fraction], ""
    has_bare_minute = zone and zone["minute"] and not zone["colon"]
    if zone and zone["sign"] and _is_incomplete(pieces) and not has_bare_minute:
        pieces, zone = [*pieces, *filter(None, (zone["hour"], zone["minute"]))], None
    fields = _fields(pieces, fraction)
    if fields is None:
        return 0
    if len(pieces[0]) <= 2 and (any(fields) or fraction):
        fields = fields._replace(year=_full_year(fields.year))
    has_seconds = len(pieces) >= 6 or len(pieces[0]) in (11, 12, 14)
    if has_seconds and fraction:
        microsecond, carry = _microseconds(fraction, fsp)
        fields = fields._replace(microsecond=microsecond)
        if carry:
            return _add_second(fields, zone, change)
    if zone:
        return _to_session_zone(fields, zone, change) if has_seconds else 0
    return fields.checked(change)


def _add_second(fields: _Fields, zone: "re.Match[str] | None", change: TypeChange) -> int:
    """Add one second in the session's time zone, then apply the time zone of the text, if any."""
    if not fields.exists:
        return 0
    utc, exists = utc_of(change, fields.since_1970_us)
    later = _pack(local_of(change, utc + _SECOND_US)) if exists[0] else 0
    if not (zone and later):
        return later
    return _to_session_zone(_Fields(*unpack_fields(later)), zone, change)


def _to_session_zone(fields: _Fields, zone: "re.Match[str]", change: TypeChange) -> int:
    """Convert a date and time from the time zone `zone` to the session's."""
    if not (fields.exists and _is_zone(zone)):
        return 0
    return _pack(local_of(change, fields.since_1970_us - _offset_minutes(zone) * 60 * _SECOND_US))


def _pack(since_1970_us: Int64s) -> int:
    """Pack a date and time; return 0 for years before 0 or after 9999."""
    days, time_of_day = np.divmod(since_1970_us, DAY_US)
    return int(pack(days, time_of_day)[0]) if FIRST_DAY <= days[0] <= LAST_DAY else 0


def _is_incomplete(pieces: Sequence[str]) -> bool:
    """Whether what follows is a part of the date or time, though it looks like fraction or zone."""
    return len(pieces) <= 5 and not (len(pieces) == 1 and len(pieces[0]) > 4)


def _split(text: str) -> tuple[list[str], str, "re.Match[str] | None"]:
    """Split a text into the numbers of date and time, the fraction's digits, and the time zone."""
    zone = _ZONE.search(text)
    start = _zone_start(text, zone)
    if zone and start == 0:
        zone = None
    if zone:
        text = text[:start].rstrip(_PUNCTUATION)
    point = _point(text)
    if point <= 0:
        return _pieces(text), "", zone
    digits = _DIGITS.match(text, point + 1)
    return _pieces(text[:point].rstrip(_PUNCTUATION)), digits.group() if digits else "", zone


def _zone_start(text: str, zone: "re.Match[str] | None") -> int:
    """Return where the zone begins: at the last Z, else at the offset; without a zone, the end."""
    if zone is None:
        return len(text)
    z = text.rfind("Z")
    return z if z >= 0 else zone.start()


def _point(text: str) -> int:
    """Return the position of the last punctuation before the zone if it is a point, else -1."""
    before = text[: _zone_start(text, _ZONE.search(text))]
    last = max(before.rfind(char) for char in _GO_PUNCTUATION)
    return last if last >= 0 and before[last] == "." else -1


def _pieces(text: str) -> list[str]:
    """Split a text at separators. The last character, of any kind, belongs to the last piece."""
    text = trim(text.encode("latin-1")).decode("latin-1")
    if not _DIGITS.match(text):
        return []
    pieces: list[str] = []
    start, at = 0, 1
    while at < len(text) - 1:
        if _separates(text[at], len(pieces)):
            count = len(pieces)
            pieces.append(text[start:at])
            while at + 1 < len(text) and _separates(text[at + 1], count):
                at += 1
            start = at + 1
        elif not _DIGITS.match(text[at]):
            return []
        at += 1
    return [*pieces, text[start:]]


def _separates(char: str, pieces: int) -> bool:
    if char in _PUNCTUATION or (pieces == 2 and char in _DATE_TIME_SEPARATORS):
        return True
    return pieces > 4 and not _DIGITS.match(char)


def _fields(pieces: Sequence[str], fraction: str) -> _Fields | None:
    if len(pieces) == 1:
        return _compact_fields(pieces[0], fraction)
    parts = [_part(piece) for piece in pieces[:6]]
    if len(parts) < 3 or None in parts:
        return None
    return _Fields(*(part for part in parts if part is not None))


def _compact_fields(piece: str, fraction: str) -> _Fields | None:
    """Parse a date without separators; digits of the fraction may supply the missing parts."""
    parts = []
    start = 0
    for width in _COMPACT.get(len(piece), ()):
        digits = _DIGITS.match(piece[start : start + width])
        if digits is None:
            return None
        parts.append(int(digits.group()))
        start += width
    if not parts:
        return None
    if len(piece) not in (8, 14):
        parts[0] = _full_year(parts[0])
    if len(piece) in (5, 6, 8):
        parts += [int(fraction[i : i + 2]) for i in range(0, min(len(fraction), 6), 2)]
    elif len(piece) in (9, 10) and fraction:
        parts.append(int(fraction[:2]))
    return _Fields(*parts)


def _part(piece: str) -> int | None:
    """Parse a part of a date; None if it has other characters than digits."""
    if not _DIGITS.fullmatch(piece):
        return None
    digits = piece.lstrip("0")
    return int(digits or 0) if len(digits) <= _MAX_PART_DIGITS else 10**_MAX_PART_DIGITS


def _full_year(year: int) -> int:
    if year > 99:
        return year
    return year + (2000 if year < 70 else 1900)


def _microseconds(fraction: str, fsp: int) -> tuple[int, bool]:
    """Round a fraction to `fsp` digits; also return whether it became a full second."""
    if len(fraction) <= fsp:
        return int(fraction.ljust(_FRACTION_DIGITS, "0")), False
    rounded = (int(fraction[: fsp + 1]) + 5) // 10
    if rounded >= 10**fsp:
        return 0, True
    return rounded * 10 ** (_FRACTION_DIGITS - fsp), False


def _is_zone(zone: "re.Match[str]") -> bool:
    if not zone["sign"]:
        return True
    offset = abs(_offset_minutes(zone))
    is_minute = int(zone["minute"] or 0) < 60
    return is_minute and offset <= _MAX_ZONE_MINUTES and (offset > 0 or zone["sign"] == "+")


def _offset_minutes(zone: "re.Match[str]") -> int:
    """Return the offset in minutes east of UTC."""
    minutes = int(zone["hour"] or 0) * 60 + int(zone["minute"] or 0)
    return -minutes if zone["sign"] == "-" else minutes


def loose_datetime_of_number(number: int, change: TypeChange) -> int:
    """Convert a number (YYMMDD or YYYYMMDD, optionally with hhmmss) to a packed date and time.

    Raises:
        UnsupportedError: The result depends on unknown settings of the session.
    """
    date, clock = (number, 0) if number <= 99991231 else divmod(number, 1_000000)
    if date < 101 or 691231 < date < 700101:
        return 0
    if date <= 991231:
        date += 20_000000 if date <= 691231 else 19_000000
    year, month, day = date // 10000, date // 100 % 100, date % 100
    hour, minute, second = clock // 10000, clock // 100 % 100, clock % 100
    return _Fields(year, month, day, hour, minute, second).checked(change)


def loose_time(text: bytes, fsp: int, change: TypeChange) -> int:
    """Parse a time, rounded to `fsp` digits; return microseconds. Raises `UnsupportedError`."""
    trimmed = trim(text)
    rest = trimmed.decode("latin-1")
    time_us, is_complete = _time(rest, fsp)
    if is_complete or not _LIKE_DATETIME.match(rest):
        return time_us
    point = _point(rest)
    packed = loose_datetime(trimmed, min(len(rest) - point - 1, 6) if point >= 0 else 0, change)
    unit: int = 10 ** (_FRACTION_DIGITS - fsp)
    return (_time_of_day(packed) + unit // 2) // unit * unit


def _time_of_day(packed: int) -> int:
    *_, hour, minute, second, microsecond = unpack_fields(packed)
    return ((hour * 60 + minute) * 60 + second) * _SECOND_US + microsecond


def _time(text: str, fsp: int) -> tuple[int, bool]:
    """Parse the time at the start of a text; also return whether it is the whole text."""
    sign = -1 if text.startswith("-") else 1
    body = text.removeprefix("-").lstrip(_SPACES)
    clock = _clock_after_days(body) or _clock(body, 0, min_parts=2) or _compact_clock(body)
    if clock is None:
        return 0, False
    rest = body[clock.end :].lstrip(_SPACES)
    hour, minute, second, microsecond = clock.hour, clock.minute, clock.second, 0
    if fraction := _FRACTION.match(rest):
        rest = rest[fraction.end() :]
        microsecond, carry = _microseconds(fraction[1], fsp)
        if carry:
            hour, minute, second = _one_second_later(hour, minute, second)
    if (rest and len(body) >= _DATETIME_DIGITS) or minute >= 60 or second >= 60:
        return 0, False
    time_us = ((hour * 60 + minute) * 60 + second) * _SECOND_US + microsecond
    return sign * min(time_us, MAX_TIME_US), not rest and time_us <= MAX_TIME_US


class _Clock(NamedTuple):
    """Time parsed from a text up to the offset `end`."""

    hour: int
    minute: int
    second: int
    end: int


def _clock_after_days(text: str) -> _Clock | None:
    """Parse a time after a number of days: `1 12:30` is 36 hours and 30 minutes."""
    days = _number(text, 0)
    gap = _GAP.match(text, days[1]) if days else None
    clock = _clock(text, gap.end(), min_parts=1) if gap else None
    if days is None or clock is None:
        return None
    return clock._replace(hour=clock.hour + 24 * days[0])


def _clock(text: str, at: int, *, min_parts: int) -> _Clock | None:
    """Parse `min_parts` to 3 numbers separated by colons; a colon without a number is an error."""
    numbers: list[int] = []
    while len(numbers) < 3:
        parsed = _number(text, at)
        if parsed is None:
            return None
        number, at = parsed
        numbers.append(number)
        colon = _COLON.match(text, at)
        if colon is None or len(numbers) == 3:
            break
        at = colon.end()
    if len(numbers) < min_parts:
        return None
    hour, minute, second = [*numbers, 0, 0][:3]
    return _Clock(hour, minute, second, at)


def _compact_clock(text: str) -> _Clock | None:
    """Parse hhmmss, or a number of fewer digits, which are the last ones of hhmmss."""
    parsed = _number(text, 0)
    if parsed is None:
        return None
    number, end = parsed
    return _Clock(number // 10000, number // 100 % 100, number % 100, end)


def _number(text: str, at: int) -> tuple[int, int] | None:
    """Parse a number of up to 63 bits at the offset `at`; also return its end."""
    match = _DIGITS.match(text, at)
    if match is None:
        return None
    digits = match.group().lstrip("0")
    if len(digits) > _INT64_DIGITS or int(digits or 0) > MAX_INT64:
        return None
    return int(digits or 0), match.end()


def _one_second_later(hour: int, minute: int, second: int) -> tuple[int, int, int]:
    """Add one second; minutes and seconds above 59 are not normalized."""
    if second != 59:
        return hour, minute, second + 1
    if minute != 59:
        return hour, minute + 1, 0
    return hour + 1, 0, 0
