"""A table whose rows from before the stream were not loaded is refused, never answered in part.

Captured histories are followed from some timestamp on, or without some tables. Every answer must
then be TiDB's; and tables that were new, or were loaded, must be answered.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.errors import (
    TableNotLoadedError,
    TableNotReplicatedError,
)
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.cli.main import main
from pyspark_theflash.read.plan.snapshot import open_snapshot
from pyspark_theflash.replication.source.event import Entity
from pyspark_theflash.replication.source.file import FileSource
from pyspark_theflash.replication.writer import Writer
from pyspark_theflash.service.client.theflash import connect
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.storage.store.scope import TableScope
from pyspark_theflash.tidb.codec.key import RawKey
from pyspark_theflash.tidb.schema.file import FileSchema
from pyspark_theflash.tidb.schema.history import SchemaHistory, TableEvent
from tests.support.workloads import Answer, Workload, workload

FS, CLOCK = LocalFileSystem(), SystemClock()
BANK, DDL = workload("bank"), workload("ddl")
ANSWERS = list(DDL.answers())[::2]
RECOVER_TS = 470613728718487570
EXCHANGE_TS = 470613725389258777
REFUSED = TableNotLoadedError, TableNotReplicatedError


class Repartitioned(FileSource):
    """A source that has ALTER TABLE for TRUNCATE TABLE: both may give a table another id."""

    def entities(self, after: str | None = None) -> Iterator[Entity]:
        for entity in super().entities(after):
            if entity.ddl is None or not entity.ddl.query.startswith("TRUNCATE TABLE"):
                yield entity
            else:
                query = "ALTER TABLE t PARTITION BY HASH (id) PARTITIONS 2"
                yield replace(entity, ddl=replace(entity.ddl, query=query))


class LateSchema:
    """A schema file as of a stream that begins later."""

    def __init__(self, path: Path, start_ts: TimeStamp) -> None:
        whole = FileSchema(path).read()
        tables = {e.table_id: e for e in whole.until(start_ts)}.values()
        initial = [
            TableEvent(start_ts, e.db, e.table_id, e.table) for e in tables if e.table is not None
        ]
        later = [e for e in whole.events if e.ts > start_ts]
        versions = [v for v in whole.versions if v.ts > start_ts]
        self._history = SchemaHistory(start_ts, whole.end_ts, [*initial, *later], versions)

    def read(self, after: SchemaHistory | None, at_least: TimeStamp | None) -> SchemaHistory:
        return self._history

    def has_written(self, key: RawKey, start_ts: TimeStamp) -> bool:
        return False


def followed(
    store: Path,
    chosen: Workload,
    start_ts: TimeStamp | None = None,
    scope: TableScope | None = None,
    assume_empty: Sequence[str] = (),
    source: type[FileSource] = FileSource,
) -> Path:
    """A store that has followed a workload, without its base, from a moment on."""
    identity = registry.create(store, registry.MAGIC, FS)
    schema = FileSchema(chosen.schema) if start_ts is None else LateSchema(chosen.schema, start_ts)
    with closing(registry.open_engine(store, identity, FS, CLOCK)) as engine:
        writer = Writer(engine, schema, scope, may_guess=True, assume_empty=assume_empty)
        writer.run_once(source(chosen.binlog), until_ts=chosen.end_ts)
    return store


def compared(store: Path, answers: Sequence[Answer]) -> dict[str, Counter[str]]:
    """Return how often each table was answered and rejected; a wrong answer fails."""
    by_table: dict[str, Counter[str]] = {}
    for answer in answers:
        outcomes = by_table.setdefault(answer.table, Counter())
        try:
            with open_snapshot(store, answer.snapshot_ts) as snapshot:
                digest = snapshot.digest(answer.table)
        except REFUSED as error:
            outcomes[type(error).__name__] += 1
        else:
            assert (digest.rows, digest.hexdigest()) == (answer.rows, answer.checksum), answer
            outcomes["answered"] += 1
    return by_table


def test_without_a_base_nothing_is_answered(tmp_path: Path) -> None:
    """The case that gave 97 rows for TiDB's 250."""
    store = followed(tmp_path / "store", BANK)
    answers = list(BANK.answers())
    by_table = compared(store, answers)
    assert all(set(outcomes) == {"TableNotLoadedError"} for outcomes in by_table.values())
    with pytest.raises(TableNotLoadedError) as caught, open_snapshot(store) as snapshot:
        snapshot.table("bank.acc_int")
    began = str(FileSchema(BANK.schema).read().start_ts)
    for said in ("--base", "--assume-empty bank.acc_int", began):
        assert said in str(caught.value)


def test_what_is_assumed_is_recorded_and_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    assert main(["init", str(store)]) == 0
    source = [f"--source=file:{BANK.binlog}", f"--schema=file:{BANK.schema}", "--once"]
    for more, refused in (([], 5), (["--assume-empty=BANK.acc_?"], 4), (["--assume-empty=*"], 0)):
        assert main(["writer", str(store), *source, *more]) == 0
        capsys.readouterr()
        assert main(["tables", str(store)]) == 0
        assert capsys.readouterr().out.count("--assume-empty") == refused
    assert main(["status", str(store)]) == 0
    assert "*; BANK.acc_?" in capsys.readouterr().out
    with connect(store) as api:
        assert api.status().assumed_empty == ("*", "BANK.acc_?")


@pytest.mark.parametrize(
    ("start_ts", "answered", "refused"),
    [
        # `dr` was dropped before, and comes back with RECOVER; then it is truncated, which makes
        # it new, and what was truncated comes back as `dr_old`.
        pytest.param(RECOVER_TS - 1, {"ddl_b.np"}, {"ddl_a.dr_old"}, id="recover"),
        pytest.param(EXCHANGE_TS - 1, {"ddl_a.gen"}, {"ddl_a.pr", "ddl_a.ex"}, id="exchange"),
    ],
)
def test_a_history_that_is_followed_later(
    tmp_path: Path, start_ts: int, answered: set[str], refused: set[str]
) -> None:
    store = followed(tmp_path / "store", DDL, TimeStamp(start_ts))
    by_table = compared(store, [a for a in ANSWERS if a.snapshot_ts >= start_ts])
    assert answered <= {table for table, outcomes in by_table.items() if outcomes["answered"]}
    assert refused <= {
        table for table, outcomes in by_table.items() if outcomes["TableNotLoadedError"]
    }


def test_a_table_that_alter_table_has_copied(tmp_path: Path) -> None:
    """TiDB 7.2 and later copy all rows to a table of another id, and no binlog has them."""
    store = followed(tmp_path / "store", DDL, source=Repartitioned)
    by_table = compared(store, list(DDL.answers()))
    refused = {table for table, outcomes in by_table.items() if outcomes["TableNotLoadedError"]}
    assert refused == {"ddl_a.cc", "ddl_a.dr"}


def test_a_partition_from_a_table_that_is_left_out(tmp_path: Path) -> None:
    """EXCHANGE moves its rows into an included table, until the end of the history."""
    store = followed(tmp_path / "store", DDL, scope=TableScope(exclude=("ddl_a.ex",)))
    by_table = compared(store, ANSWERS)
    assert set(by_table["ddl_a.ex"]) == {"TableNotReplicatedError"}
    assert set(by_table["ddl_a.pr"]) == {"answered", "TableNotLoadedError"}
    others = [
        outcomes for table, outcomes in by_table.items() if table not in ("ddl_a.ex", "ddl_a.pr")
    ]
    assert all(set(outcomes) == {"answered"} for outcomes in others)
