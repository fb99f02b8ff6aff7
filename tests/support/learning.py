"""A learner under test: fed by a fake TiKV, killed and opened again, read at timestamps."""

import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.cli.jobs.learner import columns_of
from pyspark_theflash.cluster.lock import Lock
from pyspark_theflash.cluster.resolve import ResolvedLocks
from pyspark_theflash.read.present import TEXT
from pyspark_theflash.replication.apply.tables import PhysicalTables
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.storage.mvcc.project import scan_column
from pyspark_theflash.storage.mvcc.version import HANDLE
from pyspark_theflash.storage.store.folder import read_identity
from pyspark_theflash.testing.memory import MemoryEngine
from pyspark_theflash.tidb.codec.digest import TableDigest
from pyspark_theflash.tidb.schema.history import SchemaHistory
from pyspark_theflash.tidb.schema.model import TableInfo
from pyspark_theflash.tikv.command import IngestFile
from pyspark_theflash.tikv.flush import FlushLimits
from pyspark_theflash.tikv.learner import Learner
from pyspark_theflash.tikv.read import Resolve, TableView, open_tables
from pyspark_theflash.tikv.region_snapshot import SnapshotBuilder
from pyspark_theflash.tikv.wire import decode_commands
from tests.support.raft_tikv import FakeRaftCluster, FakeRegion, batch
from tests.support.same_thread import SameThread
from tests.support.table_rows import read_rows

FS = LocalFileSystem()


class Killed(BaseException):
    """The error that a fail point raises to stop everything."""


class FakeFiles:
    """The files of a fake TiKV's bulk loads."""

    def __init__(self, tikv: FakeRaftCluster) -> None:
        self._tikv = tikv

    def read(self, file: IngestFile) -> Iterable[tuple[bytes, bytes]]:
        return self._tikv.files[file.uuid]


def all_rolled_back(locks: Sequence[Lock], snapshot_ts: TimeStamp) -> ResolvedLocks:
    """Resolve every blocking lock as that of a transaction that was rolled back."""
    return ResolvedLocks(frozenset(lock.start_ts for lock in locks))


