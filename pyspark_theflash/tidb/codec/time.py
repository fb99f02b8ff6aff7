"""Packed and stored forms of DATE, DATETIME and TIMESTAMP.

    ((year * 13 + month) << 5 | day) << 41 | hour << 36 | minute << 30 | second << 24 | microsecond

Rows hold the packed form, a uint64 whose order is the order of time. A DATE has no time of day; a
TIMESTAMP is in UTC. See `ToPackedUint` in TiDB's `types/time.go`.

Impossible dates
----------------

TiDB has dates with zero parts (0000-00-00, 2020-00-10) and, under ALLOW_INVALID_DATES, days that do
not exist (2020-02-31). The store holds days since 1970, which cannot represent them, so it uses
days after the end of TiDB's calendar, which ends with year 9999 (day 2,932,896):

    day on the calendar          days since 1970
    any other day                IMPOSSIBLE_DAY + ((year * 13 + month) << 5 | day)

The time of day is added to either in the same way. Impossible dates sort after all other dates, and
among themselves as in TiDB. One comparison detects them, and the conversion is lossless.
"""

from enum import Enum
from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pyspark_theflash.base.errors import UnrepresentableValueError
from pyspark_theflash.tidb.codec.reader import Mask, Words

DAY_US: Final = 86_400_000_000
IMPOSSIBLE_DAY: Final = 10_000_000
"""The first stored day that represents an impossible date, in the year 29349."""
_MAX_YEAR: Final = 9999
_LAST_MONTH: Final = _MAX_YEAR * 13 + 12

Int64s = npt.NDArray[np.int64]


class ImpossibleDates(Enum):
    """Policy for impossible dates if the target type cannot represent them."""

    RAISE = "raise"
    NULL = "null"


@cache
def _months() -> tuple[Int64s, Int64s]:
    """Return first day (since 1970) and length (0 for month 0), by `year * 13 + month`."""
    numbers = np.arange(_LAST_MONTH + 1)
    year, month = numbers // 13, numbers % 13
    since_1970 = (year - 1970) * 12 + month - 1
    start = since_1970.astype("M8[M]").astype("M8[D]").astype(np.int64)
    end = (since_1970 + 1).astype("M8[M]").astype("M8[D]").astype(np.int64)
    return start, np.where(month == 0, 0, end - start)


def unpack_fields(packed: int) -> tuple[int, int, int, int, int, int, int]:
    """Split a packed time into year, month, day, hour, minute, second and microsecond."""
    date, clock = packed >> 41, packed >> 24
    year, month = divmod(date >> 5, 13)
    return year, month, date & 31, clock >> 12 & 31, clock >> 6 & 63, clock & 63, packed & 0xFFFFFF


def unpack_dates(packed: Words) -> tuple[Int64s, Mask]:
    """Return the dates as stored days, and which are well formed: their years are up to 9999."""
    date = (packed >> np.uint64(41)).view(np.int64)
    day, month = date & 31, date >> 5
    well_formed = month <= _LAST_MONTH
    month = np.minimum(month, _LAST_MONTH)
    start, length = _months()
    days = start[month] + (day - 1)
    exists = (day > 0) & (day <= length[month])
    return days if exists.all() else np.where(exists, days, IMPOSSIBLE_DAY + date), well_formed


def unpack_times_of_day(packed: Words) -> tuple[Int64s, Mask]:
    """Return the times of day in microseconds since midnight, and which are well formed."""
    micro = (packed & np.uint64((1 << 24) - 1)).view(np.int64)
    clock = (packed >> np.uint64(24)).view(np.int64)
    second, minute, hour = clock & 63, (clock >> 6) & 63, (clock >> 12) & 31
    well_formed = (second < 60) & (minute < 60) & (hour < 24) & (micro < 1_000_000)
    return ((hour * 60 + minute) * 60 + second) * 1_000_000 + micro, well_formed


