"""The schema history of a real TiDB, against what that TiDB says."""

import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.replication.apply.changes import TableChanges
from pyspark_theflash.replication.source.event import EntityKind
from pyspark_theflash.replication.source.prewrite import parse_prewrite
from pyspark_theflash.replication.source.wire import decode_entities
from pyspark_theflash.storage.mvcc.rows import stored_columns
from pyspark_theflash.tidb.schema.history import SchemaHistory
from pyspark_theflash.tidb.schema.status_api import StatusApi
from pyspark_theflash.tidb.schema.tidb import TidbSchemaSource
from tests.support.live_schema import STEPS, run, shown_by_history, shown_by_tidb
from tests.support.peer import Peer
from tests.support.recording_pump import RecordingPump
from tests.support.schema import tables_at

pytestmark = [pytest.mark.peer, pytest.mark.slow]


@pytest.fixture(scope="module")
def pump(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RecordingPump]:
    with RecordingPump(tmp_path_factory.mktemp("pump") / "pump.sock") as pump:
        yield pump


@pytest.fixture(scope="module")
def peer(pump: RecordingPump, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    with Peer(tmp_path_factory.mktemp("peer"), binlog_socket=pump.path) as peer:
        yield peer


@pytest.fixture
def source(peer: Peer) -> Iterator[TidbSchemaSource]:
    with closing(StatusApi(peer.status_url, SystemClock())) as api:
        yield TidbSchemaSource(api, SystemClock())


def read(source: TidbSchemaSource, peer: Peer, after: SchemaHistory | None = None) -> SchemaHistory:
    return source.read(TimeStamp(peer.tso()), after)


def test_shows_what_tidb_shows_after_each_step(peer: Peer, source: TidbSchemaSource) -> None:
    begin = history = read(source, peer)
    truth = []
    with peer.connect() as session:
        for step in STEPS:
            run(session, step)
            ts = peer.tso()
            truth.append((step, ts, shown_by_tidb(session)))
            history = source.read(TimeStamp(ts), history)
            assert (step, shown_by_history(history, ts)) == (step, truth[-1][2])
    at_once = source.read(TimeStamp(ts), begin)
    assert (at_once.events, at_once.versions) == (history.events, history.versions)
    for step, ts, shown in truth:
        assert (step, shown_by_history(at_once, ts)) == (step, shown)
    assert shown_by_history(read(source, peer), ts + (1 << 40)) == truth[-1][2]
    assert len({tuple(map(str, shown)) for _, _, shown in truth}) > 20


def test_ddl_binlogs_commit_when_the_history_changes(
    peer: Peer, pump: RecordingPump, source: TidbSchemaSource
) -> None:
    before = read(source, peer)
    peer.sql(
        "CREATE TABLE test.d (a INT, b INT)",
        "ALTER TABLE test.d ADD COLUMN c INT",
        "ALTER TABLE test.d MODIFY COLUMN b VARCHAR(9)",
        "TRUNCATE TABLE test.d",
        "DROP TABLE test.d",
    )
    history = read(source, peer, before)
    entities = [e for payload in pump.payloads for e in decode_entities(payload, "pump", 0)]
    commits = {
        e.commit_ts
        for e in entities
        if e.kind is EntityKind.COMMIT and e.ddl is not None and e.commit_ts > before.end_ts
    }
    assert len(commits) == 5
    assert commits <= {e.ts for e in history.events}


def test_rows_written_during_ddl_decode(
    peer: Peer, pump: RecordingPump, source: TidbSchemaSource
) -> None:
    peer.sql("CREATE TABLE test.w (a INT PRIMARY KEY, b INT NOT NULL, c VARCHAR(9))")
    begin = read(source, peer)
    over = threading.Event()

    def write() -> None:
        with peer.connect() as session:
            number = 0
            while not over.is_set():
                number += 1
                run(session, f"INSERT INTO test.w (a, b) VALUES ({number}, 7), ({-number}, 7)")
                run(session, f"UPDATE test.w SET b = b + 1 WHERE a = {number // 2}")
                run(session, f"DELETE FROM test.w WHERE a = {-number}")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        peer.sql(
            "ALTER TABLE test.w ADD COLUMN d INT NOT NULL DEFAULT 9",
            "ALTER TABLE test.w MODIFY COLUMN b VARCHAR(20)",
            "ALTER TABLE test.w DROP COLUMN c",
            "ALTER TABLE test.w ADD COLUMN e INT, CHANGE COLUMN d f BIGINT UNSIGNED",
            "TRUNCATE TABLE test.w",
            "ALTER TABLE test.w MODIFY COLUMN b INT",
        )
    finally:
        over.set()
        writer.join()
    rows, states = decode_all(pump, read(source, peer, begin), begin.end_ts)
    assert len(rows) > 100
    assert len(states) > 10


@pytest.mark.parametrize("kind", ["OPTIMISTIC", "PESSIMISTIC"])
@pytest.mark.parametrize(
    ("ddl", "expected"),
    [
        ("ADD COLUMN d INT DEFAULT 3", {1: 1, 2: 8, 3: None, 4: 3}),
        ("DROP COLUMN c", {1: 1, 2: 8}),
        ("MODIFY COLUMN b BIGINT, CHANGE COLUMN c e TEXT", {1: 1, 2: 8, 3: None}),
    ],
)
def test_rows_of_a_transaction_that_is_older_than_the_table(
    peer: Peer,
    pump: RecordingPump,
    source: TidbSchemaSource,
    kind: str,
    ddl: str,
    expected: dict[int, object],
) -> None:
    """They name the version that the transaction began with, not the one they are written under."""
    table = f"test.o{len(pump.payloads)}"
    peer.sql(f"CREATE TABLE {table} (a INT PRIMARY KEY, b INT NOT NULL, c VARCHAR(9))")
    peer.sql("CREATE TABLE IF NOT EXISTS test.first (a INT)")
    begin = read(source, peer)
    with peer.connect() as session:
        session.query(f"BEGIN {kind}")
        session.query("INSERT INTO test.first VALUES (0)")
        peer.sql(f"ALTER TABLE {table} {ddl}")
        session.query(f"INSERT INTO {table} (a, b) VALUES (1, 8)")
        session.query("COMMIT")
    history = read(source, peer, begin)
    rows, _ = decode_all(pump, history, begin.end_ts)
    (row,) = [values for name, values in rows if name == table]
    current = history.table_by_name(table, history.end_ts)
    assert {c.id: row[c.id] for c in current.public_columns} == expected


def decode_all(
    pump: RecordingPump, history: SchemaHistory, above_ts: int
) -> tuple[list[tuple[str, dict[int, object]]], set[tuple[tuple[int, int], ...]]]:
    """Committed rows above a timestamp, as (table, values by column id), and the states met."""
    entities = [e for payload in pump.payloads for e in decode_entities(payload, "pump", 0)]
    commit_ts = {e.start_ts: e.commit_ts for e in entities if e.kind is EntityKind.COMMIT}
    rows, states = [], set()
    for entity in entities:
        if entity.start_ts <= above_ts or not entity.payload or entity.start_ts not in commit_ts:
            continue
        committed = commit_ts[entity.start_ts]
        for mutations in parse_prewrite(entity.payload).mutations:
            table = history.table_at_commit(mutations.table_id, committed)
            changes = TableChanges(table)
            changes.add(mutations, entity.start_ts, committed)
            states.add(tuple((c.id, c.state) for c in table.columns))
            ids = [int(c.id) for c in stored_columns(table)]
            for version in changes.to_versions():
                for row in version.batch.to_pylist():
                    values = list(row.values())[-len(ids) :]
                    rows.append((table.full_name, dict(zip(ids, values, strict=True))))
    return rows, states


def test_reads_while_ddl_runs_agree(peer: Peer, source: TidbSchemaSource) -> None:
    """Whenever it is read, the history goes the same way."""
    begin = read(source, peer)
    over = threading.Event()

    def change() -> None:
        with peer.connect() as session:
            while not over.is_set():
                run(session, "CREATE TABLE test.z (a INT)")
                run(session, "ALTER TABLE test.z ADD COLUMN b INT")
                run(session, "DROP TABLE test.z")

    changer = threading.Thread(target=change)
    changer.start()
    try:
        history, ends = begin, set()
        for _ in range(40):
            fresh = read(source, peer)
            history = source.read(fresh.start_ts, history)
            ends.add(len(history.events))
            assert tables_at(fresh, fresh.start_ts) == tables_at(history, fresh.start_ts)
    finally:
        over.set()
        changer.join()
    history = read(source, peer, history)
    assert len(ends) > 10
    whole = source.read(history.end_ts, begin)
    assert (whole.events, whole.versions) == (history.events, history.versions)
