"""Prewrites and commits in, whole transactions in commit order out.

The two halves of a transaction are matched by `start_ts`; a rollback drops its prewrite. The order
in which entities arrive means nothing for that: a commit may come before its prewrite, anything may
come again at any time, a stream may start over from any earlier point. What arrival order does tell
is how far the input is *complete*.

resolved_ts
    No transaction that is still to come commits at or below `resolved_ts`. TiDB asks for a
    commit_ts after its prewrite was delivered, and PD's timestamps only grow. So a prewrite that
    arrives when M is the newest commit_ts seen will commit above M (and above its own start_ts,
    always), one that arrives later will as well, and a commit without its prewrite will be found at
    its commit_ts. Each waiting half therefore holds `resolved_ts` down:

        prewrite without commit     max(M at its arrival, start_ts)
        commit without prewrite     commit_ts - 1
        nothing waiting             M

    `resolved_ts` is the lowest of them, and grows with every arrival. (Should a commit come without
    its prewrite and from further back, against that order, it falls again, but not below what has
    been taken.) Times are small numbers here:

        arrives          M    holds             resolved_ts    can be taken
        P start 1        0    {1: 1}            0
        P start 2        0    {1: 1, 2: 2}      0
        C start 2 at 5   5    {1: 1}            1              nothing: 1 may commit at 2, 3, 4, 5
        P start 3        5    {1: 1, 3: 5}      1              began below 5, will commit above it
        C start 1 at 6   6    {3: 5}            5              2 at 5; 3 may commit at 6 as 1 did
        R start 3        6    {}                6              1 at 6
        C start 9 at 9   9    {}                9              a heartbeat, see below

    Ordering by arrival would have published commit 5 at once, and a reader at 5 could have missed
    the change of 1.

Several pumps
    Each pump's binlog is a stream with an M of its own: a commit that arrives from one pump says
    nothing of the prewrites that are still to come from another. With nothing waiting,
    `resolved_ts` is the lowest M. What waits is the same as before, whichever streams its halves
    come from: where M of a prewrite's stream has reached its commit_ts, the prewrite has arrived.

Heartbeats
    A commit, or an empty prewrite, of start_ts == commit_ts says "that late is it now": M grows,
    nothing else happens. Pump itself writes one as a *rollback* with both equal when it has been
    idle. The kind decides: it is the rollback of a transaction that never was, and its commit_ts
    counts as seen. Rollbacks that TiDB sends have commit_ts 0.

Re-delivery
    What is taken gets into the writer's ledger in the same step that publishes it, and `Pairing`
    looks every entity up there first. One of a finished transaction is compared and dropped. So a
    second prewrite of it does not hold `resolved_ts` back, and the same content under another
    commit_ts, other content under the same start_ts, or a commit of what was rolled back raise
    `TransactionConflictError` instead of being half-applied. Transactions that are matched but not
    yet taken are compared the same way.

Late and early
    A commit at or below what has been taken, unknown to the ledger, is *late*: a reader may have
    been told what that timestamp looks like, so it raises. One at or below `oldest_ts`, the oldest
    snapshot the store can answer, is *early*: its change is part of the base that the store began
    with, or the ledger has forgotten it since. It is dropped unread, as a rolled back one is.

Told by others
    How a transaction ended whose commit is lost may be known from elsewhere (`settle`). That is
    taken like its commit or rollback, with one difference: M stays. A commit that arrives shows
    that the input has come so far; what TiKV says of a transaction shows nothing of the kind.

Memory
    What waits for its commit may be more than memory holds; beyond a budget, payloads wait in a
    file (`replication.pairing.spill`).

Restart
    `pending()`, `resolved_ts` and `max_commit_ts`, published with what was taken, are the whole
    state.
"""

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from pyspark_theflash.base.errors import TransactionConflictError, UnmatchedPrewriteError, invariant
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.replication.pairing.hold import Holds
from pyspark_theflash.replication.pairing.ledger import Ledger, LedgerEntry
from pyspark_theflash.replication.pairing.pending import PendingTransaction
from pyspark_theflash.replication.pairing.spill import (
    BUDGET_BYTES,
    WORTH_BYTES,
    Payload,
    Spill,
    memory_bytes,
    payload_bytes,
)
from pyspark_theflash.replication.source.event import (
    Entity,
    EntityKind,
    Transaction,
    content_digest,
)