def pack(days: Int64s, time_of_day_us: Int64s) -> Words:
    """Pack stored days and microseconds since midnight."""
    is_impossible = days >= IMPOSSIBLE_DAY
    on_calendar = np.where(is_impossible, 0, days) if is_impossible.any() else days
    dates = on_calendar.astype("M8[D]")
    months = dates.astype("M8[M]")
    since_0000 = months.astype(np.int64) + 1970 * 12
    day = (dates - months.astype("M8[D]")).astype(np.int64) + 1
    seconds, micro = np.divmod(time_of_day_us, 1_000_000)
    minutes, second = np.divmod(seconds, 60)
    hour, minute = np.divmod(minutes, 60)
    date = (since_0000 // 12 * 13 + since_0000 % 12 + 1) << 5 | day
    if on_calendar is not days:
        date = np.where(is_impossible, days - IMPOSSIBLE_DAY, date)
    clock = hour << 12 | minute << 6 | second
    packed: Words = (date << 41 | clock << 24 | micro).astype(np.uint64)
    return packed


def packed_times(values: pa.Array) -> Words:
    """Pack stored DATEs, DATETIMEs or TIMESTAMPs without nulls."""
    if pa.types.is_date32(values.type):
        days = stored_numbers(values).to_numpy().astype(np.int64)
        return pack(days, np.zeros_like(days))
    days, time_of_day = np.divmod(stored_numbers(values).to_numpy(), DAY_US)
    return pack(days, time_of_day)


def is_stored_time(tp: pa.DataType) -> bool:
    """Whether this is the Arrow type of a DATE, DATETIME or TIMESTAMP."""
    return bool(pa.types.is_date32(tp) or pa.types.is_timestamp(tp))


def stored_numbers(values: pa.Array) -> pa.Array:
    """View stored times as integers: int32 days of a DATE, int64 microseconds of others."""
    return values.view(pa.int32() if pa.types.is_date32(values.type) else pa.int64())


def impossible(values: pa.Array) -> pa.Array:
    """Return which stored times are impossible dates: bool[n]; null for null."""
    return pc.greater_equal(stored_numbers(values), _first_impossible(values.type))


def has_impossible(values: pa.Array) -> bool:
    """Whether any stored time is an impossible date."""
    last = pc.max(stored_numbers(values)).as_py()
    return last is not None and bool(last >= _first_impossible(values.type))


def _first_impossible(tp: pa.DataType) -> int:
    return IMPOSSIBLE_DAY if pa.types.is_date32(tp) else IMPOSSIBLE_DAY * DAY_US


def resolve_impossible(values: pa.Array, policy: ImpossibleDates, column_name: str) -> pa.Array:
    """Apply the policy for impossible dates to stored times.

    Arrays of other types are returned unchanged. To print impossible dates as TiDB does, use
    `text.format_column`.

    Raises:
        UnrepresentableValueError: A date is impossible, and the policy is `RAISE`.
    """
    if not is_stored_time(values.type) or not has_impossible(values):
        return values
    mask = impossible(values)
    if policy is ImpossibleDates.RAISE:
        first = packed_times(values.filter(mask).slice(0, 1))[0]
        text = packed_text(int(first), with_time=not pa.types.is_date32(values.type))
        raise UnrepresentableValueError(column_name, text, "a date")
    return pc.if_else(mask, pa.scalar(None, values.type), values)


def round_half_up(microseconds: Int64s, fsp: int) -> Int64s:
    """Round half up (towards later times) to `fsp` fractional digits, also below zero."""
    unit = 10 ** (6 - fsp)
    rounded: Int64s = (microseconds + unit // 2) // unit * unit
    return rounded


def packed_text(packed: int, *, with_time: bool, fsp: int | None = None) -> str:
    """Format a packed time as TiDB does; the day need not exist.

    Args:
        fsp: Number of fractional digits; None means 6 if the fraction is not zero, else 0.
    """
    year, month, day, hour, minute, second, micro = unpack_fields(packed)
    text = f"{year:04}-{month:02}-{day:02}"
    if not with_time:
        return text
    text += f" {hour:02}:{minute:02}:{second:02}"
    digits = (6 if micro else 0) if fsp is None else fsp
    return f"{text}.{micro:06}"[: len(text) + digits + 1] if digits else text
