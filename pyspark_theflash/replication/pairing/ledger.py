"""Ledger of finished transactions, which detects repeated deliveries.

One entry is 32 bytes, on disk and in memory:

    start_ts u64 | commit_ts u64 | digest 16 bytes        commit_ts 0: rolled back

A million transactions take 32 MB, where a `dict` would take 250 MB. The entries are in sorted NumPy
arrays, the newest in a small `dict`. An array is merged into its predecessor as soon as it is at
least half as long, so there are about log2(n) arrays. As start_ts grows with time, most lookups
search none of them.
"""

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pyspark_theflash.base.errors import CodecError
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.replication.source.event import DIGEST_BYTES, Transaction

ENTRY: Final = np.dtype([("start_ts", "<u8"), ("commit_ts", "<u8"), ("digest", f"V{DIGEST_BYTES}")])
_NO_DIGEST: Final = bytes(DIGEST_BYTES)
_RECENT_MAX: Final = 1 << 14


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """Outcome of a transaction. If it was rolled back, `commit_ts` is 0 and `digest` all zeros."""

    start_ts: TimeStamp
    commit_ts: TimeStamp
    digest: bytes

    @classmethod
    def committed(cls, transaction: Transaction) -> "LedgerEntry":
        return cls(transaction.start_ts, transaction.commit_ts, transaction.digest())

    @classmethod
    def rolled_back(cls, start_ts: TimeStamp) -> "LedgerEntry":
        return cls(start_ts, TimeStamp(0), _NO_DIGEST)


class TransactionLedger:
    """Ledger in memory. An entry is added once and stays until `forget` removes it."""

    def __init__(self) -> None:
        self._recent: dict[int, LedgerEntry] = {}
        self._sorted: list[NDArray[np.void]] = []

    def __len__(self) -> int:
        return len(self._recent) + sum(map(len, self._sorted))

    def add(self, entries: Iterable[LedgerEntry]) -> None:
        """Add finished transactions."""
        self._recent.update((entry.start_ts, entry) for entry in entries)
        if len(self._recent) >= _RECENT_MAX:
            self._add_array(_to_array(self._recent.values()))
            self._recent.clear()

    def add_packed(self, packed: bytes) -> None:
        """Add entries of `pack_entries` without a Python object per entry. Raises `CodecError`."""
        self._add_array(_from_bytes(packed))

    def lookup(self, start_ts: TimeStamp) -> LedgerEntry | None:
        """Return the outcome of a transaction; None if there is no entry. Called per entity."""
        if (entry := self._recent.get(start_ts)) is not None:
            return entry
        for entries in reversed(self._sorted):
            column = entries["start_ts"]
            if column[0] <= start_ts <= column[-1]:
                # Not `searchsorted`, which would copy the whole column, as it is not contiguous.
                entry_row = entries[bisect_left(column, start_ts)]
                if entry_row["start_ts"] == start_ts:
                    return _entry(entry_row)
        return None

    def forget(self, safe_point: TimeStamp) -> None:
        """Remove the transactions that ended at or below the safe point; see `pruned_entries`."""
        recent = self._recent.values()
        self._recent = {e.start_ts: e for e in recent if (e.commit_ts or e.start_ts) > safe_point}
        remaining = [_above(entries, safe_point) for entries in self._sorted]
        self._sorted = []
        for entries in remaining:
            self._add_array(entries)

    def _add_array(self, entries: NDArray[np.void]) -> None:
        while self._sorted and len(self._sorted[-1]) <= 2 * len(entries):
            entries = np.concatenate([self._sorted.pop(), entries])
        if len(entries):
            self._sorted.append(entries[entries["start_ts"].argsort(kind="stable")])


def pack_entries(entries: Iterable[LedgerEntry]) -> bytes:
    """Encode entries, 32 bytes each."""
    return _to_array(entries).tobytes()


def newest_commit(packed: Iterable[bytes]) -> int:
    """Return the newest commit_ts of entries; 0 if there are none. Raises `CodecError`."""
    return max((int(_from_bytes(body)["commit_ts"].max(initial=0)) for body in packed), default=0)


def pruned_entries(
    packed: Iterable[bytes], safe_point: TimeStamp, record_entries: int
) -> tuple[list[bytes], int]:
    """Remove a ledger's entries at or below a safe point.

    A repeated delivery of a transaction that committed at or below it is skipped as early, so it
    needs no entry. A rolled back transaction is removed by its start_ts: if it is delivered again,
    it is rolled back again. Returns the remaining entries, packed in bodies of `record_entries`
    each, and the number removed.
    """
    before = [_from_bytes(body) for body in packed]
    entries = np.concatenate([np.zeros(0, ENTRY), *(_above(e, safe_point) for e in before)])
    starts = range(0, len(entries), record_entries)
    bodies = [entries[at : at + record_entries].tobytes() for at in starts]
    return bodies, sum(map(len, before)) - len(entries)


def _above(entries: NDArray[np.void], safe_point: TimeStamp) -> NDArray[np.void]:
    ended = np.where(entries["commit_ts"] == 0, entries["start_ts"], entries["commit_ts"])
    remaining: NDArray[np.void] = entries[ended > np.uint64(safe_point)]
    return remaining


def _to_array(entries: Iterable[LedgerEntry]) -> NDArray[np.void]:
    return np.array([(e.start_ts, e.commit_ts, e.digest) for e in entries], ENTRY)


def _from_bytes(packed: bytes) -> NDArray[np.void]:
    if len(packed) % ENTRY.itemsize:
        raise CodecError("ledger", f"{len(packed)} bytes are not a multiple of {ENTRY.itemsize}")
    return np.frombuffer(packed, ENTRY)


def _entry(entry: np.void) -> LedgerEntry:
    start_ts, commit_ts, digest = entry.item()
    return LedgerEntry(TimeStamp(start_ts), TimeStamp(commit_ts), bytes(digest))
