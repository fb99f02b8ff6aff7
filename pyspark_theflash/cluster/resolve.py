"""Finding the end of the transactions whose locks are in a snapshot's way.

A lock says that a transaction is about to change a key, not whether it has committed: only the lock
or the record on its *primary* key says that. Once it is known, the snapshot is read

    rolled back, or committed above snapshot_ts      past the lock, as if it were not there
    committed at or below snapshot_ts                through the lock: its value is the newest

and until then it is not read at all. How much may be done to find out is a `LockPolicy`:

    WAIT      ask, again and again, and change nothing: the owner, or another reader, ends it
    FAIL      ask once
    RESOLVE   do what every TiDB does: push the transaction's min_commit_ts above the snapshot, roll
              back what has outlived its time to live, and clean up the locks that were met

The primary can tell
--------------------

    lock, min_commit_ts > snapshot_ts    it will commit above the snapshot: read past it. Commits
                                         keep to it, so this holds under every policy; a lock that
                                         was just pushed (TiKV: `MinCommitTSPushed`) shows it too
    lock                                 wait. RESOLVE has pushed min_commit_ts, where the
                                         transaction allows it, or rolled back, where time is up
    commit or rollback record            known
    neither                              the primary is yet to be prewritten, or never will be. If
                                         the lock's own time is up, RESOLVE leaves a rollback
                                         record, which no prewrite gets past

*Async commit*: all prewritten is committed, at the largest min_commit_ts of the locks. Such a
primary is not rolled back when its time is up; its secondaries are asked (which writes a rollback
where one was never locked): all there, then that timestamp; one gone, then what it was committed or
rolled back as; one without async commit, then the transaction fell back to two phases, and the
primary is asked again as such.

How long a transaction may live is told by its primary alone, which is kept alive by its owner;
the time to live in a secondary lock counts only where there is no primary. As in TiKV's
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
_REMEMBERED: Final = 4096


class LockPolicy(Enum):
    """The ways to treat a lock; `WAIT` and `FAIL` write nothing to TiKV."""

    WAIT = "wait"
    RESOLVE = "resolve"
    FAIL = "fail"


class TxnState(Enum):
    """The state of a transaction by its primary key."""

    LOCKED = "locked"
    COMMITTED = "committed"
    ROLLED_BACK = "rolled back"
    NOT_FOUND = "not found"
    """Neither a lock nor a record."""
    MISMATCH = "mismatch"
    """The key is locked by the transaction, and another key is its primary."""
    UNDECIDED = "undecided"
    """Nothing was done about it: a pessimistic transaction that has not come to its commit."""


@dataclass(frozen=True, slots=True)
class TxnStatus:
    """A transaction by its primary. `lock` is what is on the primary key now, if it is locked."""

    state: TxnState
    commit_ts: TimeStamp = _NO_TS
    lock: Lock | None = None


@dataclass(frozen=True, slots=True)
class StatusCheck:
    """A question about a transaction. As it is by default, answering it changes nothing.

    With `caller_ts`, min_commit_ts is pushed above it; with `current_ts`, a primary whose time is
    up by then is rolled back.
    """

    primary: RawKey
    start_ts: TimeStamp
    caller_ts: TimeStamp = _NO_TS
    current_ts: TimeStamp = _NO_TS
    rollback_if_not_found: bool = False
    is_two_phase: bool = False
    """It is known to have fallen back from async commit."""
    verify_primary: bool = False
    """Say `MISMATCH`; TiKV removes a pessimistic lock that stands in for the primary."""


@dataclass(frozen=True, slots=True)
class SecondaryLocks:
    """One region's answer about some secondaries: a lock of each, or what they ended as.

    Fewer locks than `asked` means that the transaction has ended: at `commit_ts`, 0 if rolled back.
    """

    asked: int
    locks: tuple[Lock, ...]
    commit_ts: TimeStamp


class Transactions(Protocol):
    """TiKV, as far as transactions need it. Calls end by the deadline, and raise what it raises."""

    def now(self, deadline: Deadline) -> TimeStamp:
        """A timestamp of PD."""

    def check_status(self, check: StatusCheck, deadline: Deadline) -> TxnStatus:
        """Ask for the state of a transaction by its primary key."""

    def check_secondaries(
        self, keys: Sequence[RawKey], start_ts: TimeStamp, deadline: Deadline
    ) -> Sequence[SecondaryLocks]:
        """Ask for the state of secondaries, by region; where one is missing, it is rolled back."""

    def resolve(
        self,
        keys: Sequence[RawKey],
        start_ts: TimeStamp,
        commit_ts: TimeStamp,
        deadline: Deadline,
    ) -> None:
        """Commit a transaction's locks on these keys, or roll them back (`commit_ts` 0)."""


