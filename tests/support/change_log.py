"""A cluster's committed changes, and change feeds that deliver them in pieces."""

import random
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np
import pyarrow as pa

from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.cluster.located import RawKeyRange
from pyspark_theflash.replication.apply.versions import Versions
from pyspark_theflash.replication.cdc.change_feed import FeedState, MetaChange, Taken
from pyspark_theflash.tidb.codec.key import RawKey
from pyspark_theflash.tidb.schema.history import SchemaHistory
from tests.support.kv_tap import calls
from tests.support.percolator_records import uvarint
from tests.support.raft_tikv import FakeRaftCluster, at_ts, decoded


@dataclass(frozen=True, order=True)
class Change:
    """A committed change of a key; `value` is None for a delete."""

    commit_ts: int
    start_ts: int
    key: bytes
    value: bytes | None


@dataclass
class ChangeLog:
    """The changes of a cluster, and the timestamp up to which they are complete."""

    changes: list[Change] = field(default_factory=list)
    resolved_ts: int = 0

    def write(self, commit_ts: int, key: bytes, value: bytes | None) -> None:
        """Commit a change of one key, and complete it."""
        self.changes.append(Change(commit_ts, commit_ts - 1, key, value))
        self.resolved_ts = max(self.resolved_ts, commit_ts)


def captured() -> ChangeLog:
    """All committed changes of the captured cluster's rows."""
    tikv = FakeRaftCluster()
    for call in calls():
        tikv.call(call)
    changes = []
    for key, writes in tikv.writes.items():
        for commit_ts, kind, start_ts in writes:
            if kind not in "PD":
                continue
            record = tikv.cfs["write"][at_ts(key, commit_ts)]
            rest = record[1 + len(uvarint(start_ts)) :]
            value = None
            if kind == "P" and rest[:1] == b"v":
                value = rest[2 : 2 + rest[1]]
            elif kind == "P":
                value = tikv.cfs["default"][at_ts(key, start_ts)]
            changes.append(Change(commit_ts, start_ts, decoded(key), value))
    return ChangeLog(sorted(changes, key=lambda c: (c.commit_ts, c.key)))


class FakeChangeFeed:
    """A `ChangeFeed` of a log. Each span lags behind the log by a random number of polls."""

    def __init__(self, log: ChangeLog, rng: random.Random | None = None) -> None:
        self.log, self._rng = log, rng or random.Random(1)
        self.spans: dict[RawKeyRange, int] = {}
        self.subscribed: list[tuple[RawKeyRange, int]] = []
        self._taken: dict[RawKeyRange, int] = {}
        self.is_closed = False
        self.large_rows = 10**9
        """Transactions with so many rows are delivered as large ones, in several chunks."""
        self.late: list[Change] = []
        """Changes that the next `take` returns regardless of their timestamps."""

    def subscribe(self, span: RawKeyRange, checkpoint_ts: TimeStamp) -> None:
        assert span not in self.spans
        self.spans[span] = self._taken[span] = checkpoint_ts
        self.subscribed.append((span, checkpoint_ts))

    def unsubscribe(self, span: RawKeyRange) -> None:
        del self.spans[span], self._taken[span]

    def poll(self, timeout_ms: int) -> None:
        assert not self.is_closed
        for span, resolved_ts in self.spans.items():
            if self._rng.random() < 0.9:
                self.spans[span] = max(resolved_ts, self.log.resolved_ts)

    @property
    def resolved_ts(self) -> TimeStamp:
        return TimeStamp(min(self.spans.values(), default=0))

    @property
    def state(self) -> FeedState:
        return FeedState(streaming=len(self.spans))

    def take(self, up_to: TimeStamp) -> Taken:
        assert up_to <= self.resolved_ts
        taken, self.late = self.late, []
        for span, above in self._taken.items():
            chosen = [c for c in self.log.changes if above < c.commit_ts <= up_to]
            taken += [c for c in chosen if RawKey(c.key) in span]
            self._taken[span] = max(up_to, above)
        meta = [c for c in taken if c.key.startswith(b"m")]
        rows = [c for c in taken if not c.key.startswith(b"m")]
        rows += [c for c in rows if self._rng.random() < 0.02]
        self._rng.shuffle(rows)
        counts = Counter((c.commit_ts, c.start_ts) for c in rows)
        large = [c for c in rows if counts[c.commit_ts, c.start_ts] >= self.large_rows]
        again = [c for c in large if self._rng.random() < 0.1]
        small = [c for c in rows if counts[c.commit_ts, c.start_ts] < self.large_rows]
        return Taken(
            self._chunks(small + again),
            [MetaChange(RawKey(c.key), TimeStamp(c.commit_ts), c.value) for c in sorted(meta)],
            self._large_chunks(sorted(set(large))),
        )

    def close(self) -> None:
        self.is_closed = True

    def _large_chunks(self, rows: list[Change]) -> Iterator[Versions]:
        for _, some in groupby(rows, key=lambda c: (c.commit_ts, c.start_ts)):
            yield from self._chunks(list(some), most=3)

    def _chunks(self, rows: list[Change], most: int = 2000) -> Iterator[Versions]:
        while rows:
            size = self._rng.randint(1, most)
            yield from versions(rows[:size])
            rows = rows[size:]


def versions(rows: Iterable[Change]) -> Iterator[Versions]:
    by_type: dict[bool, list[Change]] = {}
    for row in rows:
        by_type.setdefault(len(row.key) == 19, []).append(row)
    for is_int, some in by_type.items():
        raw = [row.key[11:] for row in some]
        handles = [int.from_bytes(h, "big") - 2**63 for h in raw] if is_int else raw
        yield Versions(
            np.array([int.from_bytes(c.key[1:9], "big") - 2**63 for c in some], np.int64),
            pa.array(handles, pa.int64() if is_int else pa.binary()),
            np.array([c.commit_ts for c in some], np.uint64),
            np.array([c.start_ts for c in some], np.uint64),
            np.array([c.value is not None for c in some], np.uint8),
            pa.array([c.value or b"" for c in some], pa.binary()),
        )


class GrowingSchema:
    """A `ChangeSchema` that shows each change of a history when a log has reached its time."""

    def __init__(self, history: SchemaHistory, log: "ChangeLog | None" = None) -> None:
        self._history, self._log = history, log
        self.restored: list[TimeStamp] = []

    def receive(self, timeout_ms: int) -> None:
        """Do nothing: the log has everything."""

    def take_restored(self) -> list[TimeStamp]:
        restored, self.restored = self.restored, []
        return restored

    def close(self) -> None:
        """Do nothing: there is no feed."""

    def read(self, after: SchemaHistory | None, at_least: TimeStamp | None) -> SchemaHistory:
        whole = self._history
        if after is not None and at_least is None:
            return after
        reached = min(at_least or whole.start_ts, self._log.resolved_ts if self._log else 10**20)
        end_ts = TimeStamp(max(reached, after.end_ts if after else whole.start_ts))
        versions = [v for v in whole.versions if v.ts <= end_ts]
        return SchemaHistory(whole.start_ts, end_ts, whole.until(end_ts), versions)

    def has_written(self, key: RawKey, start_ts: TimeStamp) -> None:
        return None

    def had_row(self, key: RawKey, ts: TimeStamp) -> None:
        return None

    def outcome(self, primary: RawKey, start_ts: TimeStamp) -> None:
        return None
