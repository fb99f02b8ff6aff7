"""A learner that lags behind is read while it is fed, against what a captured cluster says later.

The region store is the real one, fed by a fake TiKV that goes on writing and splitting regions
while a reader asks for read indices, waits, and reads all tables at one moment.
"""

import random
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from pyspark_theflash.base.clock import Deadline, SystemClock
from pyspark_theflash.base.types import RegionEpoch, RegionID, TimeStamp
from pyspark_theflash.cluster.located import LocatedRegion, RawKeyRange
from pyspark_theflash.cluster.lock import Lock
from pyspark_theflash.cluster.resolve import (
    LockResolver,
    StatusCheck,
    TxnState,
    TxnStatus,
)
from pyspark_theflash.storage.mvcc.project import scan_column
from pyspark_theflash.storage.mvcc.version import HANDLE
from pyspark_theflash.tidb.codec.bytes import decode_bytes
from pyspark_theflash.tidb.codec.key import RawKey, encode_record_key
from pyspark_theflash.tidb.schema.model import TableInfo
from pyspark_theflash.tikv.learner_read import CatchUp
from pyspark_theflash.tikv.read import TableView, open_tables
from tests.integration.test_kv_truth import FIRST_TABLE, HISTORY, SMALL, TABLES, expected
from tests.support.kv_tap import calls
from tests.support.learning import Learning
from tests.support.percolator import Percolator
from tests.support.raft_tikv import Change, FakeRaftCluster
from tests.support.table_rows import read_rows

CLOCK = SystemClock()
CALLS = list(calls())
POINTS = 20


class Watched(FakeRaftCluster):
    """Notes when each transaction has written its last lock, and as what it ended."""

    def __init__(self, first_key: bytes = b"") -> None:
        super().__init__(first_key)
        self.number = 0
        self.last_lock: dict[int, int] = {}
        """Or its first record, if it never had a lock: a commit in one phase."""
        self.newest_ts: list[int] = []

    def write(self, changes: Sequence[Change]) -> None:  # type: ignore[override]
        changes = list(changes)
        super().write(changes)
        for cf, key, value in changes:
            if cf == "lock" and value is not None:
                self.last_lock[self.held[key].start_ts] = self.number
            elif cf == "write" and value is not None:
                self.last_lock.setdefault(self.writes[key[:-8]][-1][2], self.number)

    def run(self) -> "Watched":
        newest = 0
        for self.number, call in enumerate(CALLS):
            self.call(call)
            newest = max(
                newest, *(ts for ts in self.last_lock if self.last_lock[ts] == self.number), 0
            )
            self.newest_ts.append(newest)
        return self

    def ends(self) -> dict[int, int]:
        """start_ts -> commit_ts, 0 if rolled back."""
        ends = dict.fromkeys(self.last_lock, 0)
        for records in self.writes.values():
            ends |= {start: commit for commit, kind, start in records if kind != "R"}
        return ends

    def snapshot_at(self, number: int, ends: dict[int, int]) -> int:
        """A timestamp that nothing commits at or below which is not locked after a call.

        The store that was captured calculates a commit_ts before it locks; TiKV does not.
        """
        later = [c for s, c in ends.items() if c and self.last_lock.get(s, 1 << 60) > number]
        return min(self.newest_ts[number], min(later, default=1 << 63) - 1)


class Ends(Percolator):
    """A `Transactions` that has seen the end of the story."""

    def __init__(self, ends: dict[int, int]) -> None:
        super().__init__()
        self._ends = ends

    def check_status(self, check: StatusCheck, deadline: Deadline) -> TxnStatus:
        commit_ts = self._ends.get(check.start_ts, 0)
        if not commit_ts:
            return TxnStatus(TxnState.ROLLED_BACK)
        return TxnStatus(TxnState.COMMITTED, TimeStamp(commit_ts))


class FakeLeaders:
    """A `Leaders` over the fake TiKV, whose cache is mended when a leader refuses."""

    def __init__(self, tikv: FakeRaftCluster, mutex: threading.Lock) -> None:
        self._tikv, self._mutex = tikv, mutex
        self.refused = 0
        self._regions = self._look()

    def cover(
        self, ranges: Sequence[RawKeyRange], deadline: Deadline
    ) -> list[tuple[LocatedRegion, list[RawKeyRange]]]:
        covering = [(region, region.parts_of(ranges)) for region in self._regions]
        return [(region, parts) for region, parts in covering if parts]

    def read_index(
        self,
        region: LocatedRegion,
        ranges: Sequence[RawKeyRange],
        snapshot_ts: TimeStamp,
        deadline: Deadline,
    ) -> int | Lock | None:
        with self._mutex:
            now = self._tikv.regions.get(region.id)
            if now is None or now.version != region.epoch.version:
                self._regions = self._look()
                self.refused += 1
                return None
            return now.index

    def _look(self) -> list[LocatedRegion]:
        return [
            LocatedRegion(
                RegionID(r.id),
                RawKeyRange(_raw(r.start), _raw(r.end)),
                RegionEpoch(r.conf_ver, r.version),
            )
            for r in sorted(self._tikv.regions.values(), key=lambda r: r.start)
        ]


