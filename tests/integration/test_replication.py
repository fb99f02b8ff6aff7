"""The writer over many runs: input cut, repeated, rewound, contradicted; concurrent readers."""

import gzip
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.errors import (
    NotCaughtUpError,
    OptionError,
    SchemaConflictError,
    SchemaOutdatedError,
    ServiceUnavailableError,
    TransactionConflictError,
    UnmatchedPrewriteError,
)
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.read.plan.snapshot import open_snapshot
from pyspark_theflash.replication.apply import applier
from pyspark_theflash.replication.source.file import FileSource
from pyspark_theflash.replication.source.prewrite import DELETE_ROW
from pyspark_theflash.replication.writer import Writer
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.storage.engine.api import Engine
from pyspark_theflash.storage.store.folder import read_identity
from pyspark_theflash.tidb.codec.key import RawKey
from pyspark_theflash.tidb.schema.file import FileSchema
from pyspark_theflash.tidb.schema.history import SchemaHistory
from tests.support.binlog_writer import (
    commit,
    frames,
    prewrite,
    prewrite_value,
    split_frames,
    transaction,
)
from tests.support.progress import read_progress
from tests.support.workloads import Answer, check_answers, workload

BANK = workload("bank")
FRAMES = split_frames(gzip.decompress(BANK.binlog.read_bytes()))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    registry.create(tmp_path / "store", registry.MAGIC, LocalFileSystem())
    return tmp_path / "store"


@contextmanager
def opened(store: Path) -> Iterator[Engine]:
    """The store's engine, as one process of the writer has it."""
    fs = LocalFileSystem()
    engine = registry.open_engine(store, read_identity(store, fs), fs, SystemClock())
    try:
        yield engine
    finally:
        engine.close()


def run(
    store: Path, frames: list[bytes], until_ts: TimeStamp | None = None, *, base: bool = True
) -> Writer:
    """One run of the writer, from opening the store to closing it."""
    source = store.parent / "source.bin"
    source.write_bytes(b"".join(frames))
    with opened(store) as engine:
        writer = Writer(engine, FileSchema(BANK.schema))
        if base and BANK.base:
            writer.load_base(BANK.base)
        writer.run_once(FileSource(source), until_ts=until_ts)
        return writer


def answers(until_ts: TimeStamp) -> list[Answer]:
    """TiDB's answers up to `until_ts`."""
    return [answer for answer in BANK.answers() if answer.snapshot_ts <= until_ts]


