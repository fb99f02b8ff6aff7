"""Changes that the requests of a feed have received, until they are taken.

    prewrites      wait for their commits in the matcher of their request      matcher.py
    rows           are committed, and counted by the request that sent them
    buffer         has the rows of earlier polls, without those that           buffer.py
                   ended requests send again

Large transactions are moved to temporary files when all prewrites together exceed a budget.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final
from weakref import WeakSet

from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.cluster.located import RawKeyRange
from pyspark_theflash.replication.cdc.buffer import ChangeBuffer
from pyspark_theflash.replication.cdc.change_feed import Taken
from pyspark_theflash.replication.cdc.matcher import CommittedRows, Matcher
from pyspark_theflash.replication.cdc.wire import RowEvent
from pyspark_theflash.replication.pairing.spill import Spill

_CHUNK_BYTES: Final = 16 << 20


class ReceivedChanges:
    """The changes of one feed. `pending_bytes` is the approximate memory of prewrites."""

    def __init__(self, folder: Path | None, prewrite_bytes: int, large_bytes: int) -> None:
        """Create without changes.

        Args:
            folder: For temporary files.
            prewrite_bytes: The memory of prewrites above which transactions are moved to files.
            large_bytes: The smallest transaction (its part in one region) that is moved.
        """
        self._folder, self._large_bytes = folder, large_bytes
        self._budget_bytes = self._spill_at_bytes = prewrite_bytes
        self._spills = WeakSet[Spill]()
        self._buffer = ChangeBuffer(self._new_spill())
        self._rows = CommittedRows()
        self._owners: list[int] = []
        self._counts: list[int] = []
        self._ended: dict[int, TimeStamp] = {}
        self.pending_bytes = 0

    @property
    def buffer_bytes(self) -> int:
        """The memory of committed changes."""
        return self._buffer.size_bytes

    @property
    def file_bytes(self) -> int:
        """The size of the temporary files. May be read by other threads."""
        return sum(spill.size_bytes for spill in list(self._spills))

    @property
    def is_full(self) -> bool:
        """Return whether large transactions should be moved to files."""
        return self.pending_bytes > self._spill_at_bytes

    def add(self, owner: int, matcher: Matcher, changes: Iterable[RowEvent]) -> None:
        """Match changes that a request has received. Those before an error are kept.

        Raises:
            ChangeFeedError: The changes contradict earlier ones.
            StoreFullError, EngineError: A file could not be written.
        """
        before, pending_bytes = len(self._rows.keys), matcher.pending_bytes
        try:
            matcher.add(changes, self._rows)
        finally:
            self.pending_bytes += matcher.pending_bytes - pending_bytes
            if added := len(self._rows.keys) - before:
                self._owners.append(owner)
                self._counts.append(added)
        if self._rows.size_bytes > _CHUNK_BYTES:
            self.seal()

    def advance(self, matcher: Matcher, resolved_ts: TimeStamp) -> bool:
        """Process a request's resolved_ts; return whether it was accepted."""
        pending_bytes = matcher.pending_bytes
        is_accepted = matcher.advance(resolved_ts, self._rows)
        self.pending_bytes += matcher.pending_bytes - pending_bytes
        return is_accepted

    def end(self, owner: int, matcher: Matcher, resolved_ts: TimeStamp) -> None:
        """Forget a request, with its changes above its resolved_ts."""
        self._ended[owner] = resolved_ts
        self.pending_bytes -= matcher.pending_bytes

    def seal(self) -> None:
        """Move the received rows to the buffer, without those that ended requests send again."""
        rows, owners, counts, ended = self._rows, self._owners, self._counts, self._ended
        if rows.keys or rows.logs:
            self._rows, self._owners, self._counts = CommittedRows(), [], []
            self._buffer.add(rows, owners, counts)
        if ended:
            self._ended = {}
            self._buffer.discard(ended)

    def remove(self, span: RawKeyRange) -> None:
        """Remove the rows of a span."""
        self.seal()
        self._buffer.remove(span)

    def take(self, up_to: TimeStamp) -> Taken:
        """Remove and return the sealed changes with commit_ts <= `up_to`."""
        return self._buffer.take(up_to)

    def spill(self, matchers: Sequence[Matcher]) -> None:
        """Move large transactions of all requests to files, until half of the budget is free.

        Raises:
            StoreFullError, EngineError: A file could not be written.
        """
        budget = self._budget_bytes
        for matcher in sorted(matchers, key=lambda each: each.pending_bytes, reverse=True):
            while self.pending_bytes > budget // 2:
                before = matcher.pending_bytes
                if not matcher.spill_largest(self._new_spill(), self._large_bytes):
                    break
                self.pending_bytes += matcher.pending_bytes - before
        # Only small transactions are left: wait until there are more.
        self._spill_at_bytes = max(budget, self.pending_bytes + budget // 2)

    def _new_spill(self) -> Spill:
        spill = Spill(self._folder)
        self._spills.add(spill)
        return spill
