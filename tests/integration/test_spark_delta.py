"""The engine delta: Delta tables, written and read by executors, against TiDB's answers."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.errors import (
    NotCaughtUpError,
    OptionError,
    SnapshotTooOldError,
    StaleTokenError,
    StoreExistsError,
    StoreNotFoundError,
    TableNotReplicatedError,
)
from pyspark_theflash.base.failpoint import armed
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.read.present import NATIVE, TEXT, Presentation, ZeroDates
from pyspark_theflash.replication.source.file import FileSource
from pyspark_theflash.replication.writer import Writer
from pyspark_theflash.spark.delta import table
from pyspark_theflash.spark.delta.applier import DeltaApplier
from pyspark_theflash.spark.delta.engine import DeltaEngine
from pyspark_theflash.spark.delta.latches import ReadLatches
from pyspark_theflash.spark.delta.maintenance import DeltaMaintenance
from pyspark_theflash.spark.delta.publication import Publications
from pyspark_theflash.spark.delta.snapshot import DeltaSnapshot
from pyspark_theflash.storage.store.manifest import ManifestChange
from pyspark_theflash.storage.store.scope import TableScope
from pyspark_theflash.tidb.schema.file import FileSchema
from tests.support.spark_digest import spark_digest
from tests.support.workloads import NAMES, Answer, Workload, workload

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

TABLES = ("bank.acc_hash", "bank.acc_ch")
"""A partitioned table, and one whose key is a string."""
BANK = workload("bank")
ANSWERS = [answer for answer in BANK.answers() if answer.table in TABLES]
ODD = Presentation(ZeroDates.STRING)
MIDDLE = ANSWERS[len(ANSWERS) // 2].snapshot_ts


class KilledError(Exception):
    """Raised by fail points."""


def write(
    spark: "SparkSession",
    path: str,
    chosen: Workload = BANK,
    *,
    until_ts: TimeStamp | None = None,
    tables: tuple[str, ...] = TABLES,
) -> Writer:
    """Apply a workload's binlog by a writer of its own, which takes over."""
    engine = DeltaEngine(spark, path)
    scope = TableScope(tables, ()) if tables else None
    writer = Writer(engine, FileSchema(chosen.schema), scope, applier=DeltaApplier)
    if chosen.base:
        writer.load_base(chosen.base)
    writer.run_once(FileSource(chosen.binlog), until_ts=until_ts or chosen.end_ts)
    return writer


def check(
    spark: "SparkSession",
    path: str,
    answers: list[Answer],
    presentation: Presentation = NATIVE,
) -> None:
    """Compare tables with TiDB's answers."""
    for answer in answers:
        snapshot = DeltaSnapshot(spark, path, answer.snapshot_ts)
        rows = snapshot.table(answer.table, presentation=presentation).toArrow()
        columns = snapshot.info(answer.table).public_columns
        digest = spark_digest(rows, columns, presentation)
        assert (digest.rows, digest.hexdigest()) == (answer.rows, answer.checksum), answer


def raising(after: int) -> Callable[[], None]:
    """An action that raises when it is run for the nth time."""
    calls = iter(range(after))

    def action() -> None:
        if next(calls, None) is None:
            raise KilledError

    return action


