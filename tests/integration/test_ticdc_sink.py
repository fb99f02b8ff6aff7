"""TiCDC's storage sink, written from the captured workloads: the store has TiDB's answers."""

import random
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.errors import TableSetAsideError
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.cli.main import main
from pyspark_theflash.read.plan.snapshot import open_snapshot
from pyspark_theflash.replication.apply.stream_state import SchemaSource
from pyspark_theflash.replication.ticdc import backlog
from pyspark_theflash.replication.ticdc.sink import Sink
from pyspark_theflash.replication.ticdc.storage import open_storage
from pyspark_theflash.replication.ticdc.writer import SinkWriter
from pyspark_theflash.replication.writer import Writer
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.storage.store.folder import StoreIdentity
from pyspark_theflash.tidb.schema.file import FileSchema
from tests.support.suite import (
    DATABASE,
    SuiteSchema,
    SuiteSource,
    as_multiset,
    final_tables,
    read_steps,
)
from tests.support.ticdc_sink import RecordingEngine, SinkFolder, SinkRow, rows_of, sink_rows
from tests.support.workloads import Workload, check_answers, workload

PROPERTIES = "time-zone=UTC&binary-encoding-method=base64"
LAYOUTS = {
    "canal-json": {},
    "csv": {"is_csv": True, "has_old_values": True, "has_header": True, "terminator": "\n"},
    "dispatchers": {"dispatchers": 3, "date": "%Y"},
    "ids": {"by_id": True, "date": ""},
    "values": {"has_partitions": False, "is_csv": True},
}
"""Layouts of a sink; without partitions in the path they are those of the values."""


@cache
def _rows(name: str) -> list[SinkRow]:
    return sink_rows(workload(name))


@dataclass
class Replica:
    """A store that a writer fills from a sink, opened again for each poll."""

    schema: SchemaSource
    end_ts: TimeStamp
    store: Path
    folder: SinkFolder
    base: Path | None = None
    identity: StoreIdentity | None = None
    publications: int = 0

    def create(self) -> None:
        fs = LocalFileSystem()
        self.identity = registry.create(self.store, registry.MAGIC, fs)
        with closing(self._engine()) as engine:
            writer = self._writer(engine)
            if self.base:
                writer.load_base(self.base)

    def poll(self) -> int:
        with closing(self._engine()) as engine:
            writer = self._writer(engine)
            writer.poll(until_ts=self.end_ts)
            self.publications = writer.report.publications
            return writer.resolved_ts

    def _engine(self):
        fs = LocalFileSystem()
        return registry.open_engine(self.store, self.identity, fs, SystemClock())

    def _writer(self, engine) -> SinkWriter:
        storage, properties = open_storage(f"file://{self.folder.root}?{PROPERTIES}")
        return SinkWriter(engine, self.schema, Sink(storage), properties)

    def replay(self, rows: list[SinkRow], seed: int = 0) -> None:
        """Create the store, and fill it while the rows are sent."""
        self.create()
        _send(self.folder, rows, 4, random.Random(seed), self.poll)
        self.folder.checkpoint(self.end_ts + 1)
        assert self.poll() == self.end_ts


def _check(chosen: Workload, store: Path) -> int:
    """Compare the tables that can be followed with TiDB, the others are set aside."""
    history = FileSchema(chosen.schema).read(None, None)
    answers = list(chosen.answers())
    keyless = {a for a in answers if history.table_by_name(a.table, a.snapshot_ts).has_rowid}
    for answer in keyless:
        with open_snapshot(store, answer.snapshot_ts) as snapshot, _refused():
            snapshot.digest(answer.table)
    return check_answers(store, [a for a in answers if a not in keyless])


def _refused() -> AbstractContextManager[object]:
    return pytest.raises(TableSetAsideError, match="no clustered primary key")


