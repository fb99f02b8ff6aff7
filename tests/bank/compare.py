"""One timestamp read here, as a learner, and in TiDB, and what differs."""

from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyspark_theflash.base.clock import Deadline, SystemClock
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.cluster.located import RawKeyRange
from pyspark_theflash.cluster.lock import Lock
from pyspark_theflash.cluster.resolve import ResolvedLocks
from pyspark_theflash.cluster.tikv.client import TiKVClient
from pyspark_theflash.read.plan.snapshot import open_snapshot
from pyspark_theflash.read.plan.wait import wait_until
from pyspark_theflash.read.present import TEXT
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.storage.mvcc.project import scan_column
from pyspark_theflash.storage.store.folder import open_manifest
from pyspark_theflash.storage.store.latch.lease import LeaseTable
from pyspark_theflash.tidb.codec.key import RawKey, encode_record_key
from pyspark_theflash.tidb.schema.model import TableInfo
from pyspark_theflash.tikv.learner_read import CatchUp, RegionLeaders
from pyspark_theflash.tikv.read import TableView, open_tables
from pyspark_theflash.tikv.region_store import RegionStore
from tests.bank.schema import LiveSchema
from tests.support.mysql import MySqlConnection
from tests.support.schema import tables_at
from tests.support.table_rows import read_rows

CLOCK, FS = SystemClock(), LocalFileSystem()
DATABASE = "bank"
_TIMEOUT_MS = 300_000
_LEASE_MS = 600_000

Rows = Counter[tuple[Any, ...]]
Tables = dict[str, Rows]
"""The rows of each table by its name, as TiDB's texts."""


@dataclass
class Difference:
    """Rows of a table at a timestamp that only one of the two has."""

    ts: int
    table: str
    only_here: list[Any] = field(default_factory=list)
    only_there: list[Any] = field(default_factory=list)


class LearnerReader:
    """Reads all tables of the bank from the learner's store, at a timestamp."""

    def __init__(
        self, store: RegionStore, path: Path, identity: registry.StoreIdentity, schema: LiveSchema
    ) -> None:
        self._store, self._schema = store, schema
        self.locks_met = 0
        with ExitStack() as undo:
            self._leases = LeaseTable(undo.enter_context(closing(open_manifest(path, FS))), CLOCK)
            self._engine = registry.open_reader(path, identity, FS, CLOCK)
            undo.callback(self._engine.close)
            self._undo = undo.pop_all()

    def close(self) -> None:
        self._undo.close()

    def read(self, ts: TimeStamp, leaders: RegionLeaders, client: TiKVClient) -> Tables:
        """The rows at a timestamp; locks are resolved by the client's policy."""
        physical = self._schema(ts)
        tables = [t for t in tables_at(physical.history, ts) if t.db == DATABASE]
        ids = [i for table in tables for i in table.physical_ids]
        deadline = Deadline(CLOCK, _TIMEOUT_MS)
        views = CatchUp(leaders, self._store, client.resolver, ts).open(
            [_records(i) for i in ids],
            lambda versions: open_tables(self._store, ids, ts, versions=versions),
            deadline,
        )

        def resolve(locks: Sequence[Lock], at: TimeStamp) -> ResolvedLocks:
            self.locks_met += len(locks)
            return client.resolver.resolve(locks, at, deadline)

        # The engine must retain the versions that it had published when the cache was read.
        lease = self._leases.take(ts, _LEASE_MS)
        try:
            stored = self._engine.read([])
            return {
                table.name: self._rows(
                    table,
                    [v for v in views if v.physical_id in table.physical_ids],
                    stored,
                    resolve,
                )
                for table in tables
            }
        finally:
            self._leases.release(lease)

    def _rows(
        self, table: TableInfo, views: Sequence[TableView], stored: Any, resolve: Any
    ) -> Rows:
        # The definitions cover all versions up to the snapshot; later ones are not read.
        physical = self._schema(TimeStamp(max(v.snapshot_ts for v in views)))
        columns = [scan_column(table, c) for c in table.public_columns]
        rows: Rows = Counter()
        for view in views:
            for each in read_rows(view, self._engine, stored, physical, columns, resolve=resolve):
                pairs = zip(each.columns, table.public_columns, strict=True)
                texts = [TEXT.apply(values, c.type, c.name).to_pylist() for values, c in pairs]
                rows.update(zip(*texts, strict=True))
        return rows


def read_by_tidb(session: MySqlConnection, ts: int) -> Tables:
    """The rows at a timestamp by TiDB."""
    session.query(f"SET tidb_snapshot = {ts}")
    names = [str(name) for (name,) in session.query(f"SHOW TABLES FROM {DATABASE}")]
    return {name: Counter(session.query(f"SELECT * FROM {DATABASE}.{name}")) for name in names}


def read_from_binlog(store: Path, ts: TimeStamp) -> Tables:
    """The rows at a timestamp of a store that is written from TiDB's binlog."""
    wait_until(store, ts, CLOCK.boottime_ms() + _TIMEOUT_MS, clock=CLOCK, fs=FS)
    with open_snapshot(store, ts) as snapshot:
        tables: Tables = {}
        for table in (t for t in snapshot.tables() if t.db == DATABASE):
            rows = tables[table.name] = Counter()
            for columns in snapshot.texts(snapshot.plan(table.full_name)):
                rows.update(zip(*(c.to_pylist() for c in columns), strict=True))
        return tables


def differences(ts: int, here: Tables, there: Tables) -> list[Difference]:
    """All tables that are not the same."""
    differing = []
    for name in sorted({*here, *there}):
        ours, theirs = here.get(name), there.get(name)
        if ours is None or theirs is None:
            where = "here" if theirs is None else "there"
            differing.append(Difference(ts, f"{name}, which is only {where}"))
        elif ours != theirs:
            only = [
                sorted((a - b).elements(), key=repr) for a, b in ((ours, theirs), (theirs, ours))
            ]
            differing.append(Difference(ts, name, *only))
    return differing


def _records(physical_id: int) -> RawKeyRange:
    start = encode_record_key(physical_id, b"")  # type: ignore[arg-type]
    return RawKeyRange(start, RawKey(start[:-1] + b"s"))
