"""Resolve the locks that block a snapshot read.

A lock does not show whether its transaction has committed; only the lock or the record on the
transaction's *primary* key does. When the outcome is known, the snapshot is read

    rolled back, or committed above snapshot_ts      ignoring the lock
    committed at or below snapshot_ts                with the lock's value as the newest version

and until then it is not read. A `LockPolicy` determines how the outcome is obtained:

    WAIT      check the primary repeatedly and change nothing; the owner or another reader ends the
              transaction
    FAIL      check the primary once
    RESOLVE   as TiDB does: push the transaction's min_commit_ts above the snapshot, roll back
              transactions whose TTL has expired, and clean up the locks that the read encountered

State of the primary key
------------------------

    lock, min_commit_ts > snapshot_ts    The transaction will commit above the snapshot: ignore the
                                         lock. Commits respect min_commit_ts, so this holds under
                                         every policy. A lock that was just pushed (TiKV:
                                         `MinCommitTSPushed`) is in this state too.
    other lock                           Wait. RESOLVE has pushed min_commit_ts, if the transaction
                                         allows it, or rolled back, if the TTL has expired.
    commit or rollback record            The outcome.
    neither                              The primary is not prewritten yet, or never will be. If the
                                         TTL of the encountered lock has expired, RESOLVE writes a
                                         rollback record, which makes a later prewrite fail.

*Async commit*: the transaction is committed once all keys are prewritten, at the largest
min_commit_ts of its locks. Such a primary is not rolled back when its TTL expires. Instead, its
secondaries are checked, which writes a rollback on a key that was never locked:

    all locked                      committed at the largest min_commit_ts
    one not locked                  the outcome recorded on that key
    one without async commit        the transaction fell back to two-phase commit; the primary is
                                    checked again as such

Only the primary's TTL determines how long a transaction may live, because its owner keeps extending
it; the TTL of a secondary lock counts only if there is no primary. See TiKV's
`check_txn_status.rs`, `check_secondary_locks.rs` and client-go's `lock_resolver.go`.
"""

import logging
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, Protocol

from pyspark_theflash.base.clock import Deadline
from pyspark_theflash.base.errors import KeyIsLockedError, LockResolveError, ServiceUnavailableError
from pyspark_theflash.base.types import MAX_TS, TimeStamp, physical_ms
from pyspark_theflash.cluster.lock import Lock, LockKind
from pyspark_theflash.tidb.codec.key import RawKey, table_of

_log = logging.getLogger(__name__)

_NO_TS: Final = TimeStamp(0)
_BACKOFF_MS: Final = 20
_BACKOFF_MS_MAX: Final = 1000
_CACHED_MAX: Final = 4096


class LockPolicy(Enum):
    """A policy for blocking locks; `WAIT` and `FAIL` write nothing to TiKV."""

    WAIT = "wait"
    RESOLVE = "resolve"
    FAIL = "fail"


class TxnState(Enum):
    """The state of a transaction, determined from its primary key."""

    LOCKED = "locked"
    COMMITTED = "committed"
    ROLLED_BACK = "rolled back"
    NOT_FOUND = "not found"
    """There is neither a lock nor a record."""
    MISMATCH = "mismatch"
    """The transaction has locked the key, but another key is its primary."""
    UNDECIDED = "undecided"
    """Nothing was changed: a pessimistic transaction that has not begun its commit."""


@dataclass(frozen=True, slots=True)
class TxnStatus:
    """A transaction's state. `lock` is the current lock on the primary key, if any."""

    state: TxnState
    commit_ts: TimeStamp = _NO_TS
    lock: Lock | None = None


