"""EXCHANGE PARTITION with tables whose columns came another way, as a TiDB answered.

`tests/fixtures/exchange` was captured on one; if Go is available, a live one is compared, too.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.errors import UnsupportedError
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.cli.main import main
from pyspark_theflash.read.plan.open_store import OpenStore
from pyspark_theflash.read.plan.snapshot import ReadSnapshot, open_snapshot
from pyspark_theflash.read.plan.wait import wait_until
from pyspark_theflash.read.present import TEXT
from tests.support.exchanges import COMPACT, REFUSED, SCENARIOS
from tests.support.live_writer import following
from tests.support.peer import Peer
from tests.support.workloads import FIXTURES

CAPTURED = FIXTURES / "exchange"
Rows: TypeAlias = list[list[str | None]]
Truth: TypeAlias = tuple[int, dict[str, tuple[list[str], Rows]]]
"""A timestamp, and columns and rows of each table by its full name."""


def apply(store: Path, database: str, until_ts: int) -> None:
    if not store.exists():
        assert main(["init", str(store)]) == 0
    source, schema = CAPTURED / "binlog.bin.gz", CAPTURED / "schema.json.gz"
    files = ("--source", f"file:{source}", "--schema", f"file:{schema}")
    until = ("--include", f"{database}.*", "--once", "--until-ts", str(until_ts))
    assert main(["writer", str(store), *files, *until]) == 0


def captured(database: str) -> Sequence[Truth]:
    return [
        (ts, tables) for ts, tables in json.loads((CAPTURED / "truth.json").read_text())[database]
    ]


def compare(store: Path, database: str, truths: Iterable[Truth]) -> int:
    """The rows of all tables at some timestamps, here and there; returns how many."""
    rows = 0
    for ts, tables in truths:
        with open_snapshot(store, TimeStamp(ts)) as snapshot:
            for name, (columns, theirs) in tables.items():
                readable = [c for c in columns if not is_refused(snapshot, database, name, c)]
                at = [columns.index(column) for column in readable]
                wanted = sorted([row[n] for n in at] for row in map(shown, theirs))
                assert sorted(rows_of(snapshot, name, readable)) == wanted, (name, ts)
                rows += len(theirs)
    return rows


def rows_of(snapshot: ReadSnapshot, name: str, columns: list[str]) -> Rows:
    parts = [zip(*part, strict=True) for part in snapshot.texts(snapshot.plan(name, columns))]
    return [shown([v.as_py() for v in row]) for part in parts for row in part]


def shown(row: Sequence[Any]) -> list[str | None]:
    """A row that can be sorted."""
    return ["NULL" if value is None else str(value) for value in row]


def is_refused(snapshot: ReadSnapshot, database: str, name: str, column: str) -> bool:
    if (reason := REFUSED.get((database, column))) is None:
        return False
    try:
        rows_of(snapshot, name, [column])
    except UnsupportedError as error:
        return reason in str(error)
    return False


@pytest.mark.parametrize("database", SCENARIOS)
def test_captured(tmp_path: Path, database: str) -> None:
    store, truths = tmp_path / "store", captured(database)
    apply(store, database, truths[-1][0])
    compacted = compare(store, database, truths)
    assert main(["compact", str(store)]) == 0
    assert compare(store, database, truths) == compacted > 0


@pytest.mark.parametrize("database", SCENARIOS)
def test_captured_and_compacted_at_each_step(tmp_path: Path, database: str) -> None:
    store, truths = tmp_path / "store", captured(database)
    for number, (ts, _) in enumerate(truths, 1):
        apply(store, database, ts)
        assert main(["compact", str(store)]) == 0
        assert compare(store, database, truths[:number]) > 0 or number < len(truths)


def test_one_reader_reads_physical_tables_of_different_pasts(tmp_path: Path) -> None:
    """As the service does, which keeps one task of each plan."""
    store, truths = tmp_path / "store", captured("reorganized")
    apply(store, "reorganized", truths[-1][0])
    fs, clock = LocalFileSystem(), SystemClock()
    # Right after EXCHANGE.
    ts, tables = truths[-3]
    with open_snapshot(store, TimeStamp(ts)) as snapshot:
        plan = snapshot.plan("reorganized.p", ["id", "a"], TEXT, "id > 0")
        assert len(plan.tasks) == 2
        regions = [task.region for task in plan.tasks]
        for task in plan.tasks:
            rows = [
                shown(list(row))
                for batch in OpenStore(store, fs, clock).read(task, regions)
                for row in zip(*(c.to_pylist() for c in batch.columns), strict=True)
            ]
            wanted = (shown(row[:2]) for row in tables["reorganized.p"][1])
            assert sorted(rows) == sorted(wanted)


@pytest.mark.peer
@pytest.mark.slow
def test_live(tmp_path: Path) -> None:
    store = tmp_path / "store"
    with following(tmp_path, store) as peer:
        for database, statements in SCENARIOS.items():
            truths = run(peer, store, database, statements)
            assert compare(store, database, truths) > 0
            assert main(["compact", str(store)]) == 0
            assert compare(store, database, truths) > 0


def run(peer: Peer, store: Path, database: str, statements: Sequence[str]) -> list[Truth]:
    """Return the state in TiDB after each statement."""
    truths = []
    with peer.connect() as session:
        session.query(f"CREATE DATABASE {database}")
        session.query(f"USE {database}")
        for statement in statements:
            if statement == COMPACT:
                assert main(["compact", str(store)]) == 0
                continue
            session.query(statement)
            truths.append(truth(peer, database))
    clock = SystemClock()
    deadline_ms = clock.boottime_ms() + 60_000
    wait_until(store, TimeStamp(truths[-1][0]), deadline_ms, clock=clock, fs=LocalFileSystem())
    return truths


def truth(peer: Peer, database: str) -> Truth:
    ts, tables = peer.tso(), {}
    with peer.connect() as session:
        session.query(f"SET tidb_snapshot = {ts}")
        session.query("SET time_zone = '+00:00'")
        for (name,) in session.query(f"SHOW TABLES FROM {database}"):
            full_name = f"{database}.{name}"
            columns = [str(row[0]) for row in session.query(f"SHOW COLUMNS FROM {full_name}")]
            rows = [list(row) for row in session.query(f"SELECT * FROM {full_name}")]
            tables[full_name] = columns, rows
    return ts, tables