def _raw(key: bytes) -> RawKey:
    return RawKey(decode_bytes(key)[0] if key else b"")


def ranges_of(table: TableInfo) -> list[RawKeyRange]:
    prefixes = [encode_record_key(i, b"") for i in table.physical_ids]
    return [RawKeyRange(p, RawKey(p[:-1] + bytes([p[-1] + 1]))) for p in prefixes]


def rows_of(learning: Learning, views: list[TableView], table: TableInfo, resolve: Any) -> dict:
    columns = [scan_column(table, c) for c in table.public_columns]
    stored, rows_by_handle = learning.engine.read([]), dict[Any, tuple[Any, ...]]()
    for view in views:
        for each in read_rows(
            view,
            learning.engine,
            stored,
            learning.tables,
            columns,
            resolve=resolve,
            with_handle=True,
        ):
            parts = [column.to_pylist() for column in each.drop_columns([HANDLE]).columns]
            rows = zip(each.column(HANDLE).to_pylist(), *parts, strict=True)
            rows_by_handle |= {handle: tuple(row) for handle, *row in rows}
    return rows_by_handle


class Feeder:
    """Goes on with the captured calls, splits regions, and has the learner follow at times."""

    def __init__(self, learning: Learning, mutex: threading.Lock, rng: random.Random) -> None:
        self._learning, self._mutex, self._rng = learning, mutex, rng
        self.at = 0

    def write(self, until: int) -> None:
        while self.at < until:
            with self._mutex:
                self._learning.tikv.call(CALLS[self.at])
                if self._rng.random() < 0.01:
                    self._split()
            self.at += 1

    def follow(self) -> None:
        while self._learning.sent < len(self._learning.tikv.log):
            self.write(min(self.at + self._rng.choice([0, 1, 5]), len(CALLS)))
            with self._mutex:
                entries = self._learning.tikv.log[self._learning.sent :][:100]
            self._learning.send(entry for _, _, entry in entries)
            self._learning.sent += len(entries)

    def _split(self) -> None:
        tikv = self._learning.tikv
        region = self._rng.choice(list(tikv.regions.values()))
        keys = [k for k in tikv.writes if region.contains(k) and k > region.start]
        if keys:
            tikv.split([self._rng.choice(keys)], right_derive=self._rng.random() < 0.5)


@pytest.mark.slow
def test_reads_while_it_is_fed() -> None:
    watched = Watched(FIRST_TABLE).run()
    rng, mutex, ends = random.Random(11), threading.Lock(), watched.ends()
    learning = Learning(FakeRaftCluster(FIRST_TABLE), HISTORY, None, SMALL)
    leaders = FakeLeaders(learning.tikv, mutex)
    feeder = Feeder(learning, mutex, rng)
    resolver = LockResolver(Ends(ends))
    compared = 0
    for point in range(len(CALLS) // POINTS, len(CALLS), len(CALLS) // POINTS):
        feeder.write(max(point, feeder.at))
        ts = TimeStamp(watched.snapshot_at(feeder.at - 1, ends))
        tables = list(TABLES.values())
        ids = [i for table in tables for i in table.physical_ids]
        following = threading.Thread(target=feeder.follow)
        following.start()
        deadline = Deadline(CLOCK, 60_000)
        catch_up = CatchUp(leaders, learning.learner.store, resolver, ts)
        views = catch_up.open(
            [keys for table in tables for keys in ranges_of(table)],
            lambda versions, ids=ids, ts=ts: open_tables(
                learning.learner.store, ids, ts, versions=versions
            ),
            deadline,
        )
        following.join()

        def resolve(locks: Sequence[Lock], at: TimeStamp, until: Deadline = deadline) -> Any:
            return resolver.resolve(locks, at, until)

        for table in tables:
            mine = [view for view in views if view.physical_id in table.physical_ids]
            assert rows_of(learning, mine, table, resolve) == expected(watched, table, ts)
            compared += 1
    assert compared >= (POINTS - 1) * len(TABLES)
    assert leaders.refused > POINTS // 2
    learning.close()
