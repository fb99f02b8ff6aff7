"""Matching of prewrites and commits in the feed of one request to one region.

A committed row arrives either whole (`COMMITTED`: found by the scan, or committed in one phase), or
as a prewrite with its value and a commit with its commit_ts, which are matched by (start_ts, key):

    PREWRITE 7 k v        COMMIT 7 k at 9              -> k = v at 9
    PREWRITE 8 k w        ROLLBACK 8 k                 -> nothing

A request begins with a scan of the region. It sends every version above the request's checkpoint_ts
as COMMITTED and every lock as PREWRITE, and ends with INITIALIZED. Live events overtake it, so
before INITIALIZED

    a commit may precede its prewrite, or have none: the scan sends the version as COMMITTED
    a rollback may precede its prewrite
    a prewrite may be incomplete: a heartbeat of the transaction has no value, and a pipelined
    transaction (generation > 0) writes a key several times

so commits without a usable prewrite and rollbacks are kept until INITIALIZED. A commit that has
none then is dropped, because the scan has sent its version. After INITIALIZED it is an error. A
prewrite without a value never replaces one, and otherwise the highest generation is used. The
commit's `op` decides whether the row was deleted: a prewrite without a value may be a heartbeat.

A change at or below the resolved_ts is delivered as others are: a scan may send a part of the rows
of an import, which the feed does not announce, and the writer sets the table aside.

A region's resolved_ts does not wait for the locks of pessimistic transactions, and TiKV repeats it
while other locks hold it. So a transaction may be prewritten after resolved_ts has passed its
start_ts, and its prewrites stay pending while resolved_ts is reported again. TiKV writes some
rollbacks without an event; the prewrites that they leave are dropped after `ABANDONED_MS`.

The rows of a transaction that is too large for memory are moved to a `TxnLog`, which matches them
when the resolved_ts has reached the commit_ts; meta keys stay here. See TiKV's
`components/cdc/src/delegate.rs`.
"""

import bisect
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from pyspark_theflash.base.errors import ChangeFeedError
from pyspark_theflash.base.types import TimeStamp, from_physical_ms
from pyspark_theflash.replication.cdc.spans import SpanPiece
from pyspark_theflash.replication.cdc.txn_log import TxnLog
from pyspark_theflash.replication.cdc.wire import (
    COMMIT,
    COMMITTED,
    DELETE,
    INITIALIZED,
    PREWRITE,
    PUT,
    ROLLBACK,
    RowEvent,
)
from pyspark_theflash.replication.pairing.spill import Spill
from pyspark_theflash.tidb.codec.key import RawKey, table_of

ABANDONED_MS: Final = 48 * 3600 * 1000
"""The lead of resolved_ts over the start_ts of a transaction that cannot commit any more: twice the
time that TiDB's garbage collection waits for a transaction by default."""
ROW_BYTES: Final = 200
"""The approximate memory of a pending prewrite besides its value."""
_log = logging.getLogger(__name__)

_OUTSIDE: Final = -1
_META: Final = b"m"
_Commit = tuple[int, bytes, int, int]
"""start_ts, key, commit_ts, op."""


@dataclass(slots=True)
class CommittedRows:
    """Committed changes as columns of equal length, and finished large transactions."""

    keys: list[bytes] = field(default_factory=list)
    values: list[bytes] = field(default_factory=list)
    start_ts: list[int] = field(default_factory=list)
    commit_ts: list[int] = field(default_factory=list)
    ops: list[int] = field(default_factory=list)
    """`PUT` or `DELETE`."""
    size_bytes: int = 0
    logs: list[TxnLog] = field(default_factory=list)

    def add(self, key: bytes, value: bytes, start_ts: int, commit_ts: int, op: int) -> None:
        """Add a row."""
        self.keys.append(key)
        self.values.append(value)
        self.start_ts.append(start_ts)
        self.commit_ts.append(commit_ts)
        self.ops.append(op)
        self.size_bytes += len(value)


