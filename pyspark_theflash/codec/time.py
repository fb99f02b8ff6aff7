"""Packed time: how rows hold DATE, DATETIME and TIMESTAMP.

    ((year * 13 + month) << 5 | day) << 41 | hour << 36 | minute << 30 | second << 24 | microsecond

One uint64, ordered as time is. DATE has no time of day; TIMESTAMP is in UTC. Zero parts
(0000-00-00, 2020-00-10) and days that no calendar has (2020-02-31, under ALLOW_INVALID_DATES) are
legal in TiDB; they are not on Arrow's calendar. As in TiDB's `types/time.go` (`ToPackedUint`).
"""

from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pyspark_theflash.codec.array import ArrowArray
from pyspark_theflash.codec.reader import Mask, Words

DAY_US: Final = 86_400_000_000
_MAX_YEAR: Final = 9999
_LAST_MONTH: Final = _MAX_YEAR * 13 + 12

Int64s = npt.NDArray[np.int64]


@cache
def _months() -> tuple[Int64s, Int64s]:
    """By `year * 13 + month`: days from 1970 to its first day, and its length (0 for month 0)."""
    numbers = np.arange(_LAST_MONTH + 1)
    year, month = numbers // 13, numbers % 13
    since_1970 = (year - 1970) * 12 + month - 1
    start = since_1970.astype("M8[M]").astype("M8[D]").astype(np.int64)
    end = (since_1970 + 1).astype("M8[M]").astype("M8[D]").astype(np.int64)
    return start, np.where(month == 0, 0, end - start)


def unpack_dates(packed: Words) -> tuple[Int64s, Mask, Mask]:
    """The date parts: days since 1970, whether well formed, whether on the calendar.

    The days mean nothing where not both hold.
    """
    date = (packed >> np.uint64(41)).view(np.int64)
    day, month = date & 31, date >> 5
    well_formed = month <= _LAST_MONTH
    month = np.minimum(month, _LAST_MONTH)
    start, length = _months()
    exists = (day > 0) & (day <= length[month])
    return start[month] + (day - 1), well_formed, exists


def unpack_times_of_day(packed: Words) -> tuple[Int64s, Mask]:
    """The times of day: microseconds since midnight, and whether well formed."""
    micro = (packed & np.uint64((1 << 24) - 1)).view(np.int64)
    clock = (packed >> np.uint64(24)).view(np.int64)
    second, minute, hour = clock & 63, (clock >> 6) & 63, (clock >> 12) & 31
    well_formed = (second < 60) & (minute < 60) & (hour < 24) & (micro < 1_000_000)
    return ((hour * 60 + minute) * 60 + second) * 1_000_000 + micro, well_formed


def packed_text(packed: int, *, with_time: bool) -> str:
    """The value as TiDB writes it, whether or not such a day exists."""
    date, clock, micro = packed >> 41, packed >> 24, packed & ((1 << 24) - 1)
    year, month = divmod(date >> 5, 13)
    text = f"{year:04}-{month:02}-{date & 31:02}"
    if not with_time:
        return text
    text += f" {clock >> 12 & 31:02}:{clock >> 6 & 63:02}:{clock & 63:02}"
    return f"{text}.{micro:06}" if micro else text


def pack(days: Int64s, time_of_day_us: Int64s) -> Words:
    """The packed form of days since 1970 plus microseconds since midnight."""
    dates = days.astype("M8[D]")
    months = dates.astype("M8[M]")
    since_0000 = months.astype(np.int64) + 1970 * 12
    day = (dates - months.astype("M8[D]")).astype(np.int64) + 1
    seconds, micro = np.divmod(time_of_day_us, 1_000_000)
    minutes, second = np.divmod(seconds, 60)
    hour, minute = np.divmod(minutes, 60)
    date = (since_0000 // 12 * 13 + since_0000 % 12 + 1) << 5 | day
    clock = hour << 12 | minute << 6 | second
    packed: Words = (date << 41 | clock << 24 | micro).astype(np.uint64)
    return packed


def packed_times(values: ArrowArray) -> Words:
    """The packed form of stored DATEs, DATETIMEs or TIMESTAMPs without nulls."""
    if pa.types.is_date32(values.type):
        days = values.cast(pa.int32()).to_numpy().astype(np.int64)
        return pack(days, np.zeros_like(days))
    days, time_of_day = np.divmod(values.cast(pa.int64()).to_numpy(), DAY_US)
    return pack(days, time_of_day)
