"""Pauses before keys are requested again after an error."""

from dataclasses import dataclass
from typing import Final

from pyspark_theflash.replication.cdc.wire import FeedError, FeedFault


@dataclass(frozen=True, slots=True)
class _Backoff:
    first_ms: int
    then_ms: int
    max_ms: int


_STREAM: Final = _Backoff(100, 500, 10_000)
_LOCATED: Final = _Backoff(0, 50, 2000)
"""For errors that name the region or its leader."""
_BACKOFFS: Final = {
    FeedFault.NOT_LEADER: _Backoff(50, 50, 2000),
    FeedFault.MOVED: _Backoff(20, 50, 5000),
    FeedFault.BUSY: _Backoff(1000, 1000, 20_000),
    FeedFault.CONGESTED: _Backoff(1000, 1000, 20_000),
}
_OTHER: Final = _Backoff(500, 1000, 20_000)
_DOUBLINGS: Final = 10


def after_error(error: FeedError, failures: int) -> int:
    """Return the milliseconds to wait; `failures` are those since the last success."""
    is_located = error.leader is not None or bool(error.regions)
    backoff = _LOCATED if is_located else _BACKOFFS.get(error.fault, _OTHER)
    return max(_wait_ms(backoff, failures), min(error.backoff_ms, backoff.max_ms))


def after_stream(failures: int) -> int:
    """Return the milliseconds to wait after the end of a stream, or a failed lookup."""
    return _wait_ms(_STREAM, failures)


def _wait_ms(backoff: _Backoff, failures: int) -> int:
    if not failures:
        return backoff.first_ms
    return min(backoff.then_ms << min(failures - 1, _DOUBLINGS), backoff.max_ms)
