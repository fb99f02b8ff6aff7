"""Prewrites whose commit does not come: TiKV is asked about them, or an operator decides.

TiDB sends a commit or a rollback after each prewrite, and forgets it if the pump cannot be reached
for ten minutes, or if TiDB itself ends in between. `resolved_ts` stays below such a prewrite, so
after a deadline its transaction is looked up in TiKV by its primary key:

    committed       applied as if the commit had come
    rolled back     dropped as if the rollback had come
    open            waits on; it is asked about again
    unknown         waits on, and for an operator: `theflash resolve`. The transaction may not have
                    come to TiKV yet, or garbage collection has removed its record

Nothing is written to TiKV, so a transaction of a client that died stays open until TiDB's garbage
collector resolves its locks.

A decision gets into the manifest (`storage/store/orphan.py`) before what it decides is published,
and the pairing takes it like a commit or rollback without the claim that the input has come so far.
If the real commit arrives later it is compared with the decision, as every second delivery is.

Age counts from the newest commit that had arrived when the prewrite came, by this machine's clock.
A wrong clock changes when TiKV is asked, not what comes of it.
"""

import logging
from dataclasses import replace
from typing import Final, Protocol

from pyspark_theflash.base.clock import Clock
from pyspark_theflash.base.errors import InternalError, OptionError, TheFlashError
from pyspark_theflash.base.failpoint import fail_point
from pyspark_theflash.base.types import TimeStamp, from_physical_ms
from pyspark_theflash.replication.apply.state import WriterState
from pyspark_theflash.replication.pairing.pending import PENDING_KIND, PendingTransaction
from pyspark_theflash.storage.engine.api import Engine, Publication, WriterEngine
from pyspark_theflash.storage.store.command import ResolveOrder
from pyspark_theflash.storage.store.manifest import ManifestChange
from pyspark_theflash.storage.store.orphan import (
    BY_HAND,
    NO_ANSWER,
    NO_KEY,
    NO_PREWRITE,
    NOT_ASKED,
    ORPHAN_KIND,
    Orphan,
    orphans_of,
)
from pyspark_theflash.storage.store.progress import PROGRESS_KIND, Progress
from pyspark_theflash.tidb.schema.meta_key import Outcome, OutcomeState

ORPHAN_MS: Final = 600_000
"""As tidb-binlog's pump, which asks TiKV after ten minutes."""
RETRY_MS: Final = 10_000
MOST_AT_ONCE: Final = 1024
_log = logging.getLogger(__name__)


class OrphanWatch:
    """Looks after what one writer waits for. `after_ms` is the deadline."""

    def __init__(
        self, engine: WriterEngine, state: WriterState, clock: Clock, after_ms: int = ORPHAN_MS
    ) -> None:
        self._engine, self._state, self._clock = engine, state, clock
        self._after_ms = after_ms
        self._next_ms = 0

    def look(self) -> None:
        """Ask TiKV about what is overdue, make the answers durable, and use them.

        Raises:
            TransactionConflictError: TiKV's answer contradicts what is applied.
        """
        overdue = from_physical_ms(max(self._clock.wall_ms() - self._after_ms, 0))
        found = self._state.pairing.unmatched_below(overdue)
        if not found or self._clock.boottime_ms() < self._next_ms:
            return
        self._next_ms = self._clock.boottime_ms() + RETRY_MS
        found.sort(key=lambda pending: pending.hold_ts)
        orphans = self._told(found[:MOST_AT_ONCE])
        news = [o for o in orphans if o != self._state.orphans.get(o.start_ts)]
        for orphan in news:
            if orphan.commit_ts is not None:
                # Before the record: what contradicts the store must not get into it.
                self._state.pairing.settle(orphan.start_ts, orphan.commit_ts)
                text = "start_ts=%d: %s at commit_ts=%d, by TiKV"
                _log.warning(text, orphan.start_ts, orphan.known, orphan.commit_ts)
        if news:
            records = [orphan.to_record() for orphan in news]
            self._engine.publish(Publication((), ManifestChange(records)))
            self._state.orphans.update((orphan.start_ts, orphan) for orphan in news)
            fail_point("orphans.decided")

    def _told(self, found: list[PendingTransaction]) -> list[Orphan]:
        """Ask about each; after one question without an answer, no other is asked."""
        orphans, answers = [], True
        for pending in found:
            size_bytes = 0 if pending.payload is None else len(pending.payload)
            orphan = Orphan(pending.start_ts, pending.hold_ts, size_bytes, NO_ANSWER)
            if pending.payload is None:
                orphan = replace(orphan, known=NO_PREWRITE)
            elif not pending.primary:
                orphan = replace(orphan, known=NO_KEY)
            elif answers:
                try:
                    orphan = _as_told(orphan, self._state.outcome(pending))
                except TheFlashError as error:
                    if isinstance(error, InternalError):
                        raise
                    _log.warning("TiKV was asked about start_ts=%d: %s", pending.start_ts, error)
                    answers = False
            orphans.append(orphan)
        return orphans