@dataclass(frozen=True, slots=True)
class StatusCheck:
    """A request for a transaction's state. With the defaults, it changes nothing in TiKV.

    With `caller_ts`, min_commit_ts is pushed above it. With `current_ts`, a primary whose TTL has
    expired at that time is rolled back.
    """

    primary: RawKey
    start_ts: TimeStamp
    caller_ts: TimeStamp = _NO_TS
    current_ts: TimeStamp = _NO_TS
    rollback_if_not_found: bool = False
    is_two_phase: bool = False
    """The transaction has fallen back from async commit."""
    verify_primary: bool = False
    """Detect a `MISMATCH`; TiKV removes the mismatching lock instead if it is pessimistic."""


@dataclass(frozen=True, slots=True)
class SecondaryLocks:
    """One region's response about secondaries: their locks, or the transaction's outcome.

    Fewer locks than `key_count` (the number of keys in the request) means that the transaction has
    ended: committed at `commit_ts`, or rolled back if that is 0.
    """

    key_count: int
    locks: tuple[Lock, ...]
    commit_ts: TimeStamp


class Transactions(Protocol):
    """TiKV's calls about transactions. Each ends by its deadline; errors are the transport's."""

    def now(self, deadline: Deadline) -> TimeStamp:
        """Return a timestamp from PD."""

    def check_status(self, check: StatusCheck, deadline: Deadline) -> TxnStatus:
        """Return the state of a transaction."""

    def check_secondaries(
        self, keys: Sequence[RawKey], start_ts: TimeStamp, deadline: Deadline
    ) -> Sequence[SecondaryLocks]:
        """Return the state of secondaries by region; roll back those that are not locked."""

    def resolve(
        self,
        keys: Sequence[RawKey],
        start_ts: TimeStamp,
        commit_ts: TimeStamp,
        deadline: Deadline,
    ) -> None:
        """Commit a transaction's locks on keys, or roll them back if `commit_ts` is 0."""


@dataclass(frozen=True, slots=True)
class ResolvedLocks:
    """Transactions whose locks no longer block a snapshot, by start_ts."""

    ignored: frozenset[TimeStamp] = frozenset()
    committed: Mapping[TimeStamp, TimeStamp] = field(default_factory=dict)
    """start_ts -> commit_ts, at or below the snapshot: values in their locks are visible."""

    def __or__(self, other: "ResolvedLocks") -> "ResolvedLocks":
        return ResolvedLocks(self.ignored | other.ignored, {**self.committed, **other.committed})


class LockResolver:
    """Resolves locks by a policy. Thread-safe."""

    def __init__(self, transactions: Transactions, policy: LockPolicy = LockPolicy.WAIT) -> None:
        self.policy: Final = policy
        self._transactions = transactions
        self._mutex = threading.Lock()
        # start_ts -> commit_ts, 0 if rolled back. An outcome never changes.
        self._outcomes: dict[TimeStamp, TimeStamp] = {}

    def resolve(
        self, locks: Iterable[Lock], snapshot_ts: TimeStamp, deadline: Deadline
    ) -> ResolvedLocks:
        """Resolve the locks that a snapshot read has encountered.

        A lock that does not block `snapshot_ts` causes no call. Its transaction is among the
        ignored ones if it can only commit above the snapshot.

        Raises:
            KeyIsLockedError: A transaction has not ended by the deadline, or now under `FAIL`.
            LockResolveError: TiKV's responses contradict each other.
            ServiceUnavailableError, ServiceRefusedError: The transport failed.
        """
        ignored, committed = set[TimeStamp](), dict[TimeStamp, TimeStamp]()
        blocking: dict[TimeStamp, list[Lock]] = {}
        for lock in locks:
            if lock.blocks(snapshot_ts):
                blocking.setdefault(lock.start_ts, []).append(lock)
            elif lock.has_data and lock.start_ts <= snapshot_ts:
                ignored.add(lock.start_ts)
        backoff_ms = _BACKOFF_MS
        while True:
            for start_ts, group in list(blocking.items()):
                ended = self._check(group, snapshot_ts, deadline)
                if ended is None:
                    continue
                del blocking[start_ts]
                if ended.is_final:
                    self._cache(start_ts, ended.commit_ts)
                if _NO_TS < ended.commit_ts <= snapshot_ts:
                    committed[start_ts] = ended.commit_ts
                else:
                    ignored.add(start_ts)
            if not blocking:
                return ResolvedLocks(frozenset(ignored), committed)
            if self.policy is LockPolicy.FAIL or not deadline.sleep_ms(backoff_ms):
                raise _blocked(next(iter(blocking.values()))[0], self.policy, deadline)
            backoff_ms = min(2 * backoff_ms, _BACKOFF_MS_MAX)

    def _check(
        self, locks: Sequence[Lock], snapshot_ts: TimeStamp, deadline: Deadline
    ) -> "_Outcome | None":
        check = _TransactionCheck(self._transactions, self.policy, locks, snapshot_ts, deadline)
        try:
            return check.outcome(self._outcomes.get(locks[0].start_ts))
        except ServiceUnavailableError as error:
            # After the deadline, report the blocking lock, not the service that was being called.
            if deadline.left_ms():
                raise
            raise _blocked(locks[0], self.policy, deadline) from error

    def _cache(self, start_ts: TimeStamp, commit_ts: TimeStamp) -> None:
        with self._mutex:
            if self._outcomes.setdefault(start_ts, commit_ts) != commit_ts:
                reason = f"ended both at {self._outcomes[start_ts]} and at {commit_ts}"
                raise LockResolveError(start_ts, reason)
            while len(self._outcomes) > _CACHED_MAX:
                del self._outcomes[next(iter(self._outcomes))]


