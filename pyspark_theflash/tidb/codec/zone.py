"""Times of day in the time zone of a session, as Go's `time` has them.

Of a local time that comes twice, when clocks are put back, Go takes the one that it finds by the
offset which holds at that time of day in UTC; `utc_of` does the same.
"""

from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute

from pyspark_theflash.tidb.codec.array import primitive
from pyspark_theflash.tidb.codec.change import ReorgSession, TypeChange
from pyspark_theflash.tidb.codec.reader import Mask
from pyspark_theflash.tidb.codec.time import DAY_US, Int64s

pc: Any = pyarrow.compute

_SECOND_US: Final = 1_000_000
_NAMELESS: Final = ("", "Local", "SYSTEM")


def local_of(change: TypeChange, utc_us: Int64s) -> Int64s:
    """Microseconds since 1970 in UTC as the session's clock showed them.

    Raises:
        UnsupportedError: the session's time zone is not known.
    """
    result: Int64s = utc_us + _offsets(change, utc_us)
    return result


def utc_of(change: TypeChange, local_us: Int64s) -> tuple[Int64s, Mask]:
    """Inverse of `local_of`, and which times the session's clock shows at all.

    Raises:
        UnsupportedError: the session's time zone is not known.
    """
    near = local_us - _offsets(change, local_us)
    result: Int64s = local_us - _offsets(change, near)
    return result, result + _offsets(change, result) == local_us


def day_of_change(change: TypeChange) -> int:
    """The day on which a column was changed, counted from 1970, by the session's clock.

    Raises:
        UnsupportedError: it is not known, or the change went on over midnight.
    """
    session = _session(change)
    times = np.array([session.from_ms, session.to_ms], np.int64) * 1000
    first, last = (local_of(change, times) // DAY_US).tolist()
    if first != last:
        raise change.unsupported("they got the date of the change, which took place on two days")
    return int(first)


def _session(change: TypeChange) -> ReorgSession:
    if change.session is None:
        raise change.unsupported("the time zone of the session decided about them")
    return change.session


def _offsets(change: TypeChange, utc_us: Int64s) -> Int64s:
    session = _session(change)
    if session.offset_s or session.zone == "UTC":
        return np.full(len(utc_us), session.offset_s * _SECOND_US, np.int64)
    if session.zone in _NAMELESS:
        raise change.unsupported("the session had the time zone of its server")
    try:
        moments = primitive(utc_us, pa.timestamp("us", session.zone))
        local = pc.cast(pc.local_timestamp(moments), pa.int64())
    except pa.ArrowException as error:
        raise change.unsupported(f"the time zone {session.zone} is not known here") from error
    result: Int64s = local.to_numpy() - utc_us
    return result