def _as_told(orphan: Orphan, outcome: Outcome | None) -> Orphan:
    if outcome is None:
        return replace(orphan, known=NOT_ASKED)
    return replace(orphan, known=outcome.state.value, commit_ts=outcome.commit_ts)


class OpenTransactions(Protocol):
    """The transactions of a running writer that wait for a commit or rollback."""

    def is_open(self, start_ts: TimeStamp) -> bool:
        """Whether a prewrite waits."""

    def decided(self, orphan: Orphan) -> None:
        """How it ended is durable now."""


def decide(order: ResolveOrder, engine: Engine, running: OpenTransactions | None) -> Orphan:
    """Make an operator's decision durable; a `running` writer goes by it at once.

    Raises:
        OptionError: there is no such orphan, or what is known contradicts the decision.
    """
    view = engine.read([ORPHAN_KIND, PENDING_KIND, PROGRESS_KIND])
    start_ts = order.start_ts
    orphan = orphans_of(view).get(start_ts)
    if orphan is None:
        reason = f"{start_ts} is no orphan; `theflash status` lists those there are"
        raise OptionError("start_ts", reason)
    progress = Progress.of(view)
    _check(orphan, order.commit_ts, progress.resolved_ts if progress else TimeStamp(0))
    body = view.of_kind(PENDING_KIND).get(orphan.key)
    has_arrived = body is not None and PendingTransaction.from_bytes(body).commit_ts
    if has_arrived or (running is not None and not running.is_open(start_ts)):
        raise OptionError("start_ts", f"the commit or rollback of {start_ts} has arrived")
    decided = replace(orphan, known=BY_HAND, commit_ts=order.commit_ts, by_hand=True)
    engine.publish(Publication((), ManifestChange([decided.to_record()])))
    fail_point("orphans.by_hand")
    if running is not None:
        running.decided(decided)
    return decided


def _check(orphan: Orphan, commit_ts: TimeStamp, resolved_ts: TimeStamp) -> None:
    start_ts = orphan.start_ts
    if orphan.commit_ts is not None:
        known = f"committed at {orphan.commit_ts}" if orphan.commit_ts else "rolled back"
        raise OptionError("start_ts", f"{start_ts} is known to be {known} ({orphan.known})")
    if orphan.known == OutcomeState.OPEN.value:
        raise OptionError("start_ts", f"{start_ts} may still commit, says TiKV")
    if orphan.known == NO_PREWRITE:
        raise OptionError("start_ts", f"{start_ts}: {NO_PREWRITE}; nobody else has its changes")
    least = max(orphan.hold_ts, resolved_ts, start_ts)
    if commit_ts and commit_ts <= least:
        reason = f"{commit_ts} is impossible: {start_ts} commits above {least}"
        raise OptionError("committed", reason)
