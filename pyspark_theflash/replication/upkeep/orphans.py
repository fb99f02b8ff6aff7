"""Resolution of orphans: prewrites whose commit does not arrive.

TiDB sends a commit or rollback after each prewrite. It drops the message if the pump cannot be
reached for ten minutes, or if TiDB itself ends in between. Such a prewrite holds back
`resolved_ts`, so after a deadline its transaction is looked up in TiKV by its primary key:

    committed       applied as if the commit had arrived
    rolled back     dropped as if the rollback had arrived
    open            stays pending, and is looked up again
    unknown         stays pending until an operator decides (`theflash resolve`). The transaction
                    may not have reached TiKV yet, or garbage collection has removed its record

Nothing is written to TiKV, so a transaction of a client that died stays open until TiDB's garbage
collector resolves its locks.

A decision is stored in the manifest (`storage/store/orphan.py`) before its effects are published.
The pairing handles it like a commit or rollback, but does not advance the newest commit_ts seen. If
the real commit arrives later, it is compared with the decision like every repeated delivery.

The age of a prewrite counts from the newest commit_ts seen when it arrived, by this machine's
clock. A wrong clock changes when TiKV is asked, not the result.
"""

import logging
from dataclasses import replace
from typing import Final, Protocol

from pyspark_theflash.base.clock import Clock
from pyspark_theflash.base.errors import InternalError, OptionError, TheFlashError
from pyspark_theflash.base.failpoint import fail_point
from pyspark_theflash.base.types import TimeStamp, from_physical_ms
from pyspark_theflash.replication.apply.state import LEDGER_KIND, WriterState
from pyspark_theflash.replication.cdc.position import check_has_binlog
from pyspark_theflash.replication.pairing.ledger import TransactionLedger
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
    SKIPPED,
    Orphan,
    orphans_of,
)
from pyspark_theflash.storage.store.progress import PROGRESS_KIND, Progress
from pyspark_theflash.tidb.schema.meta_key import OutcomeState

ORPHAN_MS: Final = 600_000
"""Ten minutes, as in tidb-binlog's pump."""
_ZERO: Final = TimeStamp(0)
RETRY_MS: Final = 10_000
MOST_AT_ONCE: Final = 1024
_log = logging.getLogger(__name__)


class OrphanWatch:
    """Detects and resolves the orphans of one writer. `after_ms` is the deadline."""

    def __init__(
        self, engine: WriterEngine, state: WriterState, clock: Clock, after_ms: int = ORPHAN_MS
    ) -> None:
        self._engine, self._state, self._clock = engine, state, clock
        self._after_ms = after_ms
        self._next_ms = 0

    def check(self) -> None:
        """Look up overdue transactions in TiKV, store the outcomes durably, and apply them.

        Raises:
            TransactionConflictError: TiKV's answer contradicts an applied transaction.
        """
        deadline = from_physical_ms(max(self._clock.wall_ms() - self._after_ms, 0))
        overdue = self._state.pairing.unmatched_below(deadline)
        if not overdue or self._clock.boottime_ms() < self._next_ms:
            return
        self._next_ms = self._clock.boottime_ms() + RETRY_MS
        overdue.sort(key=lambda pending: pending.hold_ts)
        orphans = self._look_up(overdue[:MOST_AT_ONCE])
        changed = [o for o in orphans if o != self._state.orphans.get(o.start_ts)]
        for orphan in changed:
            if orphan.commit_ts is not None:
                # Before the record is published, so that a contradiction is not stored.
                self._state.pairing.settle(orphan.start_ts, orphan.commit_ts)
                text = "start_ts=%d: %s at commit_ts=%d, by TiKV"
                _log.warning(text, orphan.start_ts, orphan.state, orphan.commit_ts)
        if changed:
            records = [orphan.to_record() for orphan in changed]
            self._engine.publish(Publication((), ManifestChange(records)))
            self._state.orphans.update((orphan.start_ts, orphan) for orphan in changed)
            fail_point("orphans.decided")

    def _look_up(self, overdue: list[PendingTransaction]) -> list[Orphan]:
        """Look up each transaction in TiKV; after the first failure, no other is looked up."""
        orphans, is_available = [], True
        for pending in overdue:
            size_bytes = 0 if pending.payload is None else len(pending.payload)
            orphan = Orphan(pending.start_ts, pending.hold_ts, size_bytes, NO_ANSWER)
            if pending.payload is None:
                orphan = replace(orphan, state=NO_PREWRITE)
            elif not pending.primary:
                orphan = replace(orphan, state=NO_KEY)
            elif is_available:
                try:
                    outcome = self._state.cluster.outcome(pending.primary, pending.start_ts)
                except TheFlashError as error:
                    if isinstance(error, InternalError):
                        raise
                    text = "cannot look up start_ts=%d in TiKV: %s"
                    _log.warning(text, pending.start_ts, error)
                    is_available = False
                else:
                    state = NOT_ASKED if outcome is None else outcome.state.value
                    commit_ts = None if outcome is None else outcome.commit_ts
                    orphan = replace(orphan, state=state, commit_ts=commit_ts)
            orphans.append(orphan)
        return orphans


