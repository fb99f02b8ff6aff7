"""Which safe point a garbage collection takes, and what held it back.

The safe point is the oldest timestamp that stays readable: the lowest of several bounds, and never
below the one of the collection before.

    asked for      `theflash gc --safe-point`; or without it,
    retention      the newest timestamp minus the store's retention
    resolved_ts    the newest timestamp
    latches        what readers and pins hold
"""

from collections.abc import Iterable
from dataclasses import dataclass

from pyspark_theflash.base.clock import Clock
from pyspark_theflash.base.timestamp import shown
from pyspark_theflash.base.types import LOGICAL_BITS, TimeStamp
from pyspark_theflash.storage.store.latch.latch import Latch
from pyspark_theflash.storage.store.latch.lease import LeaseTable


@dataclass(frozen=True, slots=True)
class SafePointLimit:
    """A safe point is not above `ts`, because of `what`."""

    ts: TimeStamp
    what: str


@dataclass(frozen=True, slots=True)
class SafePoint:
    """The oldest timestamp that stays readable, and what it could not go above."""

    ts: TimeStamp
    held_by: tuple[str, ...]

    def __str__(self) -> str:
        held = f", held back by {' and '.join(self.held_by)}" if self.held_by else ""
        return f"safe point {shown(self.ts)}{held}"


def choose_safe_point(
    oldest_ts: TimeStamp, wanted: TimeStamp | None, bounds: Iterable[SafePointLimit]
) -> SafePoint:
    """The highest safe point within the bounds, of which there is one at least.

    Args:
        oldest_ts: the safe point of before.
        wanted: the one that was asked for; None: as high as may be.
        bounds: what it must not be above.
    """
    found = list(bounds)
    lowest = min(bound.ts for bound in found)
    ts = lowest if wanted is None else min(wanted, lowest)
    held_by = tuple(b.what for b in found if b.ts == lowest) if ts != wanted else ()
    if ts < oldest_ts:
        return SafePoint(oldest_ts, (*held_by, "the safe point of before, which never goes back"))
    return SafePoint(ts, held_by)


def retention_bound(newest_ts: TimeStamp, retention_ms: int) -> SafePointLimit:
    """The bound of a safe point that keeps `retention_ms` before the newest timestamp."""
    ts = TimeStamp(max(newest_ts - (retention_ms << LOGICAL_BITS), 0))
    return SafePointLimit(ts, f"the retention of {retention_ms / 1000:g} s")


def pinned_bounds(leases: LeaseTable, clock: Clock) -> list[SafePointLimit]:
    """The bounds that readers and pins set; see `LeaseTable.oldest_snapshot_ts`."""
    oldest = leases.oldest_snapshot_ts()
    if oldest is None:
        return []
    holders = [x for x in leases.living() if x.kind.pins_snapshot and x.snapshot_ts == oldest]
    if not holders:
        return [
            SafePointLimit(oldest, "a reader that cannot write to the store, or has just ended")
        ]
    return [SafePointLimit(oldest, _described(holder, clock)) for holder in holders]


def _described(latch: Latch, clock: Clock) -> str:
    if latch.grant is not None:
        who = str(latch.grant.wanted)
    else:
        process = "" if latch.holder is None else f" of process {latch.holder.pid}"
        who = f"{latch.kind.value} latch{process}"
    left_s = (latch.expires_ms - clock.boottime_ms()) / 1000
    return f"the {who}, id {latch.id}, which ends in {left_s:.0f} s"
