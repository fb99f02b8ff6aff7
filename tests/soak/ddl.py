"""Random DDL and rows on a real TiDB, whose binlog a writer applies.

A history is one database: tables of random types and keys, which are changed, filled and compacted
in random order under random time zones and SQL modes. Now and then a transaction of TiDB reads all
tables; later the store is read at the timestamps of these, before and after compactions. A typed
error is no difference, but counted, and the columns that do not raise are compared.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Final

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.errors import CorruptionError, InternalError, TheFlashError
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.cli.main import main
from pyspark_theflash.read.plan.snapshot import ReadSnapshot, open_snapshot
from pyspark_theflash.read.plan.wait import wait_until
from tests.soak.outcome import Outcome
from tests.soak.statements import Statements
from tests.support.live_writer import following
from tests.support.mysql import MySqlConnection, MySqlError
from tests.support.peer import Peer

CLOCK, FS = SystemClock(), LocalFileSystem()
STEPS: Final = 60
_READ_EVERY: Final = 6
_COMPACT_EVERY: Final = 20
_WAIT_MS: Final = 120_000

Rows = Counter[tuple[Any, ...]]


@dataclass(frozen=True)
class Truth:
    """The state in TiDB at a timestamp: columns and rows of each table by name."""

    ts: TimeStamp
    tables: dict[str, tuple[list[str], Rows]]


def run(
    folder: Path, *, first_seed: int, seconds: float, outcome: Outcome, steps: int = STEPS
) -> None:
    """Histories from `first_seed` on until the time is up, at least one."""
    end_ms = CLOCK.boottime_ms() + round(1000 * seconds)
    store = folder / "store"
    with following(folder, store) as peer:
        seed = first_seed
        while seed == first_seed or CLOCK.boottime_ms() < end_ms:
            _history(peer, store, seed, steps, outcome)
            outcome.counts["histories"] += 1
            seed += 1


def _history(peer: Peer, store: Path, seed: int, steps: int, outcome: Outcome) -> None:
    statements, database = Statements(Random(seed)), f"h{seed}"
    truths: list[Truth] = []
    with peer.connect() as session, peer.connect() as reader:
        session.query(f"CREATE DATABASE {database}")
        session.query(f"USE {database}")
        reader.query("SET time_zone = '+00:00'")
        for step in range(steps):
            for statement in statements.step():
                outcome.counts["statements"] += 1
                try:
                    session.query(statement)
                except MySqlError:
                    outcome.counts["failed statements"] += 1
                else:
                    statements.done(statement)
            if step % _READ_EVERY == 0:
                truths.append(_truth(reader, database))
            if step % _COMPACT_EVERY == _COMPACT_EVERY - 1:
                assert main(["compact", str(store)]) == 0, f"seed {seed}"
        truths.append(_truth(reader, database))
    for truth in truths:
        for difference in _differences(store, database, truth, outcome):
            outcome.differs(f"seed {seed} at {truth.ts}: {difference}")
    assert main(["compact", str(store)]) == 0, f"seed {seed}"
    for truth in truths[:: max(1, len(truths) // 3)]:
        for difference in _differences(store, database, truth, outcome):
            outcome.differs(f"seed {seed} at {truth.ts}, compacted: {difference}")
    peer.sql(f"DROP DATABASE {database}")


def _truth(session: MySqlConnection, database: str) -> Truth:
    """Read all tables in one transaction; repeat it if DDL runs meanwhile."""
    while True:
        with suppress(MySqlError):
            session.query("START TRANSACTION WITH CONSISTENT SNAPSHOT")
            ((ts,),) = session.query("SELECT @@tidb_current_ts")
            names = [str(row[0]) for row in session.query(f"SHOW TABLES FROM {database}")]
            tables = {name: _table(session, f"{database}.{name}") for name in names}
            session.query("COMMIT")
            return Truth(TimeStamp(int(ts or 0)), tables)
        session.query("ROLLBACK")


def _table(session: MySqlConnection, name: str) -> tuple[list[str], Rows]:
    columns = [str(row[0]) for row in session.query(f"SHOW COLUMNS FROM {name}")]
    return columns, Counter(session.query(f"SELECT * FROM {name}"))


def _differences(store: Path, database: str, truth: Truth, outcome: Outcome) -> Iterator[str]:
    deadline_ms = CLOCK.boottime_ms() + _WAIT_MS
    wait_until(store, truth.ts, deadline_ms, clock=CLOCK, fs=FS)
    with open_snapshot(store, truth.ts) as snapshot:
        names = {table.name for table in snapshot.tables() if table.db == database}
        if names != set(truth.tables):
            yield f"tables {sorted(names)} for {sorted(truth.tables)}"
        for name in sorted(names & set(truth.tables)):
            outcome.counts["tables compared"] += 1
            difference = _table_difference(snapshot, f"{database}.{name}", truth, outcome)
            if difference is not None:
                yield f"{name}: {difference}"


def _table_difference(
    snapshot: ReadSnapshot, name: str, truth: Truth, outcome: Outcome
) -> str | None:
    columns, theirs = truth.tables[name.partition(".")[2]]
    try:
        ours = _rows(snapshot, name, columns)
    except TheFlashError:
        kept = [
            at for at, column in enumerate(columns) if _is_readable(snapshot, name, column, outcome)
        ]
        columns = [columns[at] for at in kept]
        ours = _rows(snapshot, name, columns)
        picked: Rows = Counter()
        for row, count in theirs.items():
            picked[tuple(row[at] for at in kept)] += count
        theirs = picked
    outcome.counts["rows compared"] += theirs.total()
    if ours == theirs:
        return None
    only_ours, only_theirs = list((ours - theirs).items()), list((theirs - ours).items())
    return f"{columns} here {only_ours[:3]}, there {only_theirs[:3]}"


def _is_readable(snapshot: ReadSnapshot, name: str, column: str, outcome: Outcome) -> bool:
    """Whether a column can be read; what stops it is counted."""
    try:
        _rows(snapshot, name, [column])
    except (InternalError, CorruptionError):
        raise
    except TheFlashError as error:
        reason = str(error).replace(name, "TABLE")
        outcome.refused[f"{type(error).__name__}: {reason.partition(': ')[2] or reason}"] += 1
        return False
    return True


def _rows(snapshot: ReadSnapshot, name: str, columns: list[str]) -> Rows:
    counts: Rows = Counter()
    for batch in snapshot.texts(snapshot.plan(name, columns)):
        cells = [[_text(value) for value in column.to_pylist()] for column in batch]
        counts.update(zip(*cells, strict=True))
    return counts


def _text(value: Any) -> str | None:
    """As the client has TiDB's texts, which may be any bytes."""
    if isinstance(value, bytes):
        return value.decode(errors="surrogateescape")
    return None if value is None else str(value)