class WriterMemory(Protocol):
    """A running writer's copies of records that its upkeep changes."""

    def is_open(self, start_ts: TimeStamp) -> bool:
        """Return whether a prewrite is pending without commit or rollback."""

    def decided(self, orphan: Orphan) -> None:
        """Adopt a decision about an orphan, which is durable now."""

    def collected(self, progress: Progress, ledger_records: int) -> None:
        """Adopt `progress.oldest_ts`, which is durable, and prune the ledger up to it."""


def decide(order: ResolveOrder, engine: Engine, running: WriterMemory | None) -> str:
    """Store an operator's decision durably; a `running` writer applies it at once.

    Returns a description.

    Raises:
        OptionError: There is no such orphan, or its state contradicts the decision.
    """
    view = engine.read([ORPHAN_KIND, PENDING_KIND, PROGRESS_KIND])
    start_ts = order.start_ts
    orphan = orphans_of(view).get(start_ts)
    if orphan is None:
        reason = f"{start_ts} is not an orphan; `theflash status` lists all orphans"
        raise OptionError("start_ts", reason)
    progress = Progress.of(view)
    _check(orphan, order.commit_ts, progress.resolved_ts if progress else TimeStamp(0))
    body = view.of_kind(PENDING_KIND).get(orphan.key)
    has_arrived = body is not None and PendingTransaction.from_bytes(body).commit_ts
    if has_arrived or (running is not None and not running.is_open(start_ts)):
        raise OptionError("start_ts", f"the commit or rollback of {start_ts} has arrived")
    decided = replace(orphan, state=BY_HAND, commit_ts=order.commit_ts, by_hand=True)
    _publish(decided, engine, running)
    outcome = f"committed at {order.commit_ts}" if order.commit_ts else "rolled back"
    return f"{start_ts} counts as {outcome}"


def skip(order: ResolveOrder, engine: Engine, running: WriterMemory | None) -> str:
    """Have all messages of a transaction ignored, durably; return a description.

    Raises:
        OptionError: The transaction is applied, or its outcome was decided.
        FeedConflictError: The store is not written from a binlog.
    """
    kinds = [ORPHAN_KIND, PENDING_KIND, LEDGER_KIND, PROGRESS_KIND]
    view, start_ts = engine.read(kinds), order.start_ts
    check_has_binlog(Progress.of(view))
    ledger = TransactionLedger()
    for body in view.of_kind(LEDGER_KIND).values():
        ledger.add_packed(body)
    if ledger.lookup(start_ts) is not None:
        raise OptionError("start_ts", f"{start_ts} is applied, or rolled back")
    orphan = orphans_of(view).get(start_ts, Orphan(start_ts, start_ts, 0, SKIPPED))
    if orphan.commit_ts is not None:
        raise OptionError("start_ts", f"{start_ts} is decided already ({orphan.state})")
    body = view.of_kind(PENDING_KIND).get(orphan.key, b"")
    skipped = replace(orphan, size_bytes=len(body), state=SKIPPED, commit_ts=_ZERO, by_hand=True)
    _publish(skipped, engine, running)
    return f"{start_ts} is skipped: the store differs from TiDB in what it changed"


def _publish(orphan: Orphan, engine: Engine, running: WriterMemory | None) -> None:
    engine.publish(Publication((), ManifestChange([orphan.to_record()])))
    fail_point("orphans.by_hand")
    if running is not None:
        running.decided(orphan)


def _check(orphan: Orphan, commit_ts: TimeStamp, resolved_ts: TimeStamp) -> None:
    start_ts = orphan.start_ts
    if orphan.commit_ts is not None:
        outcome = f"committed at {orphan.commit_ts}" if orphan.commit_ts else "rolled back"
        raise OptionError("start_ts", f"{start_ts} is known to be {outcome} ({orphan.state})")
    if orphan.state == OutcomeState.OPEN.value:
        raise OptionError("start_ts", f"{start_ts} is open in TiKV and may still commit")
    if orphan.state == NO_PREWRITE:
        raise OptionError("start_ts", f"{start_ts}: {NO_PREWRITE}, and so are its changes")
    lower = max(orphan.hold_ts, resolved_ts, start_ts)
    if commit_ts and commit_ts <= lower:
        reason = f"{commit_ts} is impossible: {start_ts} commits above {lower}"
        raise OptionError("committed", reason)
