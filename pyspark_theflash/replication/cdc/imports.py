"""Find tables that a physical import has changed, of which TiKV's change feed has no event.

TiDB Lightning (physical mode), IMPORT INTO and BR's restore write files of rows and let TiKV ingest
them. While one of them runs, PD's etcd has a key `/tidb/brie/import/TOOL/TASK` with a lease, which
does not name tables. All tables are compared with TiKV (`load/check_process.py`)

    after a key has appeared, and again after it has disappeared, the smallest tables first: the
    tools fill empty tables
    in the background, for a share of the time, against imports that set no key

and a table that differs is set aside from the last timestamp at which it was equal.

What etcd's revision is good for
    A watch continues at the stored revision, so an import that began and ended while no writer ran
    is found. The revision is stored when the tables were compared at a timestamp that PD allocated
    after the keys' last change: the rows of an import that has ended have commits below that. If
    etcd has compacted the revision, or none is stored, all tables are compared too.
"""

import logging
from collections import deque
from collections.abc import Callable, Sequence, Set
from typing import TYPE_CHECKING, Final, Protocol

from pyspark_theflash.base.clock import Clock
from pyspark_theflash.base.errors import (
    PurgedError,
    TableNotFoundError,
    TableNotLoadedError,
    TableNotReplicatedError,
    TableSetAsideError,
    TheFlashError,
    UnsupportedError,
)
from pyspark_theflash.base.timestamp import shown
from pyspark_theflash.base.types import PhysicalTableID, TimeStamp
from pyspark_theflash.cluster.watch import WatchedKeys
from pyspark_theflash.replication.load.checking import Answer, CheckedTable, TablesToCheck
from pyspark_theflash.storage.store.compared import (
    COMPARED_KIND,
    IMPORTS_KIND,
    compared_of,
    compared_record,
    imports_record,
    imports_revision,
)
from pyspark_theflash.storage.store.manifest import Record, View

if TYPE_CHECKING:
    from concurrent.futures import Future

IMPORT_PREFIX: Final = "/tidb/brie/import/"
IMPORT_KINDS: Final = (COMPARED_KIND, IMPORTS_KIND)
DEFAULT_SHARE: Final = 0.05
CYCLE_MS: Final = 600_000
"""The least time between two comparisons of all tables in the background."""
RETRY_MS: Final = 5_000
_PAUSE_MS_MIN: Final = 1_000
_NOT_READABLE: Final = (
    PurgedError,
    TableNotFoundError,
    TableNotLoadedError,
    TableNotReplicatedError,
    TableSetAsideError,
    UnsupportedError,
)
_log = logging.getLogger(__name__)


class Checker(Protocol):
    """Compares tables; see `CheckProcess`."""

    def request(self, table: str | None) -> "Future[Answer]":
        """Compare a table, or with None, list the tables."""


class ImportWriter(Protocol):
    """The writer of a store."""

    @property
    def resolved_ts(self) -> TimeStamp:
        """Newest readable timestamp of the store."""

    @property
    def start_ts(self) -> TimeStamp:
        """Oldest timestamp of its schema history."""

    def record(self, records: Sequence[Record]) -> None:
        """Publish records."""

    def set_aside(self, table: str, ids: Set[PhysicalTableID], ts: TimeStamp, reason: str) -> None:
        """Set physical tables aside from a timestamp on."""


