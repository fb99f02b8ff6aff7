"""Owners of transactions, for models: they execute one step at a time, and may stop at any step.

Owners do what TiDB does: all keys are prewritten, then the primary is committed, then the rest.
"""

from dataclasses import dataclass
from typing import Final

from tests.support.percolator import Percolator, Refused

MODES: Final = ("two phases", "large", "async")
TTL_MS: Final = 100


@dataclass
class Owner:
    """A transaction's steps: prewrite each key, take a commit_ts, commit each key."""

    start_ts: int
    keys: list[bytes]
    mode: str
    done: int = 0
    min_commit_ts: int = 0
    commit_ts: int = 0
    is_over: bool = False
    reserved: int = 0
    """A min_commit_ts that was calculated for the next key, and is not in its lock yet."""

    def step(self, tikv: Percolator, max_ts: int) -> None:
        if self.is_over:
            return
        n, self.done = self.done, self.done + 1
        try:
            if n < len(self.keys):
                self._prewrite(tikv, self._order()[n], max_ts)
            elif n == len(self.keys):
                is_async = self.mode == "async"
                self.commit_ts = self.min_commit_ts if is_async else tikv.tso()
            else:
                tikv.commit(self.start_ts, self.commit_ts, [self.keys[n - len(self.keys) - 1]])
                self.is_over = n == 2 * len(self.keys)
        except Refused:
            self.is_over = True
            # TiDB repeats a pushed commit with a later timestamp: only prewrites are rolled back.
            if n <= len(self.keys):
                tikv.rollback(self.start_ts, self.keys)

    def next_key(self) -> bytes | None:
        """The next key that an async-commit transaction prewrites."""
        left = self.mode == "async" and not self.is_over and self.done < len(self.keys)
        return self._order()[self.done] if left else None

    def _order(self) -> list[bytes]:
        """Secondaries may be locked before the primary."""
        return self.keys[::-1] if self.start_ts % 2 else self.keys

    def _prewrite(self, tikv: Percolator, key: bytes, max_ts: int) -> None:
        floor = 0 if self.mode == "two phases" else self.start_ts + 1
        if self.mode == "async":
            floor = self.reserved or max(max_ts, self.start_ts) + 1
            self.reserved = 0
        self.min_commit_ts = max(self.min_commit_ts, floor)
        values = {key: b"%d" % self.start_ts}
        secondaries = self.keys[1:] if self.mode == "async" else None
        tikv.prewrite(
            self.start_ts,
            self.keys[0],
            values,
            ttl_ms=TTL_MS,
            min_commit_ts=floor,
            secondaries=secondaries,
        )
