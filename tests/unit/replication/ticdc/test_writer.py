"""The writer on a reference engine; `tests/integration/test_ticdc_sink.py` has real workloads."""

import json
from dataclasses import replace

import pytest
from pyarrow import fs

from pyspark_theflash.base.errors import (
    FeedConflictError,
    IncompleteFileError,
    OptionError,
    TableSetAsideError,
)
from pyspark_theflash.replication.storage import Storage
from pyspark_theflash.replication.ticdc.rows import SinkFormat
from pyspark_theflash.replication.ticdc.sink import Sink
from pyspark_theflash.replication.ticdc.writer import SinkWriter
from pyspark_theflash.storage.engine.api import Publication, ScanSpec
from pyspark_theflash.storage.mvcc.version import HANDLE
from pyspark_theflash.storage.store.aside import ASIDE_KIND, asides_of, set_aside
from pyspark_theflash.storage.store.coverage import RECOVERED_KIND
from pyspark_theflash.storage.store.manifest import ManifestChange
from pyspark_theflash.storage.store.progress import Progress
from pyspark_theflash.testing.memory import MemoryEngine
from pyspark_theflash.tidb.schema.history import SchemaHistory, TableEvent
from tests.support.ticdc_sink import SinkFolder, SinkRow
from tests.support.ticdc_tables import column, table_of

START = 441349361156227000
TABLE = table_of(column("id", "LONGLONG"), column("c", "LONG"))
KEYLESS = replace(TABLE, id=9, name="k", pk_is_handle=False)


class Schema:
    """A schema source that has one history."""

    def __init__(self, history):
        self.history = history

    def read(self, after, at_least):
        return self.history


def history(*tables, end_ts=START + 10_000):
    events = [TableEvent(START, t.db, t.id, t) for t in tables]
    return SchemaHistory(START, end_ts, events, [])


class Job:
    def __init__(self, folder, **properties):
        self.folder = SinkFolder(folder, date="", terminator="\n", **properties)
        self.engine, self.history = MemoryEngine(), history(TABLE, KEYLESS)
        self.open()

    def open(self):
        storage = Storage(fs.LocalFileSystem(), str(self.folder.root), "file")
        self.writer = SinkWriter(self.engine, Schema(self.history), Sink(storage), SinkFormat())

    def write(self, *changes, restarts=0):
        """Each change is (id, value or None for a delete, commit)."""
        return self.folder.write([self.row(*each) for each in changes], restarts)

    def row(self, key, value, commit, table=TABLE):
        texts = {"id": str(key), "c": str(value)}
        kind = "DELETE" if value is None else "INSERT"
        return SinkRow(table, START, table.id, START + commit, kind, texts, texts)

    def poll(self, checkpoint):
        self.folder.checkpoint(START + checkpoint)
        self.writer.poll()

    def ids(self, at):
        regions = self.engine.plan(self.engine.read([]), TABLE.id)
        spec = ScanSpec([], START + at, with_handle=True)
        batches = [batch for region in regions for batch in self.engine.scan(region, spec)]
        return sorted(h for batch in batches for h in batch.column(HANDLE).to_pylist())


@pytest.fixture
def job(tmp_path):
    return Job(tmp_path)


def test_only_what_is_below_the_checkpoint(job):
    """Rows at the checkpoint may be incomplete: TiCDC's documents disagree about it."""
    job.write((1, 1, 5), (2, 1, 6), (3, 1, 7))
    job.poll(6)
    assert job.writer.resolved_ts == START + 5
    assert job.ids(100) == [1]
    job.poll(8)
    assert job.ids(100) == [1, 2, 3]


def test_no_metadata_yet(job):
    job.write((1, 1, 5))
    job.writer.poll()
    assert job.writer.resolved_ts == 0
    with pytest.raises(OptionError, match="no file 'metadata'"):
        job.writer.run_once()


def test_rows_of_lower_commits_in_a_later_file(job):
    """Several dispatchers write one table: a later file may have rows of earlier commits."""
    job.folder.dispatchers = 2
    job.write((1, 1, 9), (2, 1, 5), (3, 1, 8), (4, 1, 4))
    job.poll(6)
    assert job.ids(100) == [2, 4]
    job.write((5, 1, 6), (6, 1, 7))
    job.poll(10)
    assert job.ids(100) == [1, 2, 3, 4, 5, 6]
    assert job.ids(6) == [2, 4, 5]