class ImportChecks:
    """Comparisons of one store. `view` has `IMPORT_KINDS`; `share` is for the background."""

    def __init__(
        self,
        view: View,
        keys: Callable[[], WatchedKeys | None],
        checker: Checker,
        clock: Clock,
        share: float = DEFAULT_SHARE,
    ) -> None:
        self._keys, self._checker, self._clock, self._share = keys, checker, clock, share
        self._done = imports_revision(view)
        self._compared = compared_of(view)
        self._running = frozenset[str]()
        self._goal: int | None = None
        """The revision of the imports that all tables are being compared for."""
        self._goal_ts = TimeStamp(0)
        self._left: deque[str] | None = None
        """Tables that remain to be compared; None if they are not listed."""
        self._pending: tuple[str | None, Future[Answer], int] | None = None
        self._next_ms, self._cycle_ms = 0, clock.boottime_ms() + CYCLE_MS
        self.rows = 0
        """The number of rows compared."""
        self.pass_ms: int | None = None
        """Wall clock at the end of the last comparison of all tables by this process."""

    def poll(self, writer: ImportWriter) -> None:
        """Record what has been compared, and begin the next comparison.

        Raises the errors of publishing; the next call repeats it.
        """
        if self._pending is not None:
            if not self._pending[1].done():
                return
            self._take(writer)
        if (keys := self._keys()) is not None:
            self._follow(keys, writer)
        self._ask(writer)

    def _follow(self, keys: WatchedKeys, writer: ImportWriter) -> None:
        """Plan to compare all tables if an import has begun or ended."""
        for key in sorted(keys.keys - self._running):
            _log.warning("an import runs: %s; tables are compared with TiKV when it ends", key)
        self._running = keys.keys
        done = -1 if self._done is None else self._done
        if keys.changed > max(done, self._goal or -1):
            self._goal, self._left, self._next_ms = keys.revision, None, 0
        elif self._goal is None and keys.revision > done:
            self._finish(keys.revision, writer)

    def _finish(self, revision: int, writer: ImportWriter) -> None:
        writer.record([imports_record(revision)])
        self._done, self._goal = revision, None

    def _ask(self, writer: ImportWriter) -> None:
        now_ms = self._clock.boottime_ms()
        if now_ms < self._next_ms:
            return
        if self._left is None:
            if self._goal is not None or (self._share > 0 and now_ms >= self._cycle_ms):
                self._pending = (None, self._checker.request(None), now_ms)
        elif self._left:
            if self._goal is None or writer.resolved_ts >= self._goal_ts:
                self._pending = (self._left[0], self._checker.request(self._left[0]), now_ms)
        else:
            if self._goal is not None:
                self._finish(self._goal, writer)
            self._left, self._cycle_ms = None, now_ms + CYCLE_MS
            self.pass_ms = self._clock.wall_ms()

    def _take(self, writer: ImportWriter) -> None:
        """Record an answer."""
        assert self._pending is not None  # noqa: S101
        table, future, started_ms = self._pending
        answer = future.result()
        if isinstance(answer, TablesToCheck):
            self._left, self._goal_ts = deque(answer.names), answer.ts
        elif isinstance(answer, CheckedTable) and table is not None:
            self._record(table, answer, writer)
            self._pause(self._clock.boottime_ms() - started_ms)
        elif isinstance(answer, TheFlashError):
            self._retry(table, answer)
        self._pending = None

    def _record(self, name: str, checked: CheckedTable, writer: ImportWriter) -> None:
        for physical_id, text in checked.differences:
            ts = TimeStamp(self._compared.get(checked.table_id, writer.start_ts - 1) + 1)
            reason = (
                f"its rows differ from TiKV's at {shown(checked.ts)}, as after an import (IMPORT "
                f"INTO, Lightning, BR), which TiKV's change feed does not have: {text}"
            )
            writer.set_aside(name, {physical_id}, ts, reason)
        if not checked.differences:
            writer.record([compared_record(checked.table_id, checked.ts)])
            self._compared[checked.table_id] = checked.ts
        self.rows += checked.rows
        self._drop(name)

    def _pause(self, took_ms: int) -> None:
        """Wait after a comparison in the background."""
        if self._goal is None and self._share > 0:
            pause_ms = max(int(took_ms * (1 / self._share - 1)), _PAUSE_MS_MIN)
            self._next_ms = self._clock.boottime_ms() + pause_ms

    def _retry(self, table: str | None, error: TheFlashError) -> None:
        """Try again later, unless there is nothing to compare."""
        if isinstance(error, _NOT_READABLE):
            self._drop(table)
            return
        _log.warning("%s not compared with TiKV, retrying: %s", table or "tables", error)
        self._next_ms = self._clock.boottime_ms() + RETRY_MS
        if table is not None and self._left:
            self._drop(table)
            self._left.append(table)

    def _drop(self, table: str | None) -> None:
        if self._left and self._left[0] == table:
            self._left.popleft()
