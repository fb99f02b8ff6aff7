"""The schema history from a feed of the meta keys equals the one that is read from the cluster."""

import random
from typing import Any

import pytest

from pyspark_theflash.base.errors import ChangeFeedError, SchemaFileError
from pyspark_theflash.base.types import SchemaVersion, TimeStamp, physical_ms
from pyspark_theflash.replication.cdc.meta_schema import META_SPAN, MetaSchema
from pyspark_theflash.tidb.codec.change import ReorgSession
from pyspark_theflash.tidb.schema.history import SchemaHistory
from pyspark_theflash.tidb.schema.meta_key import FinishedJob
from pyspark_theflash.tidb.schema.tidb import TidbSchemaSource
from tests.support.change_log import Change, ChangeLog, FakeChangeFeed
from tests.support.manual_clock import ManualClock
from tests.support.meta_cluster import (
    ADD_COLUMN,
    CREATE_DATABASE,
    CREATE_TABLE,
    DROP_DATABASE,
    DROP_TABLE,
    MODIFY_COLUMN,
    RECOVER_DATABASE,
    RENAME,
    TRUNCATE,
    MetaCluster,
    info,
)
from tests.support.meta_feed import fill

RECOVER_TABLE = 25


class Polled:
    """The source of new histories."""

    def __init__(self, cluster: MetaCluster, clock: ManualClock) -> None:
        self._cluster, self._source = cluster, TidbSchemaSource(cluster, clock)

    def read(self, after: SchemaHistory | None, at_least: TimeStamp | None) -> SchemaHistory:
        return self._source.read(at_least or self._cluster.tso(), after)

    def has_written(self, key: bytes, start_ts: TimeStamp) -> None:
        raise AssertionError("nothing is looked up")

    had_row = outcome = has_written


class Streamed:
    """A `MetaSchema` of a model cluster, and its feed."""

    def __init__(self, cluster: MetaCluster, jobs_after: int = 5) -> None:
        self.cluster, self.log, self.clock = cluster, ChangeLog(), ManualClock()
        self._jobs_after = jobs_after
        self.history: SchemaHistory | None = None
        self.start()

    def start(self) -> None:
        """Continue with a new feed."""
        self.feed = FakeChangeFeed(self.log)
        polled = Polled(self.cluster, self.clock)
        self.schema = MetaSchema(polled, self.cluster, self.feed, self.clock)
        self.history = self.schema.read(self.history, None)

    def read(self, ts: int | None = None) -> SchemaHistory:
        """Return the history after the feed has reached a timestamp, or the present."""
        assert self.history is not None
        fill(self.log, self.cluster, jobs_after=self._jobs_after)
        self.log.resolved_ts = self.cluster.tso() if ts is None else ts
        while self.feed.resolved_ts < self.log.resolved_ts:
            self.schema.receive(0)
        self.history = self.schema.read(self.history, TimeStamp(self.log.resolved_ts))
        return self.history