class Matcher:
    """The state of one request's feed. `pending_bytes` is the approximate memory of prewrites."""

    def __init__(self, pieces: Sequence[SpanPiece], checkpoint_ts: TimeStamp) -> None:
        self.is_initialized = False
        self.resolved_ts = self._checkpoint_ts = checkpoint_ts
        self.pending_bytes = 0
        self._has_late = False
        self._pending: dict[int, dict[bytes, bytes]] = {}  # start_ts -> key -> value
        self._generations: dict[int, dict[bytes, int]] = {}  # of pipelined transactions
        self._logs: dict[int, TxnLog] = {}
        self._early_commits: list[_Commit] = []
        self._early_rollbacks: list[tuple[int, bytes]] = []
        self.keep(pieces)

    def keep(self, pieces: Sequence[SpanPiece]) -> None:
        """Accept rows of these pieces only, from their resolved_ts on."""
        self._pieces = [(p.keys.start, p.keys.end, p.resolved_ts) for p in pieces]
        self._starts = [start for start, _, _ in self._pieces]

    def add(self, rows: Iterable[RowEvent], committed: CommittedRows) -> None:
        """Process rows; add those that are committed to `committed`.

        Raises:
            ChangeFeedError: The rows contradict earlier ones.
            StoreFullError, EngineError: A large transaction could not be written to its file.
        """
        pending, logs, generations = self._pending, self._logs, self._generations
        low, high, first_floor = self._pieces[0]
        resolved_ts, is_live = self.resolved_ts, self.is_initialized
        added_bytes = committed_bytes = floor = 0
        add_key, add_value = committed.keys.append, committed.values.append
        add_start_ts, add_commit_ts = committed.start_ts.append, committed.commit_ts.append
        add_op = committed.ops.append
        for row in rows:
            kind, key = row.type, row.key
            if low <= key < high:
                floor = first_floor
            elif kind == INITIALIZED:
                self._initialize(committed)
                is_live = True
                continue
            elif (floor := self._floor_of(key)) == _OUTSIDE:
                continue
            start_ts = row.start_ts
            if kind == PREWRITE:
                value, txn = row.value, pending.get(start_ts)
                if row.generation or start_ts in logs or (txn and key in txn):
                    self._prewrite_again(start_ts, key, value, row.generation)
                    continue
                if txn is None:
                    pending[start_ts] = {key: value}
                else:
                    txn[key] = value
                added_bytes += len(value) + ROW_BYTES
                continue
            if kind == COMMIT:
                commit_ts, op, txn = row.commit_ts, row.op_type, pending.get(start_ts)
                if txn is None or not is_live or key not in txn or commit_ts <= resolved_ts:
                    self._commit(start_ts, key, commit_ts, op, committed, floor)
                    continue
                # The usual case of `_commit`.
                value = txn.pop(key)
                added_bytes -= len(value) + ROW_BYTES
                if not txn:
                    del pending[start_ts]
                    if generations:
                        generations.pop(start_ts, None)
            elif kind == COMMITTED:
                commit_ts, op, value = row.commit_ts, row.op_type, row.value
                if commit_ts <= resolved_ts:
                    floor = self._unless_late(key, commit_ts, floor)
            else:
                if kind == ROLLBACK:
                    self._rolled_back(start_ts, key)
                continue
            if op != PUT or not value or commit_ts <= floor:
                self._emit(key, value, start_ts, commit_ts, op, committed, floor)
                continue
            # The usual case of `_emit`.
            add_key(key)
            add_value(value)
            add_start_ts(start_ts)
            add_commit_ts(commit_ts)
            add_op(op)
            committed_bytes += len(value)
        self.pending_bytes += added_bytes
        committed.size_bytes += committed_bytes

    def advance(self, resolved_ts: TimeStamp, committed: CommittedRows) -> bool:
        """Process the region's resolved_ts; return whether it was accepted.

        It is ignored before INITIALIZED, and if it is lower than before.
        """
        if not self.is_initialized or resolved_ts < self.resolved_ts:
            return False
        self.resolved_ts = resolved_ts
        abandoned_ts = resolved_ts - from_physical_ms(ABANDONED_MS)
        for start_ts in [ts for ts in self._pending if ts < abandoned_ts]:
            self._drop(start_ts)
        for start_ts, log in list(self._logs.items()):
            if log.commit_ts and log.commit_ts <= resolved_ts:
                committed.logs.append(self._logs.pop(start_ts))
            elif not log.commit_ts and start_ts < abandoned_ts:
                del self._logs[start_ts]
        return True

    def spill_largest(self, spill: Spill, least_bytes: int) -> bool:
        """Move the largest transaction in memory to a file, if it has so many bytes of values.

        Returns whether there was one. Raises `StoreFullError`, `EngineError`.
        """
        sizes = {
            start_ts: sum(len(value) for key, value in txn.items() if key[:1] != _META)
            for start_ts, txn in self._pending.items()
            if start_ts not in self._logs
        }
        start_ts = max(sizes, key=sizes.__getitem__, default=0)
        if sizes.get(start_ts, 0) < least_bytes:
            return False
        self._logs[start_ts] = log = TxnLog(spill, TimeStamp(start_ts))
        generations = self._generations.get(start_ts, {})
        for key, value in list(self._pending[start_ts].items()):
            if key[:1] != _META:
                log.prewrite(key, value, generations.get(key, 0))
                self._remove(start_ts, key)
        commits, self._early_commits = self._early_commits, []
        for commit in commits:
            if commit[0] == start_ts and commit[1][:1] != _META:
                self._commit(*commit, CommittedRows(), self._floor_of(commit[1]))
            else:
                self._early_commits.append(commit)
        return True

    def _floor_of(self, key: bytes) -> int:
        """Return the timestamp up to which the changes of a key are complete, or `_OUTSIDE`."""
        at = bisect.bisect_right(self._starts, key) - 1
        if at < 0:
            return _OUTSIDE
        _, end, floor = self._pieces[at]
        return floor if not end or key < end else _OUTSIDE

    def _prewrite_again(self, start_ts: int, key: bytes, value: bytes, generation: int) -> None:
        """Process a prewrite of a key that has one, or of a pipelined or large transaction."""
        if start_ts in self._logs and key[:1] != _META:
            self._logs[start_ts].prewrite(key, value, generation)
            return
        txn = self._pending.setdefault(start_ts, {})
        generations = self._generations.get(start_ts, {})
        if key in txn and (not value or generation < generations.get(key, 0)):
            return
        self.pending_bytes += len(value) - len(txn.get(key, b""))
        self.pending_bytes += 0 if key in txn else ROW_BYTES
        txn[key] = value
        if generation:
            self._generations.setdefault(start_ts, {})[key] = generation

    def _commit(
        self,
        start_ts: int,
        key: bytes,
        commit_ts: int,
        op: int,
        committed: CommittedRows,
        floor: int,
    ) -> None:
        log = self._logs.get(start_ts)
        if log is not None and key[:1] != _META:
            if commit_ts > floor:
                log.commit(key, TimeStamp(commit_ts), op, is_early=not self.is_initialized)
            return
        txn = self._pending.get(start_ts)
        value = None if txn is None else txn.get(key)
        if not self.is_initialized:
            if not value or key in self._generations.get(start_ts, ()):
                self._early_commits.append((start_ts, key, commit_ts, op))
                return
        elif value is None:
            if commit_ts <= self._checkpoint_ts:
                return
            raise _unmatched(key, start_ts)
        self._remove(start_ts, key)
        if commit_ts > self._checkpoint_ts:
            floor = self._unless_late(key, commit_ts, floor)
            self._emit(key, value or b"", start_ts, commit_ts, op, committed, floor)

    def _unless_late(self, key: bytes, commit_ts: int, floor: int) -> int:
        """Return the floor, or none for a change that contradicts the resolved_ts."""
        if commit_ts > self.resolved_ts:
            return floor
        if not self._has_late:
            self._has_late = True
            where, ts = table_of(RawKey(key)), self.resolved_ts
            _log.warning("%s: a change at %s came after resolved_ts %s", where, commit_ts, ts)
        return 0

    def _emit(
        self,
        key: bytes,
        value: bytes,
        start_ts: int,
        commit_ts: int,
        op: int,
        committed: CommittedRows,
        floor: int,
    ) -> None:
        if commit_ts <= floor:
            return
        if op == DELETE:
            value = b""
        elif op != PUT or not value:
            raise ChangeFeedError(
                table_of(RawKey(key)),
                f"the change at {commit_ts} has {'no value' if op == PUT else 'an unknown type'}",
            )
        committed.add(key, value, start_ts, commit_ts, op)

    def _initialize(self, committed: CommittedRows) -> None:
        commits, self._early_commits = self._early_commits, []
        self.is_initialized = True
        for start_ts, key, commit_ts, op in commits:
            value = self._pending.get(start_ts, {}).get(key)
            # Without a prewrite, or with a heartbeat only, the scan has sent the version.
            if value == b"" and op == PUT:
                self._remove(start_ts, key)
            elif value is not None:
                self._commit(start_ts, key, commit_ts, op, committed, self._floor_of(key))
        rollbacks, self._early_rollbacks = self._early_rollbacks, []
        for start_ts, key in rollbacks:
            self._roll_back(start_ts, key)

    def _rolled_back(self, start_ts: int, key: bytes) -> None:
        if self.is_initialized:
            self._roll_back(start_ts, key)
        else:
            self._early_rollbacks.append((start_ts, key))

    def _roll_back(self, start_ts: int, key: bytes) -> None:
        if start_ts in self._logs and key[:1] != _META:
            self._logs[start_ts].roll_back(key)
        elif key in self._pending.get(start_ts, ()):
            self._remove(start_ts, key)

    def _remove(self, start_ts: int, key: bytes) -> None:
        txn = self._pending[start_ts]
        self.pending_bytes -= len(txn.pop(key)) + ROW_BYTES
        if not txn:
            self._drop(start_ts)

    def _drop(self, start_ts: int) -> None:
        txn = self._pending.pop(start_ts)
        if txn:
            self.pending_bytes -= sum(map(len, txn.values())) + ROW_BYTES * len(txn)
        if self._generations:
            self._generations.pop(start_ts, None)


def _unmatched(key: bytes, start_ts: int) -> ChangeFeedError:
    reason = f"the transaction of start_ts={start_ts} was committed but not prewritten"
    return ChangeFeedError(table_of(RawKey(key)), reason)
