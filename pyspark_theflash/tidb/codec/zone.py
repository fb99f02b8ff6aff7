"""Conversion between UTC and the local time of a session, with the rules of Go's `time` package.

A local time occurs twice when clocks are set back. Go's `time.Date` then applies the offset that
results from two lookups: first the offset at that local time taken as UTC, then the offset at the
UTC time that the first offset gives. `utc_of` does the same.
"""

from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pyspark_theflash.tidb.codec.array import primitive
from pyspark_theflash.tidb.codec.change import ReorgSession, TypeChange
from pyspark_theflash.tidb.codec.reader import Mask
from pyspark_theflash.tidb.codec.time import DAY_US, Int64s

_SECOND_US: Final = 1_000_000
# Names of Go and TiDB for the server's own time zone.
_SERVER_ZONES: Final = ("", "Local", "SYSTEM")


def local_of(change: TypeChange, utc_us: Int64s) -> Int64s:
    """Convert UTC times to local times of the session; both in microseconds since 1970.

    Raises:
        UnsupportedError: The session's time zone is unknown.
    """
    return utc_us + _offsets(change, utc_us)


def utc_of(change: TypeChange, local_us: Int64s) -> tuple[Int64s, Mask]:
    """Convert local times to UTC; also return which local times exist in the time zone.

    Raises:
        UnsupportedError: The session's time zone is unknown.
    """
    guess = local_us - _offsets(change, local_us)
    result: Int64s = local_us - _offsets(change, guess)
    return result, result + _offsets(change, result) == local_us


def day_of_change(change: TypeChange) -> int:
    """Return the local day on which a column was changed, in days since 1970.

    Raises:
        UnsupportedError: The time zone is unknown, or the change ran past midnight.
    """
    session = _session(change)
    times = np.array([session.from_ms, session.to_ms], np.int64) * 1000
    first, last = (local_of(change, times) // DAY_US).tolist()
    if first != last:
        raise change.unsupported("the result has the day of the change, which ran on two days")
    return int(first)


def _session(change: TypeChange) -> ReorgSession:
    if change.session is None:
        raise change.unsupported("the result depends on the session's unknown time zone")
    return change.session


def _offsets(change: TypeChange, utc_us: Int64s) -> Int64s:
    session = _session(change)
    if session.offset_s or session.zone == "UTC":
        return np.full(len(utc_us), session.offset_s * _SECOND_US, np.int64)
    if session.zone in _SERVER_ZONES:
        raise change.unsupported("the session used its server's time zone, which is unknown")
    try:
        timestamps = primitive(utc_us, pa.timestamp("us", session.zone))
        local = pc.cast(pc.local_timestamp(timestamps), pa.int64())
    except pa.ArrowException as error:
        raise change.unsupported(f"unknown time zone {session.zone}") from error
    result: Int64s = local.to_numpy() - utc_us
    return result