class Ddl:
    """Random schema changes."""

    def __init__(self, cluster: MetaCluster, rng: random.Random) -> None:
        self.cluster, self.rng = cluster, rng
        self.databases = {1: "shop", 2: "archive"}
        self.tables: dict[int, tuple[int, list[str]]] = {}
        self._ids, self._columns = iter(range(10, 10**6)), iter("bcdefghijklmnopqrstuvwxyz" * 99)
        for place, name in self.databases.items():
            cluster.step(CREATE_DATABASE, database=(place, name))

    def step(self) -> None:
        steps = [self.create, self.create, self.hole]
        if self.tables:
            steps += [self.add, self.add, self.modify, self.drop, self.truncate, self.rename]
        if len(self.databases) > 1 and self.rng.random() < 0.2:
            steps = [self.drop_database]
        elif len(self.databases) < 3 and self.rng.random() < 0.1:
            steps = [self.create_database]
        self.rng.choice(steps)()

    def _pick(self) -> tuple[int, int, list[str]]:
        table_id = self.rng.choice(sorted(self.tables))
        return table_id, *self.tables[table_id]

    def _info(self, table_id: int, columns: list[str]) -> dict[str, Any]:
        return info(table_id, f"t{table_id}", *columns)

    def create(self) -> None:
        table_id, database = next(self._ids), self.rng.choice(sorted(self.databases))
        self.tables[table_id] = database, ["a", "b"]
        self.cluster.step(CREATE_TABLE, [(database, table_id, self._info(table_id, ["a", "b"]))])

    def hole(self) -> None:
        self.cluster.raise_version()

    def add(self) -> None:
        table_id, database, columns = self._pick()
        new = next(c for c in self._columns if c not in columns)
        middle = [(database, table_id, self._info(table_id, [*columns, f"{new}!"]))]
        self.cluster.step(ADD_COLUMN, middle, ends=False)
        is_failed = self.rng.random() < 0.2
        if not is_failed:
            columns.append(new)
        self.cluster.step(ADD_COLUMN, [(database, table_id, self._info(table_id, columns))])

    def modify(self) -> None:
        table_id, database, columns = self._pick()
        new = next(c for c in self._columns if c not in [each[0] for each in columns])
        filling = self._info(table_id, [*columns, f"{new}!"])
        filling["cols"][-1]["change_state_info"] = {"relative_col_offset": 0}
        self.cluster.step(MODIFY_COLUMN, [(database, table_id, filling)], ends=False)
        columns[0] = f"{new}-a"
        final = [(database, table_id, self._info(table_id, columns))]
        self.cluster.step(MODIFY_COLUMN, final, ends=False)
        session = ReorgSession("Asia/Kolkata", 0, 7, 7, 1 << 32)
        version, name = SchemaVersion(self.cluster.version), self.databases[database]
        self.cluster.jobs.append(FinishedJob(version, database, name, {}, session))

    def drop(self) -> None:
        table_id, database, columns = self._pick()
        del self.tables[table_id]
        self.cluster.step(DROP_TABLE, [(database, table_id, None)])
        if self.rng.random() < 0.5:
            self.tables[table_id] = database, columns
            back = [(database, table_id, self._info(table_id, columns))]
            self.cluster.step(RECOVER_TABLE, back)

    def truncate(self) -> None:
        table_id, database, columns = self._pick()
        del self.tables[table_id]
        new = next(self._ids)
        self.tables[new] = database, columns
        changes = [(database, table_id, None), (database, new, self._info(new, columns))]
        self.cluster.step(TRUNCATE, changes, diff={"old_table_id": table_id})

    def rename(self) -> None:
        table_id, database, columns = self._pick()
        other = self.rng.choice(sorted(self.databases))
        self.tables[table_id] = other, columns
        after = (other, table_id, self._info(table_id, columns))
        changes = [after] if other == database else [(database, table_id, None), after]
        self.cluster.step(RENAME, changes, diff={"old_schema_id": database})

    def create_database(self) -> None:
        place = next(self._ids)
        self.databases[place] = f"db{place}"
        self.cluster.step(CREATE_DATABASE, database=(place, f"db{place}"))

    def drop_database(self) -> None:
        place = self.rng.choice(sorted(self.databases))
        del self.databases[place]
        self.tables = {i: table for i, table in self.tables.items() if table[0] != place}
        self.cluster.step(DROP_DATABASE, database=(place, None))


@pytest.mark.parametrize("seed", range(12))
def test_equals_the_polled_history(seed: int) -> None:
    rng, cluster = random.Random(seed), MetaCluster()
    ddl = Ddl(cluster, rng)
    for _ in range(rng.randint(0, 10)):
        ddl.step()
    begin = TidbSchemaSource(cluster, ManualClock()).read(cluster.tso())
    streamed = Streamed(cluster)
    streamed.history = begin
    streamed.start()
    for _ in range(60):
        ddl.step()
        if rng.random() < 0.5:
            streamed.read(cluster.ts - rng.choice([0, 0, 15, 25]))
        if rng.random() < 0.1:
            streamed.start()
    cluster.tso()
    history = streamed.read()
    polled = TidbSchemaSource(cluster, ManualClock()).read(history.end_ts, begin)
    assert (history.start_ts, history.end_ts) == (polled.start_ts, polled.end_ts)
    assert history.events == polled.events
    assert history.versions == polled.versions
    assert len(history.events) > 40


@pytest.fixture
def cluster() -> MetaCluster:
    """Database `shop` with table `t` (11)."""
    model = MetaCluster()
    model.step(CREATE_DATABASE, database=(1, "shop"))
    model.step(CREATE_TABLE, [(1, 11, info(11, "t", "a", "b"))])
    return model