@pytest.fixture(scope="module")
def store(spark: "SparkSession", tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store whose writers died: between the commits of two tables, and before the publication."""
    path = str(tmp_path_factory.mktemp("delta") / "store")
    Publications(spark, path).create()
    write(spark, path, until_ts=MIDDLE)
    with armed("delta.before_table", raising(1)), pytest.raises(KilledError):
        write(spark, path)
    return path


def test_a_transaction_between_two_commits_is_invisible(spark: "SparkSession", store: str) -> None:
    """One Delta table has rows that are not published: no snapshot sees them."""
    state = Publications(spark, store).read()
    versions = {
        table_id: table.newest_version(spark, Publications(spark, store).table_path(table_id))
        for table_id in state.versions
    }
    assert sorted(versions[i] - state.versions[i] for i in versions) == [0, 1]
    assert DeltaSnapshot(spark, store).snapshot_ts == MIDDLE
    with pytest.raises(NotCaughtUpError):
        DeltaSnapshot(spark, store, BANK.end_ts)
    check(spark, store, [a for a in ANSWERS if a.snapshot_ts == MIDDLE])


@pytest.fixture(scope="module")
def finished(spark: "SparkSession", store: str) -> str:
    """The same store after another writer has undone that, and applied everything."""
    replaced = DeltaEngine(spark, store)
    write(spark, store)
    with pytest.raises(StaleTokenError):
        replaced.commit(ManifestChange())
    return store


def test_the_next_writer_undoes_it_and_continues(spark: "SparkSession", finished: str) -> None:
    chosen = (ANSWERS[0].snapshot_ts, MIDDLE, ANSWERS[-1].snapshot_ts)
    check(spark, finished, [answer for answer in ANSWERS if answer.snapshot_ts in chosen])


def test_texts_are_tidbs(spark: "SparkSession", finished: str) -> None:
    """Computed in Python, on executors."""
    check(spark, finished, [a for a in ANSWERS if a.snapshot_ts == MIDDLE], TEXT)


def test_a_view_without_this_package(spark: "SparkSession", finished: str) -> None:
    answer = next(a for a in ANSWERS if a.snapshot_ts == MIDDLE)
    snapshot = DeltaSnapshot(spark, finished, MIDDLE)
    rows = spark.sql(snapshot.view_sql(answer.table)).toArrow()
    digest = spark_digest(rows, snapshot.info(answer.table).public_columns)
    assert (digest.rows, digest.hexdigest()) == (answer.rows, answer.checksum)


def test_a_filter_reaches_the_parquet_reader(spark: "SparkSession", finished: str) -> None:
    """As does the partition of the versions that may supersede others; and there is no Python."""
    rows = DeltaSnapshot(spark, finished).table("bank.acc_hash", ["balance"]).where("balance > 5")
    length = "spark.sql.maxMetadataStringLength"
    before = spark.conf.get(length)
    spark.conf.set(length, "10000")
    plan = rows._jdf.queryExecution().executedPlan().toString()
    spark.conf.set(length, before)
    assert re.search(r"PushedFilters: \[[^\]]*GreaterThan\(c\d+_i64,5\)", plan), plan
    assert re.search(r"PartitionFilters: \[[^\]]*NOT _plain", plan), plan
    assert "Python" not in plan
    assert "MapInArrow" not in plan


@pytest.mark.slow
def test_collection_keeps_what_latches_hold(spark: "SparkSession", finished: str) -> None:
    engine = DeltaEngine(spark, finished)
    maintenance = DeltaMaintenance(spark, engine)
    latches = ReadLatches(spark, finished, SystemClock())
    end = ANSWERS[-1].snapshot_ts
    with latches.held(MIDDLE, 60_000):
        collected = maintenance.collect(end)
    assert collected.oldest_ts == MIDDLE
    assert len(collected.tables) == len(TABLES)
    check(spark, finished, [a for a in ANSWERS if a.snapshot_ts in (MIDDLE, end)])
    before = sum(engine.frame(table_id).count() for table_id in engine.state.versions)
    assert maintenance.collect(end).oldest_ts == end
    assert sum(engine.frame(table_id).count() for table_id in engine.state.versions) < before
    maintenance.compact()
    maintenance.vacuum()
    check(spark, finished, [a for a in ANSWERS if a.snapshot_ts == end])
    with pytest.raises(SnapshotTooOldError):
        DeltaSnapshot(spark, finished, MIDDLE)
    with pytest.raises(OptionError):
        maintenance.vacuum(1)


def test_errors_of_reads(spark: "SparkSession", store: str, tmp_path: Path) -> None:
    with pytest.raises(TableNotReplicatedError):
        DeltaSnapshot(spark, store).table("bank.acc_int")
    with pytest.raises(StoreNotFoundError):
        DeltaSnapshot(spark, str(tmp_path / "none"))
    with pytest.raises(StoreExistsError):
        Publications(spark, store).create()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_answer(spark: "SparkSession", name: str, tmp_path: Path) -> None:
    """All tables of a workload, also those that DDL changes."""
    chosen = workload(name)
    Publications(spark, str(tmp_path / "store")).create()
    write(spark, str(tmp_path / "store"), chosen, tables=())
    answers = list(chosen.answers())
    step = 10 if name == "ddl" else 1
    check(spark, str(tmp_path / "store"), answers[::step], ODD if name == "ddl" else NATIVE)