def check_all(store: Path) -> None:
    """Every fourth answer of the workload, the last among them, is the store's.

    `test_truth.py` compares all.
    """
    assert check_answers(store, list(BANK.answers())[::-4][::-1]) == 39


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 20))]
)
def test_a_stream_cut_anywhere_and_rewound_is_the_same_stream(seed: int, store: Path) -> None:
    """Some frames come twice, too, and at last all of them again."""
    rng = random.Random(seed)
    at = 0
    while at < len(FRAMES):
        end = min(len(FRAMES), at + rng.randrange(1, len(FRAMES) // 3))
        piece = FRAMES[max(0, at - rng.randrange(2000)) : end]
        writer = run(store, [f for f in piece for _ in range(1 + (rng.random() < 0.02))])
        check_answers(store, answers(writer.resolved_ts)[-10:])
        at = end
    run(store, [], BANK.end_ts)
    assert run(store, FRAMES, BANK.end_ts).report.transactions == 0
    check_all(store)


def test_a_publication_is_bounded_by_what_its_columns_take(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of many NULLs are much wider as columns."""
    monkeypatch.setattr(applier, "COLUMN_BYTES", 1 << 16)
    report = run(store, FRAMES, BANK.end_ts).report
    assert report.publications > 5
    assert report.row_bytes < applier.BATCH_BYTES
    check_all(store)


def test_a_limit_in_the_middle_is_where_reading_ends(store: Path) -> None:
    points = sorted({a.snapshot_ts for a in BANK.answers()})
    middle = points[len(points) // 2]
    assert run(store, FRAMES, middle).resolved_ts == middle
    assert check_answers(store, answers(middle)) == (len(points) // 2 + 1) * 5
    with pytest.raises(NotCaughtUpError), open_snapshot(store, TimeStamp(middle + 1)):
        pass
    # Later transactions are pending in the store: the rest needs no second delivery.
    run(store, [], BANK.end_ts)
    check_all(store)


def test_input_that_is_not_complete_is_applied_as_far_as_it_is(store: Path) -> None:
    half = len(FRAMES) // 2
    with pytest.raises(UnmatchedPrewriteError):
        run(store, FRAMES[:half], BANK.end_ts)
    progress = read_progress(store)
    assert progress is not None
    assert check_answers(store, answers(progress.resolved_ts)) > 50
    run(store, FRAMES[half:], BANK.end_ts)
    check_all(store)


def test_another_content_under_an_applied_transaction_raises(store: Path) -> None:
    run(store, FRAMES, BANK.end_ts)
    prewrites = [e for e in FileSource(BANK.binlog).entities() if e.payload]
    first, other = prewrites[0], next(p for p in prewrites if p.payload != prewrites[0].payload)
    forged = frames([prewrite(first.start_ts, other.payload)])
    with pytest.raises(TransactionConflictError, match="different content"):
        run(store, [forged])
    start_ts = BANK.end_ts - 20
    late = frames([prewrite(start_ts, other.payload), commit(start_ts, start_ts + 10)])
    with pytest.raises(TransactionConflictError, match="late"):
        run(store, [late])
    check_all(store)


def test_what_cannot_be_decoded_is_never_passed_over(store: Path) -> None:
    """A transaction on an unknown table, stored by one run and resumed by the next."""
    middle = sorted({a.snapshot_ts for a in BANK.answers()})[10]
    start_ts = BANK.end_ts - 20
    unknown = prewrite_value(0, {999: [(DELETE_ROW, b"\0")]})
    run(store, [*FRAMES, frames(transaction(start_ts, start_ts + 10, unknown))], middle)
    for _ in range(2):
        with pytest.raises(SchemaOutdatedError, match="table with id 999"):
            run(store, FRAMES[:10], BANK.end_ts)
    progress = read_progress(store)
    assert progress is not None
    assert progress.resolved_ts < start_ts + 10
    assert check_answers(store, answers(progress.resolved_ts)) >= 55


def test_a_base_is_loaded_once_and_first(store: Path, tmp_path: Path) -> None:
    assert BANK.base is not None
    schema = FileSchema(BANK.schema)
    with opened(store) as engine:
        assert Writer(engine, schema).load_base(BANK.base) == 5 * 246
    with opened(store) as engine:
        assert Writer(engine, schema).load_base(BANK.base) == 0
    with open_snapshot(store, schema.read().start_ts) as snapshot:
        assert snapshot.digest("bank.acc_u").hexdigest() == "9f320100363f00215793eee18638ada4"
    changed = tmp_path / "base"
    changed.mkdir()
    for file in BANK.base.iterdir():
        content = file.read_bytes()
        (changed / file.name).write_bytes(content.replace(b"9f320100363f", b"000000000000"))
    with opened(store) as engine, pytest.raises(SchemaConflictError):
        Writer(engine, schema).load_base(changed)


def test_a_base_cannot_come_after_the_stream(store: Path) -> None:
    source = FRAMES[:40]
    run(store, source, base=False)
    with pytest.raises(OptionError, match="base"):
        run(store, source, base=True)


def test_a_reader_keeps_its_answer_while_the_writer_goes_on(store: Path) -> None:
    """Folding replaces the files under an open snapshot; its read latch keeps them."""
    step = len(FRAMES) // 24
    run(store, FRAMES[: 2 * step])
    with open_snapshot(store) as snapshot:
        plan = snapshot.plan("bank.acc_int")
        before = snapshot.digest("bank.acc_int").hexdigest()
        for at in range(2, 24):
            run(store, FRAMES[at * step : (at + 1) * step])
        assert snapshot.digest("bank.acc_int").hexdigest() == before
        assert len(plan.tasks) == 1
    run(store, FRAMES, BANK.end_ts)
    check_all(store)


class GrowingSchema:
    """A schema file whose history ends at the requested timestamp, as in a live cluster."""

    def __init__(self, path: Path) -> None:
        self._whole = FileSchema(path).read()

    def read(self, after: SchemaHistory | None, at_least: TimeStamp | None) -> SchemaHistory:
        whole = self._whole
        end_ts = max(at_least or whole.start_ts, after.end_ts if after else whole.start_ts)
        versions = [v for v in whole.versions if v.ts <= end_ts]
        return SchemaHistory(whole.start_ts, end_ts, whole.until(end_ts), versions)

    def outcome(self, primary: RawKey, start_ts: TimeStamp) -> None:
        """Return None: there is no TiKV."""

    def has_written(self, key: RawKey, start_ts: TimeStamp) -> bool | None:
        return None

    def had_row(self, key: RawKey, ts: TimeStamp) -> bool | None:
        return None


def test_a_schema_that_is_read_as_it_is_needed(store: Path) -> None:
    ddl = workload("ddl")
    with opened(store) as engine:
        Writer(engine, GrowingSchema(ddl.schema)).run_once(
            FileSource(ddl.binlog), until_ts=ddl.end_ts
        )
    assert check_answers(store, list(ddl.answers())[::5]) == 62


class FlakySchema(GrowingSchema):
    """One whose source is away every other time, until it is `steady`."""

    calls, steady = 0, False

    def read(self, after: SchemaHistory | None, at_least: TimeStamp | None) -> SchemaHistory:
        self.calls += 1
        if after is not None and self.calls % 2 and not self.steady:
            raise ServiceUnavailableError("tidb", "away")
        return super().read(after, at_least)


def test_a_poll_that_fails_is_repeated_without_loss(store: Path, tmp_path: Path) -> None:
    ddl = workload("ddl")
    frames = split_frames(gzip.decompress(ddl.binlog.read_bytes()))
    growing, failed = tmp_path / "binlog", 0
    growing.touch()
    schema = FlakySchema(ddl.schema)
    with opened(store) as engine:
        writer = Writer(engine, schema)
        for at in range(0, 4500, 1500):
            with growing.open("ab") as file:
                file.write(b"".join(frames[at : at + 1500]))
            try:
                writer.poll(FileSource(growing))
            except ServiceUnavailableError:
                failed += 1
        schema.steady = True
        writer.poll(FileSource(growing))
    assert failed
    assert check_answers(store, [a for a in ddl.answers() if a.snapshot_ts <= writer.resolved_ts])