def test_rows_that_are_sent_again(job):
    job.write((1, 1, 4), (1, None, 5), (2, 1, 5))
    job.poll(6)
    job.write((1, 1, 4), (1, None, 5), (2, 1, 5), (3, 1, 6), restarts=1)
    job.poll(7)
    assert job.ids(100) == [2, 3]
    assert job.writer.report.rows == 4


def test_a_restart_reads_only_what_is_not_applied(job, monkeypatch):
    job.write((1, 1, 4))
    job.write((2, 1, 5), (3, 1, 9))
    job.write((4, 1, 9))
    job.poll(6)
    job.open()
    files = []
    parse = Sink.parse
    monkeypatch.setattr(
        Sink, "parse", lambda self, file, size: files.append(file.number) or parse(self, file, size)
    )
    job.write((5, 1, 9))
    job.open()
    job.poll(10)
    assert files == [2, 3, 4]
    assert job.ids(100) == [1, 2, 3, 4, 5]


def test_an_index_file_before_its_data(job):
    (first,) = job.write((1, 1, 4))
    (second,) = job.write((2, 1, 5))
    content = second.read_bytes()
    second.unlink()
    job.poll(5)
    assert (first.parent / "meta" / "CDC.index").read_text() == second.name + "\n"
    assert job.ids(100) == [1]
    second.write_bytes(content)
    job.poll(6)
    assert job.ids(100) == [1, 2]


def test_a_file_that_is_being_written(job):
    job.write((1, 1, 4))
    (path,) = job.write((2, 1, 5), (3, 1, 6))
    content = path.read_bytes()
    path.write_bytes(content[:-9])
    with pytest.raises(IncompleteFileError):
        job.poll(7)
    assert job.writer.resolved_ts == 0
    path.write_bytes(content)
    job.poll(7)
    assert job.ids(100) == [1, 2, 3]


def test_tables_without_a_clustered_key(job):
    job.folder.write([job.row(1, 1, 5, KEYLESS)])
    job.poll(6)
    asides = asides_of(job.engine.read([ASIDE_KIND]))
    assert list(asides) == [KEYLESS.id]
    error = set_aside(asides, "d.k", [KEYLESS.id], START + 1)
    assert isinstance(error, TableSetAsideError)
    assert "no clustered primary key" in str(error)
    assert set_aside(asides, "d.k", [KEYLESS.id], START) is None


def test_a_table_without_all_columns_is_set_aside(job):
    other = replace(TABLE, id=8, name="u")
    job.history = history(TABLE, other)
    job.open()
    row = job.row(1, 1, 5, other)
    job.folder.write([job.row(1, 1, 5), replace(row, texts={"id": "1"})])
    job.poll(6)
    assert job.ids(100) == [1]
    (aside,) = asides_of(job.engine.read([ASIDE_KIND])).values()
    assert (aside.physical_id, aside.ts) == (8, START + 5)
    assert "column-selectors" in aside.reason


def test_a_table_that_is_recovered(job):
    """Its rows from before are in no file of the changefeed."""
    recovered = replace(TABLE, id=8, name="r")
    events = [*job.history.events, TableEvent(START + 5, "d", recovered.id, recovered)]
    job.history = SchemaHistory(START, START + 100, events, [])
    job.open()
    job.folder.schema(recovered, START + 5, "RECOVER TABLE r")
    job.folder.schema(TABLE, START + 6, "ALTER TABLE t COMMENT 'x'")
    job.poll(7)
    assert list(job.engine.read([RECOVERED_KIND]).of_kind(RECOVERED_KIND)) == [f"{8:020d}"]


def test_not_above_the_schema_history(job):
    job.history = history(TABLE, end_ts=START + 5)
    job.open()
    job.write((1, 1, 5), (2, 1, 6))
    job.poll(8)
    assert job.writer.resolved_ts == START + 5


def test_a_run_up_to_a_timestamp(job):
    job.write((1, 1, 5), (2, 1, 6))
    job.folder.checkpoint(START + 7)
    assert job.writer.run_once(until_ts=START + 5).rows == 1
    assert job.writer.resolved_ts == START + 5
    with pytest.raises(OptionError, match="complete below"):
        job.writer.run_once(until_ts=START + 7)


def test_a_store_of_another_source(job):
    record = Progress(START, START, "pump-1:4").to_record()
    job.engine.publish(Publication((), ManifestChange([record])))
    with pytest.raises(FeedConflictError, match="another kind"):
        job.open()


def test_the_position_is_durable_with_the_rows(job):
    job.write((1, 1, 5))
    job.poll(6)
    records = job.engine.read(["sink-series"]).of_kind("sink-series")
    assert [json.loads(body)[0] for body in records.values()] == [1]
