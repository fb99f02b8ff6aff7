"""REORGANIZE PARTITION of tables without a clustered key on a real TiDB, while they are written.

A history is one database. Its tables come one after the other: each is filled, then reorganised a
few times while several sessions write to it, in transactions and alone, with statements that fail
and transactions that wait among them. All along, timestamps are taken; later the store is compared
with what TiDB says at each of them (`tidb_snapshot`), `_tidb_rowid` included.
"""

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Final

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.errors import TableSetAsideError
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.cli.main import main
from pyspark_theflash.read.plan.snapshot import ReadSnapshot, open_snapshot
from pyspark_theflash.read.plan.wait import wait_until
from tests.soak.outcome import Outcome
from tests.support.live_writer import following
from tests.support.mysql import MySqlConnection, MySqlError
from tests.support.peer import Peer

CLOCK, FS = SystemClock(), LocalFileSystem()
TABLES: Final = 4
"""A history's tables."""
WRITERS: Final = 3
_CHANGES: Final = 3
_KEYS: Final = 60
_WAIT_MS: Final = 120_000
_COLUMNS: Final = ("id", "v", "_tidb_rowid")
_SHAPES: Final = (
    "id INT, v INT",
    "id INT, v INT, KEY (v)",
    "id INT PRIMARY KEY NONCLUSTERED, v INT",
    "id INT, v INT, UNIQUE KEY (id, v)",
)
# What TiDB says of REORGANIZE that it gives up: it has copied and inserted a key.
_GIVEN_UP: Final = "Duplicate entry"


@dataclass
class Partitioned:
    """A table, and its partitions by name, with the value below which their rows are."""

    name: str
    shape: str
    parts: list[tuple[str, int]]

    @property
    def created(self) -> str:
        """The statement that makes it."""
        by = f"PARTITION BY RANGE (id) ({_defined(self.parts)})"
        return f"CREATE TABLE {self.name} ({self.shape}) {by}"


def _defined(parts: Sequence[tuple[str, int]]) -> str:
    return ", ".join(f"PARTITION {name} VALUES LESS THAN ({end})" for name, end in parts)


def run(
    folder: Path, *, first_seed: int, seconds: float, outcome: Outcome, tables: int = TABLES
) -> None:
    """Histories from `first_seed` on until the time is up, at least one."""
    end_ms = CLOCK.boottime_ms() + round(1000 * seconds)
    store = folder / "store"
    with following(folder, store) as peer:
        seed = first_seed
        while seed == first_seed or CLOCK.boottime_ms() < end_ms:
            _history(peer, store, seed, tables, outcome)
            outcome.counts["histories"] += 1
            seed += 1


def _history(peer: Peer, store: Path, seed: int, tables: int, outcome: Outcome) -> None:
    rng, database = Random(seed), f"r{seed}"
    peer.sql(f"CREATE DATABASE {database}")
    timestamps: list[int] = []
    for number in range(tables):
        table = Partitioned(f"{database}.t{number}", rng.choice(_SHAPES), _partitions(rng))
        rows = [f"INSERT INTO {table.name} VALUES ({n % 90}, {n})" for n in range(0, 90, 1)]
        peer.sql(table.created, *rng.sample(rows, rng.randrange(90)))
        timestamps += _changed_under_load(peer, table, rng, outcome)
    for ts in timestamps:
        _compare(peer, store, database, ts, f"seed {seed}", outcome)
    assert main(["compact", str(store)]) == 0, f"seed {seed}"
    for ts in timestamps[::5]:
        _compare(peer, store, database, ts, f"seed {seed}, compacted", outcome)
    peer.sql(f"DROP DATABASE {database}")


def _partitions(rng: Random) -> list[tuple[str, int]]:
    ends = [*sorted(rng.sample(range(10, _KEYS), rng.randrange(1, 4))), 1000]
    return [(f"p{n}", end) for n, end in enumerate(ends)]


def _reorganised(table: Partitioned, number: int, rng: Random) -> str:
    """Statement that makes other partitions of some neighbours; changes `table` accordingly."""
    first = rng.randrange(len(table.parts))
    last = rng.randrange(first, len(table.parts))
    low = table.parts[first - 1][1] if first else 0
    high = table.parts[last][1]
    between = range(low + 1, min(high, _KEYS))
    cuts = sorted(rng.sample(between, min(len(between), rng.randrange(3))))
    new = [(f"q{number}_{n}", end) for n, end in enumerate([*cuts, high])]
    old = ", ".join(name for name, _ in table.parts[first : last + 1])
    table.parts[first : last + 1] = new
    return f"ALTER TABLE {table.name} REORGANIZE PARTITION {old} INTO ({_defined(new)})"


def _changed_under_load(peer: Peer, table: Partitioned, rng: Random, outcome: Outcome) -> list[int]:
    ended, timestamps = threading.Event(), []
    workers = [
        threading.Thread(target=_write, args=(peer, table.name, rng.randrange(1 << 31), ended))
        for _ in range(WRITERS)
    ]
    for worker in workers:
        worker.start()
    try:
        for number in range(_CHANGES):
            failed: list[Exception] = []
            statement = _reorganised(table, number, rng)
            changed = threading.Thread(target=_change, args=(peer, statement, failed))
            CLOCK.sleep_ms(rng.randrange(500))
            timestamps.append(peer.tso())
            changed.start()
            while changed.is_alive():
                changed.join(0.1 + rng.random() / 3)
                timestamps.append(peer.tso())
            outcome.counts["REORGANIZE"] += 1
            if failed:
                # From then on TiDB fails to write to the partitions that it gave up on.
                assert _GIVEN_UP in str(failed[0]), failed
                outcome.counts["REORGANIZE given up"] += 1
                break
    finally:
        ended.set()
        for worker in workers:
            worker.join()
    return [*timestamps, peer.tso()]