_ZERO: Final = TimeStamp(0)
_ENTITY_BYTES: Final = 400
"""What a buffered transaction costs beside its payload, roughly."""


class Pairing:
    """The state machine. Pure; not thread-safe.

    Invariants: a start_ts is in at most one of `_waiting`, `_matched` and `_rolled_back`, and in
    none of them when the ledger has it; `_waiting` and `_holds` have the same keys; everything in
    `_matched` commits above `_taken_ts`.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        resolved_ts: TimeStamp = _ZERO,
        max_commit_ts: TimeStamp = _ZERO,
        oldest_ts: TimeStamp = _ZERO,
        streams: Sequence[TimeStamp] = (_ZERO,),
        pending: Iterable[PendingTransaction] = (),
        spill: Spill | None = None,
    ) -> None:
        """Start anew, or where a store stands that has published up to `resolved_ts`.

        `streams`: the newest commit_ts that is known to have come from each, 0 if none is.
        """
        self._ledger, self._spill = ledger, spill or Spill()
        self._oldest_ts = oldest_ts
        self._taken_ts = max(resolved_ts, oldest_ts)
        self._seen = [max(seen_ts, max_commit_ts, self._taken_ts) for seen_ts in streams]
        self._waiting: dict[int, PendingTransaction] = {}
        self._holds = Holds()
        self._matched: dict[int, Transaction] = {}
        self._commit_order: list[tuple[int, int]] = []
        self._rolled_back: dict[int, None] = {}
        self._buffered_bytes = 0
        for each in pending:
            self._restore(each)

    @property
    def resolved_ts(self) -> TimeStamp:
        """No transaction still to come commits at or below this. Never below what was taken."""
        lowest = self._holds.lowest()
        reached = min(self._seen) if lowest is None else min(*self._seen, lowest)
        return max(self._taken_ts, reached)

    @property
    def max_commit_ts(self) -> TimeStamp:
        """The newest commit_ts seen, heartbeats included; of several streams, the lowest."""
        return min(self._seen)

    @property
    def buffered_bytes(self) -> int:
        """Memory held by what is waiting or not taken, roughly."""
        return self._buffered_bytes

    def add(self, entity: Entity) -> None:
        """Take in the next entity.

        Raises `TransactionConflictError`, and has then changed nothing but `max_commit_ts`.
        """
        if entity.kind is EntityKind.PREWRITE:
            self._prewrite(entity)
        elif entity.kind is EntityKind.COMMIT:
            self._saw(entity)
            self._commit(entity.start_ts, entity.commit_ts)
        else:
            if entity.commit_ts == entity.start_ts:
                self._saw(entity)
            self._rollback(entity.start_ts)

    def settle(self, start_ts: TimeStamp, commit_ts: TimeStamp) -> None:
        """Be told from outside of the input how a transaction ended; `commit_ts` 0: rolled back.

        Its commit or rollback may still arrive, and is compared then.

        Raises:
            TransactionConflictError: it contradicts what is known; nothing has changed.
        """
        if commit_ts:
            self._commit(start_ts, commit_ts)
        else:
            self._rollback(start_ts)

    def is_open(self, start_ts: TimeStamp) -> bool:
        """Whether a prewrite waits for its commit or rollback."""
        waiting = self._waiting.get(start_ts)
        return waiting is not None and waiting.payload is not None

    def has_resolved(self, up_to: TimeStamp) -> bool:
        """Whether `take_resolved` would find anything."""
        return bool(self._commit_order) and self._commit_order[0][0] <= up_to

    def take_resolved(self, up_to: TimeStamp) -> list[Transaction]:
        """Remove and return what committed at or below `up_to`, by (commit_ts, start_ts).

        `up_to` is at most `resolved_ts`. The caller publishes the transactions and adds them to
        the ledger before it adds another entity here.
        """
        invariant(up_to <= self.resolved_ts, "only what is resolved can be taken")
        self._taken_ts = max(self._taken_ts, up_to)
        taken = []
        while self._commit_order and self._commit_order[0][0] <= up_to:
            transaction = self._matched.pop(heapq.heappop(self._commit_order)[1])
            self._buffered_bytes -= _ENTITY_BYTES + memory_bytes(transaction.payload)
            taken.append(transaction)
        return taken

    def forget(self, oldest_ts: TimeStamp) -> None:
        """Be told that the oldest snapshot is another now, and the ledger ends there."""
        invariant(oldest_ts <= self._taken_ts, "only what was taken can be forgotten")
        self._oldest_ts = max(self._oldest_ts, oldest_ts)

    def take_rolled_back(self) -> list[TimeStamp]:
        """start_ts of what was rolled back, or early, since the last call: for the ledger, too."""
        taken = [TimeStamp(start_ts) for start_ts in self._rolled_back]
        self._rolled_back.clear()
        return taken

    def vouch(self, until_ts: TimeStamp) -> None:
        """Be told that the input is complete up to `until_ts`: `resolved_ts` gets there at least.

        Raises `UnmatchedPrewriteError` if what arrived says otherwise.
        """
        if unmatched := self.unmatched_below(until_ts):
            raise UnmatchedPrewriteError(until_ts, unmatched[0].start_ts, len(unmatched))
        self._seen = [max(seen_ts, until_ts) for seen_ts in self._seen]

    def unmatched_below(self, ts: TimeStamp) -> list[PendingTransaction]:
        """What is waiting and may have committed at or below `ts`, by start_ts."""
        lowest = self._holds.lowest()
        if lowest is None or lowest >= ts:
            return []
        found = (each for each in self._waiting.values() if each.hold_ts < ts)
        return sorted(found, key=lambda pending: pending.start_ts)

    def pending(self) -> list[PendingTransaction]:
        """All that is waiting or not taken: what must survive a restart."""
        matched = (
            PendingTransaction(each.start_ts, each.commit_ts, _ZERO, each.payload, each.ddl)
            for each in self._matched.values()
        )
        return [*self._waiting.values(), *matched]

    def _prewrite(self, entity: Entity) -> None:
        start_ts = entity.start_ts
        if entity.commit_ts == start_ts and not entity.payload and entity.ddl is None:
            self._saw(entity)
            return
        if (known := self._finished(start_ts)) is not None:
            if known.commit_ts and known.digest != content_digest(entity.payload, entity.ddl):
                raise _conflict(known, "its prewrite came again with another content")
            return
        waiting = self._waiting.get(start_ts)
        if waiting is None:
            hold_ts = max(self._seen[entity.stream], start_ts)
            payload = self._kept(entity.payload)
            self._wait(
                PendingTransaction(start_ts, _ZERO, hold_ts, payload, entity.ddl, entity.primary)
            )
        elif waiting.payload is None:
            self._stop_waiting(start_ts)
            self._match(Transaction(start_ts, waiting.commit_ts, entity.payload, entity.ddl))
        elif (payload_bytes(waiting.payload), waiting.ddl) != (entity.payload, entity.ddl):
            raise _conflict(waiting, "its prewrite came again with another content")
        elif not waiting.primary:
            # Kept by a version that did not note it.
            self._waiting[start_ts] = replace(waiting, primary=entity.primary)

    def _commit(self, start_ts: TimeStamp, commit_ts: TimeStamp) -> None:
        if commit_ts == start_ts:
            if (waiting := self._waiting.get(start_ts)) is not None:
                raise _conflict(waiting, "its commit has its start_ts")
            return
        early = commit_ts <= self._oldest_ts
        known = self._finished(start_ts) or self._waiting.get(start_ts)
        if known is not None and known.commit_ts not in (commit_ts, _ZERO):
            raise _conflict(known, f"it came again as committed at {commit_ts}")
        if isinstance(known, LedgerEntry):
            if not known.commit_ts and not early:
                raise _conflict(known, f"it was rolled back, and is now committed at {commit_ts}")
        elif early:
            self._drop(start_ts)
        elif commit_ts <= self._taken_ts:
            reason = f"it is late: the store has answered up to {self._taken_ts} without it"
            raise TransactionConflictError(start_ts, commit_ts, reason)
        elif known is None:
            self._wait(
                PendingTransaction(start_ts, commit_ts, TimeStamp(commit_ts - 1), None, None)
            )
        elif known.payload is not None:
            self._stop_waiting(start_ts)
            self._match(Transaction(start_ts, commit_ts, known.payload, known.ddl))

    def _rollback(self, start_ts: TimeStamp) -> None:
        known = self._finished(start_ts) or self._waiting.get(start_ts)
        if known is not None and known.commit_ts:
            raise _conflict(known, "it came again as rolled back")
        if not isinstance(known, LedgerEntry):
            self._drop(start_ts)

    def _saw(self, entity: Entity) -> None:
        self._seen[entity.stream] = max(self._seen[entity.stream], entity.commit_ts)

    def _finished(self, start_ts: TimeStamp) -> LedgerEntry | None:
        """How a transaction ended that waits for nothing any more."""
        if (transaction := self._matched.get(start_ts)) is not None:
            return LedgerEntry.committed(transaction)
        if start_ts in self._rolled_back:
            return LedgerEntry.rolled_back(start_ts)
        return self._ledger.lookup(start_ts)

    def _wait(self, pending: PendingTransaction) -> None:
        self._waiting[pending.start_ts] = pending
        self._holds.hold(pending.start_ts, pending.hold_ts)
        self._buffered_bytes += _ENTITY_BYTES + memory_bytes(pending.payload)

    def _kept(self, payload: bytes) -> Payload:
        """A payload that is to wait: on disk, where memory is full of others."""
        is_worth = len(payload) >= WORTH_BYTES
        if not is_worth or self._buffered_bytes + len(payload) <= BUDGET_BYTES:
            return payload
        return self._spill.put(payload)

    def _stop_waiting(self, start_ts: TimeStamp) -> None:
        pending = self._waiting.pop(start_ts)
        self._holds.release(start_ts)
        self._buffered_bytes -= _ENTITY_BYTES + memory_bytes(pending.payload)

    def _match(self, transaction: Transaction) -> None:
        self._matched[transaction.start_ts] = transaction
        heapq.heappush(self._commit_order, (transaction.commit_ts, transaction.start_ts))
        self._buffered_bytes += _ENTITY_BYTES + memory_bytes(transaction.payload)

    def _drop(self, start_ts: TimeStamp) -> None:
        if start_ts in self._waiting:
            self._stop_waiting(start_ts)
        self._rolled_back[start_ts] = None

    def _restore(self, pending: PendingTransaction) -> None:
        if pending.commit_ts and pending.payload is not None:
            invariant(pending.commit_ts > self._taken_ts, "a pending transaction is not resolved")
            self._match(
                Transaction(pending.start_ts, pending.commit_ts, pending.payload, pending.ddl)
            )
        else:
            self._wait(pending)


def _conflict(known: LedgerEntry | PendingTransaction, reason: str) -> TransactionConflictError:
    return TransactionConflictError(known.start_ts, known.commit_ts, reason)
