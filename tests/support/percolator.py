"""A model of TiKV's transactions: locks and records of keys, for tests of readers.

It follows TiKV (`src/storage/txn/actions`, `.../commands`), and is independent of the code that
reads it. A key has at most one lock, and records by commit_ts; a rollback is a record at its
start_ts. Timestamps are (milliseconds << 18); `now_ms` is PD's clock and moves only by `pass_ms`.
"""

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from pyspark_theflash.base.clock import Deadline
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.cluster.lock import Lock, LockKind
from pyspark_theflash.cluster.resolve import (
    SecondaryLocks,
    StatusCheck,
    TxnState,
    TxnStatus,
)
from pyspark_theflash.tidb.codec.key import RawKey

BITS: Final = 18


@dataclass(frozen=True)
class Record:
    """A record of the write column family: `kind` is P, D, L or R (a rollback)."""

    kind: str
    start_ts: int
    commit_ts: int
    value: bytes = b""


class Locked(Exception):
    """A read was blocked by a lock."""

    def __init__(self, lock: Lock) -> None:
        super().__init__(lock)
        self.lock = lock


class Refused(Exception):
    """A write that TiKV would reject."""


class Percolator:
    """All keys of a cluster. A `Transactions` whose responses are current.

    `region_of` determines which keys are in one request; by default all of them.
    """

    def __init__(self, now_ms: int = 1_700_000_000_000) -> None:
        self.locks: dict[bytes, Lock] = {}
        self.records: dict[bytes, list[Record]] = {}
        self.now_ms, self._logical = now_ms, 0
        self.calls: list[str] = []
        self.splits: list[bytes] = []

    # PD.

    def tso(self) -> TimeStamp:
        self._logical += 1
        return TimeStamp((self.now_ms << BITS) + self._logical)

    def pass_ms(self, ms: int) -> None:
        self.now_ms, self._logical = self.now_ms + ms, 0

    def state(self) -> object:
        """Return the complete state, for comparison."""
        return copy.deepcopy((self.locks, self.records))

    # Writers.

    def prewrite(
        self,
        start_ts: int,
        primary: bytes,
        values: Mapping[bytes, bytes | None],
        *,
        ttl_ms: int = 3000,
        min_commit_ts: int = 0,
        secondaries: Sequence[bytes] | None = None,
        kind: LockKind | None = None,
        for_update_ts: int = 0,
    ) -> None:
        """Lock keys; `secondaries` makes it async commit. Raises `Refused`."""
        for key, value in values.items():
            held = self.locks.get(key)
            if held is not None and held.start_ts != start_ts:
                raise Refused("locked")
            for record in self.records.get(key, ()):
                if record.commit_ts > start_ts and record.kind != "R":
                    raise Refused("write conflict")
                if record.kind == "R" and record.start_ts == start_ts:
                    raise Refused("rolled back")
            self.locks[key] = Lock(
                RawKey(key),
                kind or (LockKind.DELETE if value is None else LockKind.PUT),
                RawKey(primary),
                TimeStamp(start_ts),
                ttl_ms,
                value,
                TimeStamp(for_update_ts),
                len(values),
                TimeStamp(min_commit_ts),
                secondaries is not None,
                tuple(map(RawKey, secondaries or ())) if key == primary else (),
            )

    def commit(self, start_ts: int, commit_ts: int, keys: Iterable[bytes]) -> None:
        """Commit keys. Raises `Refused`, for instance if a reader has pushed the primary."""
        for key in keys:
            lock = self.locks.get(key)
            if lock is None or lock.start_ts != start_ts:
                if self._record(key, start_ts) in (None, "R"):
                    raise Refused("no lock")
                continue
            if commit_ts < lock.min_commit_ts:
                raise Refused("commit_ts below min_commit_ts")
            kind = {LockKind.PUT: "P", LockKind.DELETE: "D"}.get(lock.kind, "L")
            record = Record(kind, start_ts, commit_ts, lock.short_value or b"")
            self.records.setdefault(key, []).append(record)
            del self.locks[key]

    def rollback(self, start_ts: int, keys: Iterable[bytes]) -> None:
        for key in keys:
            lock = self.locks.get(key)
            if lock is not None and lock.start_ts == start_ts:
                del self.locks[key]
            if self._record(key, start_ts) is None:
                record = Record("R", start_ts, start_ts)
                self.records.setdefault(key, []).append(record)

    # Readers.

    def get(
        self,
        key: bytes,
        ts: int,
        ignored: Iterable[int] = (),
        committed: Iterable[int] = (),
    ) -> bytes | None:
        """Return the value at a timestamp. Raises `Locked`."""
        lock = self.locks.get(key)
        data = lock is not None and lock.kind in (LockKind.PUT, LockKind.DELETE)
        if lock is not None and data and lock.start_ts <= ts and lock.min_commit_ts <= ts:
            if lock.start_ts in set(committed):
                return lock.short_value
            if lock.start_ts not in set(ignored):
                raise Locked(lock)
        seen = [r for r in self.records.get(key, ()) if r.commit_ts <= ts and r.kind in "PD"]
        newest = max(seen, key=lambda r: r.commit_ts, default=None)
        return None if newest is None or newest.kind == "D" else newest.value

    # Transactions.

    def now(self, deadline: Deadline) -> TimeStamp:
        self.calls.append("now")
        return self.tso()

    def check_status(self, check: StatusCheck, deadline: Deadline) -> TxnStatus:
        self.calls.append("check_status")
        lock = self.locks.get(check.primary)
        if lock is None or lock.start_ts != check.start_ts:
            return self._status_of_record(check)
        if check.verify_primary and lock.primary != check.primary:
            if lock.kind is not LockKind.PESSIMISTIC:
                return TxnStatus(TxnState.MISMATCH, lock=lock)
            status = self._status_of_record(check)
            if status.state is not TxnState.NOT_FOUND:
                self.locks.pop(check.primary, None)
            return status
        if lock.use_async_commit and not check.is_two_phase:
            return TxnStatus(TxnState.LOCKED, lock=lock)
        if (lock.start_ts >> BITS) + lock.ttl_ms < check.current_ts >> BITS:
            self.rollback(lock.start_ts, [check.primary])
            return TxnStatus(TxnState.ROLLED_BACK)
        if 0 < lock.min_commit_ts <= check.caller_ts:
            pushed = TimeStamp(max(check.caller_ts + 1, check.current_ts))
            lock = self.locks[check.primary] = replace(lock, min_commit_ts=pushed)
        return TxnStatus(TxnState.LOCKED, lock=lock)

    def check_secondaries(
        self, keys: Sequence[RawKey], start_ts: TimeStamp, deadline: Deadline
    ) -> list[SecondaryLocks]:
        self.calls.append("check_secondaries")
        by_region: dict[int, list[bytes]] = {}
        for key in sorted(keys):
            by_region.setdefault(sum(key >= split for split in self.splits), []).append(key)
        return [self._secondaries(group, start_ts) for group in by_region.values()]

    def resolve(
        self,
        keys: Sequence[RawKey],
        start_ts: TimeStamp,
        commit_ts: TimeStamp,
        deadline: Deadline,
    ) -> None:
        self.calls.append("resolve")
        held = [k for k in keys if k in self.locks and self.locks[k].start_ts == start_ts]
        if commit_ts:
            self.commit(start_ts, commit_ts, held)
        else:
            self.rollback(start_ts, held)

    def _secondaries(self, keys: Sequence[bytes], start_ts: int) -> SecondaryLocks:
        locks = []
        for key in keys:
            lock = self.locks.get(key)
            if lock is not None and lock.start_ts == start_ts:
                if lock.kind is not LockKind.PESSIMISTIC:
                    locks.append(lock)
                    continue
                del self.locks[key]
            ended = [r for r in self.records.get(key, ()) if r.start_ts == start_ts]
            if not ended:
                self.rollback(start_ts, [key])
            commit_ts = ended[0].commit_ts if ended and ended[0].kind != "R" else 0
            return SecondaryLocks(len(keys), (), TimeStamp(commit_ts))
        return SecondaryLocks(len(keys), tuple(locks), TimeStamp(0))

    def _status_of_record(self, check: StatusCheck) -> TxnStatus:
        for record in self.records.get(check.primary, ()):
            if record.start_ts == check.start_ts:
                if record.kind == "R":
                    return TxnStatus(TxnState.ROLLED_BACK)
                return TxnStatus(TxnState.COMMITTED, TimeStamp(record.commit_ts))
        if not check.rollback_if_not_found:
            return TxnStatus(TxnState.NOT_FOUND)
        self.rollback(check.start_ts, [check.primary])
        return TxnStatus(TxnState.ROLLED_BACK)

    def _record(self, key: bytes, start_ts: int) -> str | None:
        kinds = [r.kind for r in self.records.get(key, ()) if r.start_ts == start_ts]
        return kinds[0] if kinds else None
