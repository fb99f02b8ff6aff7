"""The one promise, against real captures: at every timestamp the answer is TiDB's."""

import gzip
import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.cli.main import main
from pyspark_theflash.read.plan.snapshot import ReadSnapshot, open_snapshot
from pyspark_theflash.replication.source.file import FileSource
from pyspark_theflash.storage.engine.api import Engine, ScanSpec
from pyspark_theflash.storage.mvcc.project import scan_column
from pyspark_theflash.testing.memory import MemoryEngine
from pyspark_theflash.tidb.codec.digest import TableDigest
from pyspark_theflash.tidb.codec.text import format_column
from pyspark_theflash.tidb.schema.file import read_schema_file
from pyspark_theflash.tidb.schema.history import SchemaHistory
from pyspark_theflash.tidb.schema.model import ROWID_COLUMN, ROWID_NAME
from pyspark_theflash.tidb.schema.owners import Owners
from tests.support.binlog_writer import split_frames
from tests.support.workloads import (
    NAMES,
    Answer,
    Workload,
    check_answers,
    make_store,
    replicate,
    workload,
)

Stores = Callable[[str], Path]
OTHER_TIMESTAMPS = 200
EACH = [
    *(pytest.param(name, 10 if name == "ddl" else 1, id=name) for name in NAMES),
    pytest.param("ddl", 1, id="all of ddl", marks=pytest.mark.slow),
]
"""Workloads, and every how many of their answers is looked at: ddl has as many as all others."""


@pytest.mark.parametrize(
    ("name", "step"),
    [
        *(pytest.param(name, 4 if name == "ddl" else 1, id=name) for name in NAMES),
        pytest.param("ddl", 1, id="all of ddl"),
    ],
)
def test_every_answer_through_a_snapshot(name: str, step: int, workload_store: Stores) -> None:
    check_store(workload(name), workload_store(name), step)


@pytest.mark.parametrize(("name", "step"), EACH)
def test_answers_through_the_memory_engine(name: str, step: int) -> None:
    chosen, engine = workload(name), MemoryEngine()
    replicate(chosen, engine)
    history = read_schema_file(chosen.schema)
    for answer in list(chosen.answers())[::step]:
        assert engine_digest(engine, history, answer) == (answer.rows, answer.checksum), answer


@pytest.mark.parametrize(("name", "step"), EACH)
def test_answers_through_the_command_line(
    name: str, step: int, workload_store: Stores, capsys: pytest.CaptureFixture[str]
) -> None:
    for answer in list(workload(name).answers())[::step]:
        status = main(
            ["digest", str(workload_store(name)), answer.table, "--at", str(answer.snapshot_ts)]
        )
        assert (status, capsys.readouterr().out) == (0, f"{answer.rows} {answer.checksum}\n"), (
            answer
        )


@pytest.mark.parametrize(("name", "step"), [each for each in EACH if each.id != "tpch"])
def test_rows_as_json_lines_are_tidbs_text(
    name: str, step: int, workload_store: Stores, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = [answer for answer in workload(name).answers() if answer.file][::step]
    assert len(answers) >= 18
    for answer in answers:
        assert answer.file
        status = main(_scan_arguments(workload_store(name), answer))
        expected = Counter(gzip.decompress(answer.file.read_bytes()).decode().splitlines())
        assert (status, Counter(capsys.readouterr().out.splitlines())) == (0, expected), answer


def test_the_bank_never_gains_or_loses_money(workload_store: Stores) -> None:
    """The invariant of the workload's transfers, at timestamps without recorded answers."""
    bank = workload("bank")
    total = json.loads((bank.folder / "invariant.json").read_text())["total"]
    start_ts = read_schema_file(bank.schema).start_ts
    rng = random.Random(20240)
    for _ in range(OTHER_TIMESTAMPS):
        ts = TimeStamp(rng.randrange(start_ts, bank.end_ts))
        with open_snapshot(workload_store("bank"), ts) as snapshot:
            assert sum(_balances(snapshot)) == total, ts


@pytest.mark.parametrize(("name", "step"), EACH)
def test_delivering_every_frame_twice_changes_nothing(name: str, step: int, tmp_path: Path) -> None:
    """In place, and the whole stream once more."""
    chosen = workload(name)
    content = gzip.decompress(chosen.binlog.read_bytes())
    source = tmp_path / "source"
    source.mkdir()
    doubled = b"".join(piece * 2 for piece in split_frames(content))
    (source / "1.bin").write_bytes(doubled)
    (source / "2.bin").write_bytes(content)
    check_store(chosen, make_store(chosen, tmp_path / "store", source), step)


def check_store(chosen: Workload, store: Path, step: int = 1) -> None:
    """Every answer of the workload is the store's, rowids included; or every `step`th."""
    answers = list(chosen.answers())[::step]
    check_answers(store, answers)
    for answer in answers:
        if answer.checksum_with_rowid:
            with open_snapshot(store, answer.snapshot_ts) as snapshot:
                assert _digest_with_rowid(snapshot, answer.table) == answer.checksum_with_rowid


def engine_digest(engine: Engine, history: SchemaHistory, answer: Answer) -> tuple[int, str]:
    """A table's digest by the engine contract alone."""
    table = history.table_by_name(answer.table, answer.snapshot_ts)
    owners = Owners(history)
    digest, view = TableDigest(), engine.read([])
    for physical_id in table.physical_ids:
        past = owners.past(table, physical_id, answer.snapshot_ts)
        columns = [scan_column(table, c, past) for c in table.public_columns]
        for region in engine.plan(view, physical_id):
            for batch in engine.scan(region, ScanSpec(columns, answer.snapshot_ts)):
                types = [c.type for c in table.public_columns]
                digest.update(
                    [format_column(a, t) for a, t in zip(batch.columns, types, strict=True)]
                )
    return digest.rows, digest.hexdigest()


def _digest_with_rowid(snapshot: ReadSnapshot, table: str) -> str:
    columns = [*snapshot.table(table).public_columns, ROWID_COLUMN]
    digest = TableDigest()
    for texts in snapshot.texts(snapshot.plan(table, [c.name for c in columns])):
        digest.update(texts)
    return digest.hexdigest()


def _scan_arguments(store: Path, answer: Answer) -> list[str]:
    with open_snapshot(store, answer.snapshot_ts) as snapshot:
        table = snapshot.table(answer.table)
    rowid = ["--columns", ",".join([*(c.name for c in table.public_columns), ROWID_NAME])]
    at = ["--at", str(answer.snapshot_ts)]
    extra = rowid if table.has_rowid else []
    return ["scan", str(store), answer.table, *at, "--format", "jsonl", *extra]


def _balances(snapshot: ReadSnapshot) -> list[int]:
    return [
        balance
        for table in snapshot.tables()
        for batch in snapshot.scan(table.full_name, ["balance"])
        for balance in batch.column("balance").to_pylist()
    ]


def test_frames_are_cut_at_their_ends(fixtures: Path) -> None:
    content = gzip.decompress((fixtures / "tpch" / "binlog.bin.gz").read_bytes())
    entities = list(FileSource(fixtures / "tpch" / "binlog.bin.gz").entities())
    assert len(split_frames(content)) == len(entities)
