"""Matching of prewrites with commits, into transactions in commit order.

Prewrite and commit of a transaction are matched by `start_ts`; a rollback discards its prewrite.
Matching does not depend on the order of arrival: a commit may arrive before its prewrite, any
entity may be delivered again, and a stream may restart from any earlier position. The order of
arrival determines only up to which timestamp the input is *complete*.

resolved_ts
    No transaction that is still to arrive commits at or below `resolved_ts`. TiDB gets a commit_ts
    after the prewrite was delivered, and PD's timestamps are monotonic. Let M be the newest
    commit_ts seen. A prewrite that arrives now or later commits above M, and always above its own
    start_ts; a commit whose prewrite is missing happened at its commit_ts. So each incomplete
    transaction limits `resolved_ts`:

        prewrite without commit     max(M at its arrival, start_ts)
        commit without prewrite     commit_ts - 1
        nothing pending             M

    `resolved_ts` is the minimum of these, and advances with the input. (A commit without its
    prewrite that arrives out of order may lower it again, but not below what has been taken.)
    Example, with P = prewrite, C = commit, R = rollback:

        arrives          M    holds             resolved_ts    can be taken
        P start 1        0    {1: 1}            0
        P start 2        0    {1: 1, 2: 2}      0
        C start 2 at 5   5    {1: 1}            1              nothing: 1 may commit at 2, 3, 4, 5
        P start 3        5    {1: 1, 3: 5}      1              3 will commit above 5
        C start 1 at 6   6    {3: 5}            5              2 at 5; 3 may commit at 6 as 1 did
        R start 3        6    {}                6              1 at 6
        C start 9 at 9   9    {}                9              a heartbeat, see below

    In order of arrival, commit 5 would have been published at once, and a reader at 5 could have
    missed the change of transaction 1.

Several pumps
    Each pump's binlog is a stream with its own M: a commit from one pump implies nothing about the
    prewrites still to arrive from another. With nothing pending, `resolved_ts` is the lowest M. The
    holds are the same as for one pump, whichever streams prewrite and commit come from: once M of
    a prewrite's stream has reached its commit_ts, the prewrite has arrived.

Heartbeats
    A commit, or an empty prewrite, with start_ts == commit_ts only advances M. An idle tidb-binlog
    pump writes a *rollback* with both equal: it rolls back a transaction that does not exist, and
    its commit_ts advances M. Rollbacks sent by TiDB have commit_ts 0.

Repeated delivery
    Transactions taken are added to the writer's ledger in the same publication, and `Pairing` looks
    up every entity there first. An entity of a finished transaction is compared and discarded, so a
    repeated prewrite does not hold back `resolved_ts`. The same content with another commit_ts,
    other content with the same start_ts, or a commit of a rolled back transaction raise
    `TransactionConflictError`. Transactions that are matched but not taken are compared likewise.

Late and early commits
    A commit at or below what has been taken that is not in the ledger is *late*: a snapshot at its
    timestamp may have been read without it, so it raises. A commit at or below `oldest_ts`, the
    oldest readable snapshot, is *early*: its change is part of the base that the store began with,
    or its ledger entry was removed. It is discarded like a rolled back one.

External outcomes
    If the commit of a transaction is lost, its outcome may come from TiKV or an operator
    (`settle`). It is handled like the commit or rollback, except that M does not advance: unlike
    a commit in the stream, it does not show that the input is complete up to there.

Skipped transactions
    An operator may have all messages of a transaction ignored that cannot be applied (`skip`). They
    do not advance M either.

Memory
    Payloads of pending transactions above a memory budget are written to a file
    (`replication.pairing.spill`).

Restart
    `pending()` and `resolved_ts`, published together with the transactions taken, are the state.
    With the newest commit_ts seen of each stream as well, `resolved_ts` advances sooner after a
    restart.
"""

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from pyspark_theflash.base.errors import TransactionConflictError, UnmatchedPrewriteError, invariant
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.replication.pairing.hold import Holds
from pyspark_theflash.replication.pairing.ledger import LedgerEntry, TransactionLedger
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
"""Approximate memory of a buffered transaction without its payload."""