def _change(peer: Peer, statement: str, failed: list[Exception]) -> None:
    try:
        peer.sql(statement)
    except (MySqlError, OSError) as error:
        failed.append(error)


def _write(peer: Peer, table: str, seed: int, ended: threading.Event) -> None:
    """Transactions until the end; TiDB breaks off some connections, and refuses statements."""
    rng = Random(seed)
    while not ended.is_set():
        with suppress(ConnectionError), peer.connect() as session:
            session.query("SET innodb_lock_wait_timeout = 1")
            if rng.random() < 0.2:
                session.query("SET tidb_txn_mode = 'optimistic'")
            while not ended.is_set():
                for statement in _transaction(table, rng):
                    with suppress(MySqlError):
                        session.query(statement)


def _transaction(table: str, rng: Random) -> Iterator[str]:
    statements = [_statement(table, rng) for _ in range(rng.choice((1, 1, 2, 3, 6)))]
    if rng.random() < 0.25:
        yield from statements
        return
    if rng.random() < 0.2:
        statements.insert(rng.randrange(len(statements) + 1), f"DO SLEEP({rng.random()})")
    if rng.random() < 0.1:
        at = rng.randrange(len(statements) + 1)
        statements[at:] = ["SAVEPOINT s", *statements[at:], "ROLLBACK TO s"]
    yield rng.choice(("BEGIN", "BEGIN OPTIMISTIC", "BEGIN PESSIMISTIC", "BEGIN"))
    yield from statements
    yield "COMMIT" if rng.random() < 0.9 else "ROLLBACK"


def _statement(table: str, rng: Random) -> str:
    key, other, value = rng.randrange(_KEYS), rng.randrange(_KEYS), rng.randrange(9)
    where = rng.choice((f"id = {key}", f"id IN ({key}, {other})", f"id < {key} AND v < 4"))
    limit = rng.choice(("", "", " LIMIT 1", " LIMIT 2"))
    kinds = (
        (6, f"INSERT INTO {table} VALUES ({key}, {value})"),
        (2, f"INSERT INTO {table} VALUES ({key}, {value}), ({other}, {value}), (NULL, {value})"),
        (1, f"INSERT INTO {table} VALUES ({key}, {value}), (2000, 0)"),
        (1, f"INSERT IGNORE INTO {table} VALUES ({key}, {value}), (2000, 0), ({other}, {value})"),
        (2, f"REPLACE INTO {table} VALUES ({key}, {value}), ({other}, {value})"),
        (
            2,
            f"INSERT INTO {table} VALUES ({key}, {value}), ({other}, {value})"
            f" ON DUPLICATE KEY UPDATE id = VALUES(id) + {rng.randrange(2)}, v = v + 1",
        ),
        (4, f"UPDATE {table} SET v = v + 1 WHERE {where}{limit}"),
        (4, f"UPDATE {table} SET id = {other} WHERE {where}{limit}"),
        (1, f"UPDATE {table} SET id = id + 7, v = {value} WHERE {where}{limit}"),
        (1, f"UPDATE IGNORE {table} SET id = {other} WHERE {where}{limit}"),
        (3, f"DELETE FROM {table} WHERE {where}{limit}"),
    )
    return rng.choices([text for _, text in kinds], [weight for weight, _ in kinds])[0]


def _compare(peer: Peer, store: Path, database: str, ts: int, what: str, outcome: Outcome) -> None:
    wait_until(store, TimeStamp(ts), CLOCK.boottime_ms() + _WAIT_MS, clock=CLOCK, fs=FS)
    outcome.counts["timestamps"] += 1
    with open_snapshot(store, TimeStamp(ts)) as snapshot, peer.connect() as session:
        session.query(f"SET tidb_snapshot = {ts}")
        for (name,) in session.query(f"SHOW TABLES FROM {database}"):
            outcome.counts["tables compared"] += 1
            difference = _difference(snapshot, session, f"{database}.{name}", outcome)
            if difference is not None:
                outcome.differs(f"{what} at {ts}: {database}.{name}: {difference}")


def _difference(
    snapshot: ReadSnapshot, session: MySqlConnection, name: str, outcome: Outcome
) -> str | None:
    rows = session.query(f"SELECT {', '.join(_COLUMNS)} FROM {name}")
    theirs = Counter(map(tuple, rows))
    ours: Counter[tuple[Any, ...]] = Counter()
    try:
        for batch in snapshot.texts(snapshot.plan(name, _COLUMNS)):
            ours.update(zip(*(column.to_pylist() for column in batch), strict=True))
    except TableSetAsideError as error:
        outcome.refused[error.reason.partition(": ")[2]] += 1
        return None
    outcome.counts["rows compared"] += theirs.total()
    if ours == theirs:
        return None
    only_ours, only_theirs = list((ours - theirs).items()), list((theirs - ours).items())
    return f"here {only_ours[:5]}, there {only_theirs[:5]}"