class Learning:
    """A learner with its own engine: `memory`, which survives `kill`, or a store on disk."""

    def __init__(
        self,
        tikv: FakeRaftCluster,
        history: SchemaHistory,
        folder: Path | None,
        limits: FlushLimits | None = None,
    ) -> None:
        self.tikv, self.tables = tikv, PhysicalTables(history)
        self._folder, self._limits = folder, limits
        if folder is not None:
            self._identity = registry.create(folder, registry.MAGIC, FS)
        else:
            self._memory = MemoryEngine()
        self.sent = 0
        self.open()
        self.install(tikv.regions[1])

    @classmethod
    def reopened(cls, tikv: FakeRaftCluster, history: SchemaHistory, folder: Path) -> "Learning":
        """Open a store that another process has left."""
        made = cls.__new__(cls)
        made.tikv, made.tables = tikv, PhysicalTables(history)
        made._folder, made._limits = folder, None
        made._identity = read_identity(folder, FS)
        made.sent = len(tikv.log)
        made.open()
        return made

    def open(self) -> None:
        """Open the durable state."""
        self.engine = (
            self._memory
            if self._folder is None
            else registry.open_engine(self._folder, self._identity, FS, SystemClock())
        )
        self.learner = Learner(
            SameThread(self.engine),
            lambda _: self.tables,
            SystemClock(),
            limits=self._limits,
            files=FakeFiles(self.tikv),
        )

    def kill(self) -> None:
        """Lose all data in memory, and open the durable state."""
        if self._folder is not None:
            with suppress(Exception):
                self.engine.close()
        self.open()

    def close(self) -> None:
        self.learner.close()
        if self._folder is not None:
            self.engine.close()

    def install(self, region: FakeRegion, chunk_pairs: int = 50) -> None:
        """Install a snapshot of a region."""
        builder = SnapshotBuilder()
        for chunk in self.tikv.snapshot(region, chunk_pairs):
            builder.add(chunk)
        self.learner.install(builder.finish())

    def send(self, entries: Iterable[bytes]) -> None:
        """Apply commands as one batch."""
        self.learner.apply(decode_commands(batch(entries)))

    def flush(self) -> None:
        """Flush applied rows, and purge those that no region covers."""
        self.learner.flush()
        self.purge_left()

    def purge_left(self) -> None:
        """Purge the rows of removed regions."""
        self.learner.purge_left(columns_of)

    def catch_up(
        self, rng: random.Random, without: frozenset[int] = frozenset(), most: int = 40
    ) -> None:
        """Send the commands since the last call, some of them again, in batches of any size."""
        log = self.tikv.log
        at = max(0, self.sent - rng.choice([0, 0, 0, 1, 5, 30]))
        while at < len(log):
            end = min(len(log), at + rng.randint(1, most))
            places = [place for place in range(at, end) if log[place][0] not in without]
            if self.tikv.admins.isdisjoint(places) and rng.random() < 0.5:
                places = self._shuffled(places, rng)
            self.send(log[place][2] for place in places)
            at = end
        self.sent = len(log)

    def _shuffled(self, places: list[int], rng: random.Random) -> list[int]:
        """Shuffle commands, but not those of one region."""
        queues: dict[int, list[int]] = {}
        for place in reversed(places):
            queues.setdefault(self.tikv.log[place][0], []).append(place)
        order = [region for region, queue in queues.items() for _ in queue]
        rng.shuffle(order)
        return [queues[region].pop() for region in order]

    def send_again(self, rng: random.Random, without: frozenset[int] = frozenset()) -> None:
        """Send again after a loss: from the first missing command, or from anywhere before it."""
        applied = {int(s.id): s.applied.applied_index for s in self.learner.store.regions()}
        missing = (
            place
            for place, (region, index, _) in enumerate(self.tikv.log[: self.sent])
            if region in applied and index > applied[region]
        )
        self.sent = rng.randint(0, next(missing, self.sent))
        self.catch_up(rng, without, most=2000)

    # -- reading

    def batches(self, table: TableInfo, ts: int) -> Iterator[pa.RecordBatch]:
        """The rows of a table at a timestamp, with their handles; no lock was ever committed."""
        for view in open_tables(self.learner.store, table.physical_ids, TimeStamp(ts)):
            yield from self.read(table, view, all_rolled_back)

    def read(self, table: TableInfo, view: TableView, resolve: Resolve) -> Iterator[pa.RecordBatch]:
        """The rows of one of a table's views, with their handles."""
        columns = [scan_column(table, c) for c in table.public_columns]
        return read_rows(
            view,
            self.engine,
            self.engine.read([]),
            self.tables,
            columns,
            resolve=resolve,
            with_handle=True,
        )

    def rows(self, table: TableInfo, ts: int) -> dict[Any, tuple[Any, ...]]:
        """The rows of a table at a timestamp by handle; none twice."""
        return _by_handle(self.batches(table, ts))

    def view_rows(
        self, table: TableInfo, view: TableView, resolve: Resolve
    ) -> dict[Any, tuple[Any, ...]]:
        """The rows of one of a table's views by handle; none twice."""
        return _by_handle(self.read(table, view, resolve))

    def digest(self, table: TableInfo, ts: int) -> tuple[int, str]:
        """Return the number of a table's rows and their checksum, as in TiDB's truth."""
        digest = TableDigest()
        for each in self.batches(table, ts):
            columns = zip(each.drop_columns([HANDLE]).columns, table.public_columns, strict=True)
            digest.update([TEXT.apply(values, c.type, c.name) for values, c in columns])
        return digest.rows, digest.hexdigest()


def _by_handle(batches: Iterable[pa.RecordBatch]) -> dict[Any, tuple[Any, ...]]:
    rows: dict[Any, tuple[Any, ...]] = {}
    for each in batches:
        columns = [column.to_pylist() for column in each.drop_columns([HANDLE]).columns]
        for handle, *row in zip(each.column(HANDLE).to_pylist(), *columns, strict=True):
            assert handle not in rows, f"{handle} is there twice"
            rows[handle] = tuple(row)
    return rows