@dataclass(frozen=True, slots=True)
class ResolvedLocks:
    """Transactions whose locks do not block a snapshot any more, by start_ts."""

    ignored: frozenset[TimeStamp] = frozenset()
    committed: Mapping[TimeStamp, TimeStamp] = field(default_factory=dict)
    """start_ts -> commit_ts, at or below the snapshot: their locks are read through."""

    def __or__(self, other: "ResolvedLocks") -> "ResolvedLocks":
        return ResolvedLocks(self.ignored | other.ignored, {**self.committed, **other.committed})


class LockResolver:
    """Finds out how transactions ended. Safe to use from many threads."""

    def __init__(self, transactions: Transactions, policy: LockPolicy = LockPolicy.WAIT) -> None:
        self.policy: Final = policy
        self._transactions = transactions
        self._mutex = threading.Lock()
        # start_ts -> commit_ts, 0 if rolled back. What is known never changes.
        self._known: dict[TimeStamp, TimeStamp] = {}

    def resolve(
        self, locks: Iterable[Lock], snapshot_ts: TimeStamp, deadline: Deadline
    ) -> ResolvedLocks:
        """Resolve the locks that a snapshot has met.

        A lock that does not block `snapshot_ts` asks nothing of anybody. Its transaction is among
        those to ignore if it can only commit above.

        Raises:
            KeyIsLockedError: a transaction is undecided, at the deadline or, under `FAIL`, now.
            LockResolveError: TiKV contradicts itself.
            ServiceUnavailableError, ServiceRefusedError: as the transport says.
        """
        ignored, committed = set[TimeStamp](), dict[TimeStamp, TimeStamp]()
        left: dict[TimeStamp, list[Lock]] = {}
        for lock in locks:
            if lock.blocks(snapshot_ts):
                left.setdefault(lock.start_ts, []).append(lock)
            elif lock.has_data and lock.start_ts <= snapshot_ts:
                ignored.add(lock.start_ts)
        backoff_ms = _BACKOFF_MS
        while True:
            for start_ts, group in list(left.items()):
                ended = self._look(group, snapshot_ts, deadline)
                if ended is None:
                    continue
                del left[start_ts]
                if ended.is_final:
                    self._remember(start_ts, ended.commit_ts)
                if _NO_TS < ended.commit_ts <= snapshot_ts:
                    committed[start_ts] = ended.commit_ts
                else:
                    ignored.add(start_ts)
            if not left:
                return ResolvedLocks(frozenset(ignored), committed)
            if self.policy is LockPolicy.FAIL or not deadline.sleep_ms(backoff_ms):
                raise _blocked(next(iter(left.values()))[0], self.policy, deadline)
            backoff_ms = min(2 * backoff_ms, _BACKOFF_MS_MAX)

    def _look(
        self, locks: Sequence[Lock], snapshot_ts: TimeStamp, deadline: Deadline
    ) -> "_Ended | None":
        look = _TransactionCheck(self._transactions, self.policy, locks, snapshot_ts, deadline)
        try:
            return look.end(self._known.get(locks[0].start_ts))
        except ServiceUnavailableError as error:
            # What matters is who was waited for, not who was being asked when time ran out.
            if deadline.left_ms():
                raise
            raise _blocked(locks[0], self.policy, deadline) from error

    def _remember(self, start_ts: TimeStamp, commit_ts: TimeStamp) -> None:
        with self._mutex:
            if self._known.setdefault(start_ts, commit_ts) != commit_ts:
                reason = f"ended both at {self._known[start_ts]} and at {commit_ts}"
                raise LockResolveError(start_ts, reason)
            while len(self._known) > _REMEMBERED:
                del self._known[next(iter(self._known))]


@dataclass(frozen=True, slots=True)
class _Ended:
    """How a transaction ended; not `is_final`: somewhere above the snapshot, if at all."""

    commit_ts: TimeStamp
    is_final: bool = True


_ABOVE: Final = _Ended(MAX_TS, is_final=False)


