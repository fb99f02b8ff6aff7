"""Safe point of a garbage collection, and what limits it.

The safe point is the oldest timestamp that stays readable. It is the lowest of these bounds, and
never below that of the previous collection:

    requested      `theflash gc --safe-point`; or without it,
    retention      the newest timestamp minus the store's retention
    resolved_ts    the newest timestamp
    latches        the snapshots that readers and pins hold
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
    """Upper bound `ts` of a safe point, with its reason `what`."""

    ts: TimeStamp
    what: str


@dataclass(frozen=True, slots=True)
class SafePoint:
    """Oldest timestamp that stays readable, and the reasons why it is not higher."""

    ts: TimeStamp
    held_by: tuple[str, ...]

    def __str__(self) -> str:
        held = f", held back by {' and '.join(self.held_by)}" if self.held_by else ""
        return f"safe point {shown(self.ts)}{held}"


def choose_safe_point(
    oldest_ts: TimeStamp, requested: TimeStamp | None, bounds: Iterable[SafePointLimit]
) -> SafePoint:
    """Choose the highest safe point within the bounds.

    Args:
        oldest_ts: The previous safe point.
        requested: The requested safe point; None requests the highest possible.
        bounds: Upper bounds, at least one.
    """
    limits = list(bounds)
    lowest = min(limit.ts for limit in limits)
    ts = lowest if requested is None else min(requested, lowest)
    held_by = tuple(limit.what for limit in limits if limit.ts == lowest) if ts != requested else ()
    if ts < oldest_ts:
        return SafePoint(oldest_ts, (*held_by, "the previous safe point, which never decreases"))
    return SafePoint(ts, held_by)


def retention_bound(newest_ts: TimeStamp, retention_ms: int) -> SafePointLimit:
    """Return the bound for a retention of `retention_ms` before the newest timestamp."""
    ts = TimeStamp(max(newest_ts - (retention_ms << LOGICAL_BITS), 0))
    return SafePointLimit(ts, f"the retention of {retention_ms / 1000:g} s")


def pinned_bounds(leases: LeaseTable, clock: Clock) -> list[SafePointLimit]:
    """Return the bounds of readers and pins; see `LeaseTable.oldest_snapshot_ts`."""
    oldest = leases.oldest_snapshot_ts()
    if oldest is None:
        return []
    holders = [x for x in leases.living() if x.kind.pins_snapshot and x.snapshot_ts == oldest]
    if not holders:
        return [SafePointLimit(oldest, "a reader that has no write access, or has just ended")]
    return [SafePointLimit(oldest, _described(holder, clock)) for holder in holders]


def _described(latch: Latch, clock: Clock) -> str:
    if latch.grant is not None:
        who = str(latch.grant.wanted)
    else:
        process = "" if latch.holder is None else f" of process {latch.holder.pid}"
        who = f"{latch.kind.value} latch{process}"
    left_s = (latch.expires_ms - clock.boottime_ms()) / 1000
    return f"the {who}, id {latch.id}, which ends in {left_s:.0f} s"