def test_nothing_is_read_without_changes(cluster: MetaCluster) -> None:
    streamed = Streamed(cluster)
    before, cluster.reads = streamed.history, 0
    later = streamed.read()
    assert before is not None
    assert later.events is before.events
    assert later.end_ts > before.end_ts
    assert cluster.reads == 0
    assert {span for span, _ in streamed.feed.subscribed} == {META_SPAN}


def test_the_session_of_a_changed_column_is_waited_for(cluster: MetaCluster) -> None:
    streamed = Streamed(cluster, jobs_after=100)
    filling = info(11, "t", "a", "b!")
    filling["cols"][1]["change_state_info"] = {"relative_col_offset": 0}
    cluster.step(MODIFY_COLUMN, [(1, 11, filling)], ends=False)
    commit_ts = cluster.step(MODIFY_COLUMN, [(1, 11, info(11, "t", "b-a"))], ends=False)
    session = ReorgSession("Asia/Kolkata", 0, 7, 7, 1 << 32)
    cluster.jobs.append(FinishedJob(SchemaVersion(cluster.version), 1, "shop", {}, session))
    assert streamed.read(commit_ts + 50).end_ts == commit_ts - 1
    history = streamed.read(commit_ts + 100)
    assert history.end_ts == commit_ts + 100
    (column,) = history.table_by_name("db.t".replace("db", "shop"), history.end_ts).columns
    assert column.session == ReorgSession("Asia/Kolkata", 0, 7, physical_ms(commit_ts), 1 << 32)


def test_a_job_that_is_never_stored_is_waited_for_a_while(cluster: MetaCluster) -> None:
    streamed = Streamed(cluster)
    filling = info(11, "t", "a", "b!")
    filling["cols"][1]["change_state_info"] = {"relative_col_offset": 0}
    cluster.step(MODIFY_COLUMN, [(1, 11, filling)], ends=False)
    commit_ts = cluster.step(MODIFY_COLUMN, [(1, 11, info(11, "t", "b-a"))], ends=False)
    assert streamed.read().end_ts == commit_ts - 1
    streamed.clock.now_ms += 60_000
    history = streamed.read()
    assert history.end_ts > commit_ts


def test_restored_tables_are_reported_once(cluster: MetaCluster) -> None:
    streamed = Streamed(cluster)
    one = cluster.step(RECOVER_TABLE, [(1, 12, info(12, "u", "a"))])
    streamed.read()
    assert streamed.schema.take_restored() == [one]
    options = {"affected_options": [{"schema_id": 2, "table_id": 13, "old_table_id": 13}]}
    back = [(2, 13, info(13, "v", "a"))]
    other = cluster.step(
        RECOVER_DATABASE, back, database=(2, "old"), diff={"table_id": 0} | options
    )
    streamed.read()
    assert streamed.schema.take_restored() == [other]
    assert streamed.schema.take_restored() == []


def test_a_cluster_restored_as_a_whole_ends_the_history_before(cluster: MetaCluster) -> None:
    streamed = Streamed(cluster)
    added = cluster.step(ADD_COLUMN, [(1, 11, info(11, "t", "a", "b", "c"))])
    ts = cluster.step(62, diff={"table_id": -1, "regenerate_schema_map": True})
    history = streamed.read()
    assert history.end_ts == ts - 1
    assert history.events[-1].ts == added
    with pytest.raises(ChangeFeedError, match="FLASHBACK CLUSTER"):
        streamed.read()


@pytest.mark.parametrize("prefix", [b"mDiff:", b"mDDLJobHi"])
def test_malformed_values(prefix: bytes, cluster: MetaCluster) -> None:
    streamed = Streamed(cluster)
    ts = cluster.step(ADD_COLUMN, [(1, 11, info(11, "t", "a", "b", "c"))])
    fill(streamed.log, cluster)
    streamed.log.changes = [
        Change(c.commit_ts, c.start_ts, c.key, b"{}") if c.key.startswith(prefix) else c
        for c in streamed.log.changes
    ]
    streamed.log.resolved_ts = ts + 10
    while streamed.feed.resolved_ts < ts + 10:
        streamed.schema.receive(0)
    with pytest.raises(SchemaFileError):
        streamed.schema.read(streamed.history, None)