class _TransactionCheck:
    """One look at one transaction, some of whose locks were met."""

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

    def end(self, known: TimeStamp | None) -> _Ended | None:
        """How it ended, if that can be told now. Cleans up, if it may."""
        keys = [lock.key for lock in self._locks]
        if known is not None:
            self._clean(keys, known)
            return _Ended(known)
        if self._may_write:
            # A time to live of 0 says that the transaction is to be ended, whatever its age.
            now = self._transactions.now(self._deadline) if self._lock.ttl_ms else MAX_TS
            self._now = now
        status = self._ask(is_two_phase=False)
        primary = status.lock
        is_stuck = (
            self._may_write
            and status.state is TxnState.LOCKED
            and primary is not None
            and primary.use_async_commit
            and primary.min_commit_ts <= self._snapshot_ts
            and self._is_over(primary)
        )
        if not is_stuck or primary is None:
            return self._ended(status, keys)
        commit_ts = self._all_prewritten(primary)
        if commit_ts is None:
            return self._ended(self._ask(is_two_phase=True), keys)
        self._clean([*primary.secondaries, primary.key, *keys], commit_ts)
        return _Ended(commit_ts)

    def _ask(self, *, is_two_phase: bool) -> TxnStatus:
        """Ask the primary for its state. Raises `LockResolveError` if it is not the primary."""
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
                if status.state is not TxnState.NOT_FOUND or not self._is_over(lock):
                    break
        found = status.lock
        if found is not None and found.primary != lock.primary:
            if found.kind is LockKind.PESSIMISTIC and not self._may_write:
                return TxnStatus(TxnState.UNDECIDED)
            raise LockResolveError(lock.start_ts, "its locks do not agree on their primary")
        return status

    def _check(self, check: StatusCheck) -> TxnStatus:
        return self._transactions.check_status(check, self._deadline)

    def _ended(self, status: TxnStatus, keys: Sequence[RawKey]) -> _Ended | None:
        if status.state is TxnState.LOCKED and status.lock is not None:
            return _ABOVE if status.lock.min_commit_ts > self._snapshot_ts else None
        if status.state is TxnState.COMMITTED and status.commit_ts <= self._lock.start_ts:
            reason = f"committed at {status.commit_ts}, before it began"
            raise LockResolveError(self._lock.start_ts, reason)
        if status.state not in (TxnState.COMMITTED, TxnState.ROLLED_BACK):
            return None
        self._clean(keys, status.commit_ts)
        return _Ended(status.commit_ts)

    def _is_over(self, lock: Lock) -> bool:
        """Whether a lock's time is up."""
        return physical_ms(lock.start_ts) + lock.ttl_ms < physical_ms(self._now)

    def _all_prewritten(self, primary: Lock) -> TimeStamp | None:
        """When an async-commit transaction was committed, 0 if never; None if it fell back."""
        start_ts = primary.start_ts
        answers = (
            self._transactions.check_secondaries(primary.secondaries, start_ts, self._deadline)
            if primary.secondaries
            else ()
        )
        ends = {answer.commit_ts for answer in answers if len(answer.locks) < answer.asked}
        if len(ends) > 1 or any(_NO_TS < end < primary.min_commit_ts for end in ends):
            reason = f"its secondaries ended at {sorted(ends)}, its min_commit_ts is "
            raise LockResolveError(start_ts, f"{reason}{primary.min_commit_ts}")
        if ends:
            return ends.pop()
        locks = [primary, *(lock for answer in answers for lock in answer.locks)]
        if any(lock.start_ts != start_ts for lock in locks):
            raise LockResolveError(start_ts, "a secondary is locked by another transaction")
        if not all(lock.use_async_commit for lock in locks):
            return None
        commit_ts = max(lock.min_commit_ts for lock in locks)
        if commit_ts <= start_ts:
            raise LockResolveError(start_ts, f"async commit with min_commit_ts {commit_ts}")
        return commit_ts

    def _clean(self, keys: Iterable[RawKey], commit_ts: TimeStamp) -> None:
        """Tidying up for others: the snapshot is read past the locks whether it succeeds or not."""
        if not self._may_write:
            return
        try:
            distinct = list(dict.fromkeys(keys))
            start_ts = self._lock.start_ts
            self._transactions.resolve(distinct, start_ts, commit_ts, self._deadline)
        except ServiceUnavailableError as error:
            _log.warning("locks of start_ts=%s stay: %s", self._lock.start_ts, error)


def _blocked(lock: Lock, policy: LockPolicy, deadline: Deadline) -> KeyIsLockedError:
    waited = f" within {deadline.timeout_ms} ms" if policy is not LockPolicy.FAIL else ""
    return KeyIsLockedError(lock.start_ts, table_of(lock.key), f"has not ended{waited}")