@dataclass(frozen=True, slots=True)
class _Outcome:
    """A transaction's outcome. If not `is_final`, it can only commit above the snapshot."""

    commit_ts: TimeStamp
    is_final: bool = True


_ABOVE: Final = _Outcome(MAX_TS, is_final=False)


class _TransactionCheck:
    """One check of a transaction, some of whose locks block a snapshot."""

    def __init__(
        self,
        transactions: Transactions,
        policy: LockPolicy,
        locks: Sequence[Lock],
        snapshot_ts: TimeStamp,
        deadline: Deadline,
    ) -> None:
        self._transactions, self._deadline, self._locks = transactions, deadline, locks
        self._lock, self._snapshot_ts = locks[0], snapshot_ts
        self._may_write = policy is LockPolicy.RESOLVE
        self._now = _NO_TS

    def outcome(self, cached_ts: TimeStamp | None) -> _Outcome | None:
        """Return the outcome, None if it is undecided. Resolve the locks, if the policy allows."""
        keys = [lock.key for lock in self._locks]
        if cached_ts is not None:
            self._clean(keys, cached_ts)
            return _Outcome(cached_ts)
        if self._may_write:
            # A TTL of 0 requests that the transaction is ended regardless of its age.
            now = self._transactions.now(self._deadline) if self._lock.ttl_ms else MAX_TS
            self._now = now
        status = self._primary_status(is_two_phase=False)
        primary = status.lock
        is_stuck = (
            self._may_write
            and status.state is TxnState.LOCKED
            and primary is not None
            and primary.use_async_commit
            and primary.min_commit_ts <= self._snapshot_ts
            and self._is_expired(primary)
        )
        if not is_stuck or primary is None:
            return self._outcome_of(status, keys)
        commit_ts = self._async_commit_ts(primary)
        if commit_ts is None:
            return self._outcome_of(self._primary_status(is_two_phase=True), keys)
        self._clean([*primary.secondaries, primary.key, *keys], commit_ts)
        return _Outcome(commit_ts)

    def _primary_status(self, *, is_two_phase: bool) -> TxnStatus:
        """Check the primary key. Raises `LockResolveError` if it is not the primary."""
        lock = self._lock
        if not self._may_write:
            status = self._check(StatusCheck(lock.primary, lock.start_ts))
        else:
            for rollback_if_not_found in (False, True):
                status = self._check(
                    StatusCheck(
                        lock.primary,
                        lock.start_ts,
                        caller_ts=self._snapshot_ts,
                        current_ts=self._now,
                        rollback_if_not_found=rollback_if_not_found,
                        is_two_phase=is_two_phase,
                        verify_primary=True,
                    )
                )
                if status.state is not TxnState.NOT_FOUND or not self._is_expired(lock):
                    break
        current = status.lock
        if current is not None and current.primary != lock.primary:
            if current.kind is LockKind.PESSIMISTIC and not self._may_write:
                return TxnStatus(TxnState.UNDECIDED)
            raise LockResolveError(lock.start_ts, "its locks have different primaries")
        return status

    def _check(self, check: StatusCheck) -> TxnStatus:
        return self._transactions.check_status(check, self._deadline)

    def _outcome_of(self, status: TxnStatus, keys: Sequence[RawKey]) -> _Outcome | None:
        if status.state is TxnState.LOCKED and status.lock is not None:
            return _ABOVE if status.lock.min_commit_ts > self._snapshot_ts else None
        if status.state is TxnState.COMMITTED and status.commit_ts <= self._lock.start_ts:
            reason = f"commit_ts={status.commit_ts} is not above its start_ts"
            raise LockResolveError(self._lock.start_ts, reason)
        if status.state not in (TxnState.COMMITTED, TxnState.ROLLED_BACK):
            return None
        self._clean(keys, status.commit_ts)
        return _Outcome(status.commit_ts)

    def _is_expired(self, lock: Lock) -> bool:
        """Return whether a lock's TTL has expired."""
        return physical_ms(lock.start_ts) + lock.ttl_ms < physical_ms(self._now)

    def _async_commit_ts(self, primary: Lock) -> TimeStamp | None:
        """Return the commit_ts of an async commit, 0 if rolled back, None if it fell back."""
        start_ts = primary.start_ts
        responses = (
            self._transactions.check_secondaries(primary.secondaries, start_ts, self._deadline)
            if primary.secondaries
            else ()
        )
        outcomes = {each.commit_ts for each in responses if len(each.locks) < each.key_count}
        if len(outcomes) > 1 or any(_NO_TS < ts < primary.min_commit_ts for ts in outcomes):
            reason = f"its secondaries ended at {sorted(outcomes)}, its min_commit_ts is "
            raise LockResolveError(start_ts, f"{reason}{primary.min_commit_ts}")
        if outcomes:
            return outcomes.pop()
        locks = [primary, *(lock for each in responses for lock in each.locks)]
        if any(lock.start_ts != start_ts for lock in locks):
            raise LockResolveError(start_ts, "a secondary is locked by another transaction")
        if not all(lock.use_async_commit for lock in locks):
            return None
        commit_ts = max(lock.min_commit_ts for lock in locks)
        if commit_ts <= start_ts:
            raise LockResolveError(start_ts, f"async commit with min_commit_ts {commit_ts}")
        return commit_ts

    def _clean(self, keys: Iterable[RawKey], commit_ts: TimeStamp) -> None:
        """Resolve the locks in TiKV. The read does not need it, so failures are only logged."""
        if not self._may_write:
            return
        try:
            distinct = list(dict.fromkeys(keys))
            start_ts = self._lock.start_ts
            self._transactions.resolve(distinct, start_ts, commit_ts, self._deadline)
        except ServiceUnavailableError as error:
            _log.warning("locks of start_ts=%s were not resolved: %s", self._lock.start_ts, error)


def _blocked(lock: Lock, policy: LockPolicy, deadline: Deadline) -> KeyIsLockedError:
    waited = f" within {deadline.timeout_ms} ms" if policy is not LockPolicy.FAIL else ""
    return KeyIsLockedError(lock.start_ts, table_of(lock.key), f"has not ended{waited}")