def _chunks(rows: list[SinkRow], size: int) -> list[list[SinkRow]]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _send(folder: SinkFolder, rows: list[SinkRow], steps: int, rng: random.Random, poll) -> None:
    """Write rows in steps: late, out of order, in small files, and some of them again."""
    late: list[SinkRow] = []
    size = -(-len(rows) // steps)
    sent: list[SinkRow] = []
    for step, chunk in enumerate(_chunks(rows, size)):
        due = [*late, *chunk]
        is_late = [rng.random() < 0.1 for _ in due]
        late = [row for row, later in zip(due, is_late, strict=True) if later]
        written = [row for row, later in zip(due, is_late, strict=True) if not later]
        again = sent[-rng.randrange(1, size) :] if sent and rng.random() < 0.5 else []
        if again and rng.random() < 0.5:
            folder.write(again, restarts=step)
        elif again:
            folder.write(again)
        for part in _chunks(written, max(len(written) // 3, 1)):
            folder.write(part)
        sent += written
        following = rows[(step + 1) * size : (step + 1) * size + 1]
        folder.checkpoint(min(row.commit_ts for row in [*late, *following, rows[-1]]))
        poll()
    folder.write(late)


def _sink(root: Path, layout: str = "canal-json") -> SinkFolder:
    root.mkdir()
    return SinkFolder(root, **LAYOUTS[layout])


def _replica(chosen: Workload, folder: Path, layout: str = "canal-json") -> Replica:
    sink = _sink(folder / "sink", layout)
    return Replica(FileSchema(chosen.schema), chosen.end_ts, folder / "store", sink, chosen.base)


def _compared(name: str, layout: str, folder: Path, seed: int = 0) -> int:
    """Replay a workload; return the number of tables that are equal to TiDB's."""
    replica = _replica(workload(name), folder, layout)
    replica.replay(_rows(name), seed)
    return _check(workload(name), replica.store)


@pytest.mark.parametrize("layout", ["dispatchers", "csv"])
def test_bank(layout: str, tmp_path: Path) -> None:
    assert _compared("bank", layout, tmp_path) == 124


def test_ddl(tmp_path: Path) -> None:
    """One layout; `test_every_layout` has all."""
    assert _compared("ddl", "canal-json", tmp_path) == 177


@pytest.mark.parametrize("layout", LAYOUTS)
def test_suite(layout: str, tmp_path: Path) -> None:
    """Every column type and kind of DDL."""
    steps, engine = read_steps(), RecordingEngine()
    schema, end_ts = SuiteSchema(steps), steps[-1].commit_ts
    writer = Writer(engine, schema)
    writer.run_once(SuiteSource(steps), until_ts=end_ts)
    history = writer.state.history
    replica = Replica(schema, end_ts, tmp_path / "store", _sink(tmp_path / "sink", layout))
    replica.replay(rows_of(history, engine.published))
    compared = 0
    for table, expected in final_tables().items():
        name = f"{DATABASE}.{table}"
        with open_snapshot(replica.store) as snapshot:
            if history.table_by_name(name, end_ts).has_rowid:
                with _refused():
                    snapshot.digest(name)
                continue
            columns = list(zip(*snapshot.texts(snapshot.plan(name, expected["cols"])), strict=True))
        values = [[v for part in column for v in part.to_pylist()] for column in columns]
        assert as_multiset(zip(*values, strict=True)) == as_multiset(expected["rows"]), name
        compared += 1
    assert compared == 13


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("name", "answers"), [("bank", 124), ("ddl", 177), ("tpcc", 80), ("tpch", 6)]
)
def test_every_layout(name: str, answers: int, layout: str, seed: int, tmp_path: Path) -> None:
    assert _compared(name, layout, tmp_path, seed) == answers


def test_ranges_that_fit_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backlog that is larger than memory is applied in many publications."""
    monkeypatch.setattr(backlog, "RANGE_BYTES", 2 << 20)
    chosen = workload("bank")
    replica = _replica(chosen, tmp_path)
    folder = replica.folder
    for chunk in _chunks(_rows("bank"), 10_000):
        folder.write(chunk)
    folder.checkpoint(chosen.end_ts + 1)
    replica.create()
    assert replica.poll() == chosen.end_ts
    assert replica.publications > 10
    assert _check(chosen, replica.store) == 124


def test_the_command(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    chosen, store = workload("bank"), str(tmp_path / "store")
    folder = _sink(tmp_path / "sink")
    folder.write(_rows("bank"))
    folder.checkpoint(chosen.end_ts + 1)
    assert main(["init", store]) == 0
    command = ["writer", store, "--source", f"cdc:file://{folder.root}"]
    command += ["--schema", f"file:{chosen.schema}", "--base", str(chosen.base)]
    assert main([*command, "--once", "--until-ts", str(chosen.end_ts)]) == 0
    assert "19,106 transactions with 42,632 row changes" in capfd.readouterr().out
    assert main(["fsck", store]) == 0
    assert _check(chosen, tmp_path / "store") == 124
    binlog = ["writer", store, "--source", f"file:{chosen.binlog}", "--once"]
    assert main([*binlog, "--schema", f"file:{chosen.schema}"]) == 7
    assert "continue it with --source cdc:URL" in capfd.readouterr().err