class Pairing:
    """State machine that matches entities. Not thread-safe.

    Invariants: a start_ts is in at most one of `_waiting`, `_matched` and `_rolled_back`, and in
    none of them if it is in the ledger; `_waiting` and `_holds` have the same keys; all of
    `_matched` commit above `_taken_ts`.
    """

    def __init__(
        self,
        ledger: TransactionLedger,
        *,
        resolved_ts: TimeStamp = _ZERO,
        oldest_ts: TimeStamp = _ZERO,
        streams: Sequence[TimeStamp] = (_ZERO,),
        pending: Iterable[PendingTransaction] = (),
        spill: Spill | None = None,
    ) -> None:
        """Start empty, or from the state of a store that has published up to `resolved_ts`.

        `streams` has the newest commit_ts seen of each stream, 0 if there is none.
        """
        self._ledger, self._spill = ledger, spill or Spill()
        self._oldest_ts = oldest_ts
        self._taken_ts = max(resolved_ts, oldest_ts)
        self._seen = [max(seen_ts, self._taken_ts) for seen_ts in streams]
        self._waiting: dict[int, PendingTransaction] = {}
        self._holds = Holds()
        self._matched: dict[int, Transaction] = {}
        self._commit_order: list[tuple[int, int]] = []
        self._rolled_back: dict[int, None] = {}
        self._skipped: set[int] = set()
        self._buffered_bytes = 0
        for each in pending:
            self._restore(each)

    @property
    def resolved_ts(self) -> TimeStamp:
        """No transaction still to arrive commits at or below this. Never below what was taken."""
        lowest = self._holds.lowest()
        reached = min(self._seen) if lowest is None else min(*self._seen, lowest)
        return max(self._taken_ts, reached)

    @property
    def max_commit_ts(self) -> TimeStamp:
        """Newest commit_ts seen, heartbeats included; of several streams, the lowest of these."""
        return min(self._seen)

    @property
    def buffered_bytes(self) -> int:
        """Approximate memory of pending transactions."""
        return self._buffered_bytes

    def add(self, entity: Entity) -> None:
        """Process the next entity.

        Raises `TransactionConflictError`, and has then changed nothing but `max_commit_ts`.
        """
        if entity.start_ts in self._skipped:
            return
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
        """Apply a transaction's outcome from another source; `commit_ts` 0 means rolled back.

        If its commit or rollback still arrives, it is compared with the outcome.

        Raises:
            TransactionConflictError: It contradicts earlier input; nothing has changed.
        """
        if commit_ts:
            self._commit(start_ts, commit_ts)
        else:
            self._rollback(start_ts)

    def skip(self, start_ts: TimeStamp) -> None:
        """Remove a transaction, and ignore its messages from now on."""
        self._skipped.add(start_ts)
        if start_ts in self._waiting:
            self._stop_waiting(start_ts)
        elif (transaction := self._matched.pop(start_ts, None)) is not None:
            self._buffered_bytes -= _ENTITY_BYTES + memory_bytes(transaction.payload)
            self._commit_order = [each for each in self._commit_order if each[1] != start_ts]
            heapq.heapify(self._commit_order)

    def is_open(self, start_ts: TimeStamp) -> bool:
        """Return whether a prewrite is pending without commit or rollback."""
        waiting = self._waiting.get(start_ts)
        return waiting is not None and waiting.payload is not None

    def has_resolved(self, up_to: TimeStamp) -> bool:
        """Return whether `take_resolved` would return any transaction."""
        return bool(self._commit_order) and self._commit_order[0][0] <= up_to

    def take_resolved(self, up_to: TimeStamp) -> list[Transaction]:
        """Remove and return the transactions up to `up_to`, ordered by (commit_ts, start_ts).

        `up_to` is at most `resolved_ts`. The caller publishes the transactions and adds them to
        the ledger before it adds another entity.
        """
        invariant(up_to <= self.resolved_ts, "only what is resolved can be taken")
        self._taken_ts = max(self._taken_ts, up_to)
        transactions = []
        while self._commit_order and self._commit_order[0][0] <= up_to:
            transaction = self._matched.pop(heapq.heappop(self._commit_order)[1])
            self._buffered_bytes -= _ENTITY_BYTES + memory_bytes(transaction.payload)
            transactions.append(transaction)
        return transactions

    def forget(self, oldest_ts: TimeStamp) -> None:
        """Raise the oldest readable snapshot, up to which the ledger has been pruned."""
        invariant(oldest_ts <= self._taken_ts, "only what was taken can be forgotten")
        self._oldest_ts = max(self._oldest_ts, oldest_ts)

    def take_rolled_back(self) -> list[TimeStamp]:
        """Return start_ts of transactions rolled back or early since the last call."""
        rolled_back = [TimeStamp(start_ts) for start_ts in self._rolled_back]
        self._rolled_back.clear()
        return rolled_back

    def vouch(self, until_ts: TimeStamp) -> None:
        """Declare the input complete up to `until_ts`, and raise `resolved_ts` to it.

        Raises `UnmatchedPrewriteError` if a pending transaction may commit at or below it.
        """
        if unmatched := self.unmatched_below(until_ts):
            raise UnmatchedPrewriteError(until_ts, unmatched[0].start_ts, len(unmatched))
        self._seen = [max(seen_ts, until_ts) for seen_ts in self._seen]

    def unmatched_below(self, ts: TimeStamp) -> list[PendingTransaction]:
        """Return the incomplete transactions that may commit at or below `ts`, by start_ts."""
        lowest = self._holds.lowest()
        if lowest is None or lowest >= ts:
            return []
        unmatched = (each for each in self._waiting.values() if each.hold_ts < ts)
        return sorted(unmatched, key=lambda pending: pending.start_ts)

    @property
    def pending_count(self) -> int:
        """The number of transactions not taken yet. May be read by other threads."""
        return len(self._waiting) + len(self._matched)

    def pending(self) -> list[PendingTransaction]:
        """Return all transactions not taken yet, which must survive a restart."""
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
        if (earlier := self._finished(start_ts)) is not None:
            if earlier.commit_ts and earlier.digest != content_digest(entity.payload, entity.ddl):
                raise _conflict(earlier, "its prewrite was delivered again with different content")
            return
        waiting = self._waiting.get(start_ts)
        if waiting is None:
            hold_ts = max(self._seen[entity.stream], start_ts)
            payload = self._buffer(entity.payload)
            self._wait(
                PendingTransaction(start_ts, _ZERO, hold_ts, payload, entity.ddl, entity.primary)
            )
        elif waiting.payload is None:
            self._stop_waiting(start_ts)
            self._match(Transaction(start_ts, waiting.commit_ts, entity.payload, entity.ddl))
        elif (payload_bytes(waiting.payload), waiting.ddl) != (entity.payload, entity.ddl):
            raise _conflict(waiting, "its prewrite was delivered again with different content")
        elif not waiting.primary:
            # The pending record is of a version that did not store the primary key.
            self._waiting[start_ts] = replace(waiting, primary=entity.primary)

    def _commit(self, start_ts: TimeStamp, commit_ts: TimeStamp) -> None:
        if commit_ts == start_ts:
            if (waiting := self._waiting.get(start_ts)) is not None:
                raise _conflict(waiting, "it was committed with its start_ts as commit_ts")
            return
        is_early = commit_ts <= self._oldest_ts
        earlier = self._finished(start_ts) or self._waiting.get(start_ts)
        if earlier is not None and earlier.commit_ts not in (commit_ts, _ZERO):
            raise _conflict(earlier, f"it was delivered again as committed at {commit_ts}")
        if isinstance(earlier, LedgerEntry):
            if not earlier.commit_ts and not is_early:
                raise _conflict(earlier, f"it was rolled back, and is now committed at {commit_ts}")
        elif is_early:
            self._drop(start_ts)
        elif commit_ts <= self._taken_ts:
            reason = f"it is late: the store is readable up to {self._taken_ts} without it"
            raise TransactionConflictError(start_ts, commit_ts, reason)
        elif earlier is None:
            self._wait(
                PendingTransaction(start_ts, commit_ts, TimeStamp(commit_ts - 1), None, None)
            )
        elif earlier.payload is not None:
            self._stop_waiting(start_ts)
            self._match(Transaction(start_ts, commit_ts, earlier.payload, earlier.ddl))

    def _rollback(self, start_ts: TimeStamp) -> None:
        earlier = self._finished(start_ts) or self._waiting.get(start_ts)
        if earlier is not None and earlier.commit_ts:
            raise _conflict(earlier, "it was delivered again as rolled back")
        if not isinstance(earlier, LedgerEntry):
            self._drop(start_ts)

    def _saw(self, entity: Entity) -> None:
        self._seen[entity.stream] = max(self._seen[entity.stream], entity.commit_ts)

    def _finished(self, start_ts: TimeStamp) -> LedgerEntry | None:
        """Return the outcome of a transaction that is complete; None for others."""
        if (transaction := self._matched.get(start_ts)) is not None:
            return LedgerEntry.committed(transaction)
        if start_ts in self._rolled_back:
            return LedgerEntry.rolled_back(start_ts)
        return self._ledger.lookup(start_ts)

    def _wait(self, pending: PendingTransaction) -> None:
        self._waiting[pending.start_ts] = pending
        self._holds.hold(pending.start_ts, pending.hold_ts)
        self._buffered_bytes += _ENTITY_BYTES + memory_bytes(pending.payload)

    def _buffer(self, payload: bytes) -> Payload:
        """Return a pending payload, spilled to disk if the memory budget is used up."""
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


def _conflict(earlier: LedgerEntry | PendingTransaction, reason: str) -> TransactionConflictError:
    return TransactionConflictError(earlier.start_ts, earlier.commit_ts, reason)
