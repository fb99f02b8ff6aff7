"""Compactions and collections in a thread beside a writer that continues to publish."""

import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.errors import CorruptionError, StoreFullError
from pyspark_theflash.base.failpoint import armed
from pyspark_theflash.base.fs import FileSystem, LocalFileSystem
from pyspark_theflash.base.types import MAX_TS, PhysicalTableID, TimeStamp
from pyspark_theflash.read.plan.snapshot import open_snapshot
from pyspark_theflash.replication import writer as writer_module
from pyspark_theflash.replication.source.file import FileSource
from pyspark_theflash.replication.upkeep.maintenance import Maintenance
from pyspark_theflash.replication.writer import Writer
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.storage.engine.api import Publication
from pyspark_theflash.storage.engine.magic.compaction import CompactionLimits
from pyspark_theflash.storage.engine.magic.encode import FileEncoder
from pyspark_theflash.storage.engine.magic.engine import MagicEngine
from pyspark_theflash.storage.store.command import CollectOrder, Mailbox, Verb
from pyspark_theflash.storage.store.folder import open_manifest, read_identity
from pyspark_theflash.storage.store.manifest import ManifestChange
from pyspark_theflash.tidb.schema.file import FileSchema
from tests.support.binlog_writer import write_file
from tests.support.feeds import messages
from tests.support.progress import read_progress
from tests.support.victims import Victim, files_in_manifest, files_on_disk, run_doomed_writer
from tests.support.workloads import check_answers, workload

FS, CLOCK = LocalFileSystem(), SystemClock()
BANK = workload("bank")
TIMES = sorted({answer.snapshot_ts for answer in BANK.answers()})[:7]
MIDDLE, UNTIL_TS = TIMES[3], TIMES[-1]
ANSWERS = [answer for answer in BANK.answers() if answer.snapshot_ts <= UNTIL_TS]
EAGER = CompactionLimits(region_rows=2000, deltas=1, layer_rows=1, direct_rows=1 << 20)
"""Limits at which every publication is merged."""
THREAD = "compaction"


class Beside:
    """A writer's engine and upkeep, whose compactions run in a thread."""

    def __init__(self, engine: MagicEngine, upkeep: Maintenance, source: Path) -> None:
        self.engine, self.upkeep, self._source = engine, upkeep, source

    def write(self, until_ts: TimeStamp = UNTIL_TS) -> None:
        """Publish the bank's transactions up to a timestamp, in many publications."""
        writer = Writer(self.engine, FileSchema(BANK.schema), compact=self.upkeep.touched)
        assert BANK.base is not None
        writer.load_base(BANK.base)
        writer.run_once(FileSource(self._source), until_ts=until_ts)

    def check(self) -> None:
        """All that is promised, of the store as it is on disk."""
        assert list(self.engine.check(self.engine.read([]))) == []


@contextmanager
def beside(store: Path, fs: FileSystem = FS, limits: CompactionLimits = EAGER) -> Iterator[Beside]:
    engine = MagicEngine(store, fs, CLOCK, limits=limits)
    with (
        closing(engine),
        closing(open_manifest(store, FS)) as manifest,
        ThreadPoolExecutor(1, thread_name_prefix=THREAD) as thread,
    ):
        upkeep = Maintenance(engine, manifest, CLOCK, thread=thread)
        yield Beside(engine, upkeep, source_of(store))


def source_of(store: Path) -> Path:
    """The binlog beside a store."""
    return store.with_name("binlog")


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with half of the bank's transactions, not compacted, and the binlog with all."""
    made = tmp_path_factory.mktemp("half") / "store"
    registry.create(made, registry.MAGIC, FS)
    write_file(source_of(made), messages(BANK, UNTIL_TS))
    with beside(made, limits=CompactionLimits()) as one:
        one.write(MIDDLE)
    return made


@pytest.fixture
def store(half: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, whose writers publish often."""
    monkeypatch.setattr(writer_module, "GATHER_BYTES", 200_000)
    return Path(shutil.copytree(half.parent, tmp_path / "here")) / "store"


def in_thread(action: Callable[[], None]) -> Callable[[], None]:
    """The action, where compactions call it."""

    def act() -> None:
        if threading.current_thread().name.startswith(THREAD):
            action()

    return act


@pytest.mark.parametrize("verb", [Verb.COMPACT, Verb.GC])
def test_a_writer_publishes_while_a_table_is_rewritten(store: Path, verb: Verb) -> None:
    """The piece ends only after everything has been published."""
    begun, published = threading.Event(), threading.Event()

    def stand_still() -> None:
        begun.set()
        assert published.wait(600)

    with beside(store) as one, closing(open_manifest(store, FS)) as manifest:
        asker = Mailbox(manifest, CLOCK)
        order = CollectOrder(MIDDLE).to_text() if verb is Verb.GC else None
        with armed("magic.after_file", in_thread(stand_still)):
            command = asker.ask(verb, order, 600_000)
            one.upkeep.poll()
            assert begun.wait(600)
            one.write()
            progress = read_progress(store)
            assert progress is not None
            assert progress.resolved_ts == UNTIL_TS
            one.upkeep.poll()
            assert asker.answer(command) is None
            published.set()
        while (answer := asker.answer(command)) is None:
            one.upkeep.poll()
            CLOCK.sleep_ms(5)
        one.upkeep.drain()
        one.check()
        assert one.upkeep.discarded == 0
    assert "compacted" in answer
    oldest_ts = progress.oldest_ts if verb is Verb.COMPACT else MIDDLE
    assert check_answers(store, [a for a in ANSWERS if a.snapshot_ts >= oldest_ts]) > 10


def test_a_table_that_fails_leaves_the_others_done(store: Path) -> None:
    failed: list[PhysicalTableID] = []
    with beside(store) as one:
        begin = one.engine.begin

        def failing(physical_id: PhysicalTableID, *rest: object, **named: object) -> object:
            piece = begin(physical_id, *rest, **named)  # type: ignore[arg-type]

            def fail() -> None:
                raise CorruptionError("data/1.parquet", 7, "fails its checksum")

            if piece is None or (failed and failed[0] != physical_id):
                return piece
            failed.append(physical_id)
            return fail

        one.engine.begin = failing  # type: ignore[method-assign, assignment]
        tables = one.engine.tables(one.engine.read([]))
        one.upkeep.touched(tables)
        with pytest.raises(CorruptionError, match="fails its checksum"):
            one.upkeep.drain()
        one.upkeep.drain()
        view = one.engine.read([])
        kinds = {i: {f.kind for f in one.engine.files(view, i)} for i in tables}
        assert [i for i, file_kinds in kinds.items() if "delta" in file_kinds] == failed
        one.engine.begin = begin  # type: ignore[method-assign]
        one.write()
        one.upkeep.drain()
        one.check()
    check_answers(store, ANSWERS)


@pytest.mark.parametrize(
    "point",
    [
        "magic.before_file",
        "magic.before_compaction_commit",
        "manifest.after_commit",
        *(
            pytest.param(point, marks=pytest.mark.slow)
            for point in (
                "magic.after_file",
                "manifest.before_commit",
                "magic.after_compaction_commit",
            )
        ),
    ],
)
def test_a_writer_killed_in_a_compaction_loses_nothing(store: Path, point: str) -> None:
    """A process that is killed (-9) by its compaction's thread, beside which it publishes."""
    arguments = [str(store), "--source", f"file:{source_of(store)}", "--once"]
    arguments += ["--schema", f"file:{BANK.schema}", "--until-ts", str(UNTIL_TS)]
    arguments += ["--base", str(BANK.base)]
    notes = store.with_name("acknowledged")
    notes.touch()
    doomed = Victim(run_doomed_writer, arguments, notes, 150_000, f"compaction:{point}", 3)
    assert doomed.exit_code() == -signal.SIGKILL
    with closing(registry.open_reader(store, read_identity(store, FS), FS, CLOCK)) as reader:
        view = reader.read([])
        assert view.generation >= max(map(int, notes.read_text().split()), default=0)
        assert list(reader.check(view)) == []
    progress = read_progress(store)
    assert progress is not None
    reached = [a for a in ANSWERS if a.snapshot_ts <= progress.resolved_ts]
    assert check_answers(store, reached) == len(reached)
    with beside(store) as one:
        assert files_on_disk(store) == files_in_manifest(store)
        one.write()
        one.upkeep.drain()
        one.check()
    assert check_answers(store, ANSWERS) == len(ANSWERS)


class Walked(LocalFileSystem):
    """A file system that calls `beside` before it lists files."""

    beside: Callable[[], None] = staticmethod(lambda: None)

    def walk(self, path: Path) -> Iterator[Path]:
        self.beside()
        return super().walk(path)


def test_a_publication_that_fails_leaves_a_merges_files(store: Path) -> None:
    """Its files are swept, while a merge that is running writes a file."""
    begun, swept, written = threading.Event(), threading.Event(), threading.Event()
    fs = Walked()

    def finish(*arguments: Any, **named: Any) -> Any:
        begun.set()
        assert swept.wait(600)
        return finished(*arguments, **named)

    def in_the_midst() -> None:
        swept.set()
        assert written.wait(600)

    with beside(store, fs) as one:
        tables = one.engine.tables(one.engine.read([]))
        columns = one.upkeep.columns_now(tables[0])
        finished = FileEncoder.finish
        with (
            patch.object(FileEncoder, "finish", finish),
            armed("magic.after_file", in_thread(written.set)),
            ThreadPoolExecutor(1, thread_name_prefix=THREAD) as thread,
        ):
            piece = one.engine.begin(tables[0], columns, everything_to=MAX_TS)
            assert piece is not None
            merged = thread.submit(piece)
            assert begun.wait(600)
            fs.beside = in_the_midst
            with armed("magic.before_commit", full), pytest.raises(StoreFullError):
                one.engine.publish(Publication((), ManifestChange()))
            assert merged.result(600).files_written
        one.check()
    assert check_answers(store, [a for a in ANSWERS if a.snapshot_ts <= MIDDLE]) > 10


def full() -> None:
    raise StoreFullError("store")


def test_a_writer_waits_for_compactions_that_fall_behind(store: Path) -> None:
    """However long a merge takes, there are no more small files of a table than a scan can bear."""
    limits, waits, most = replace(EAGER, most_deltas=2), threading.Event(), 0

    with beside(store, limits=limits) as one:
        tables = one.engine.tables(one.engine.read([]))

        def count() -> None:
            nonlocal most
            view = one.engine.read([])
            kinds = [[f.kind for f in one.engine.files(view, i)].count("delta") for i in tables]
            most = max(most, *kinds)

        def hold() -> None:
            assert waits.wait(600)

        def wait() -> None:
            waits.set()
            goes_on()

        goes_on = one.upkeep._queue.wait
        one.upkeep._queue.wait = wait  # type: ignore[method-assign]
        with (
            armed("magic.after_file", in_thread(hold)),
            armed("manifest.after_commit", count),
        ):
            try:
                one.write()
            finally:
                waits.set()
            one.upkeep.drain()
        one.check()
    assert 2 * limits.most_deltas - 1 <= most <= 2 * limits.most_deltas
    assert check_answers(store, ANSWERS) == len(ANSWERS)


def test_digests_at_every_publication_beside_compactions(store: Path) -> None:
    """A reader of the store sees the same before, amid and after merges."""
    wanted = {a.snapshot_ts: a for a in ANSWERS}
    seen = 0

    def look() -> None:
        nonlocal seen
        progress = read_progress(store)
        assert progress is not None
        times = [ts for ts in wanted if ts <= progress.resolved_ts]
        answer = wanted[times[seen % len(times)]]
        with open_snapshot(store, TimeStamp(answer.snapshot_ts)) as snapshot:
            digest = snapshot.digest(answer.table)
        assert (digest.rows, digest.hexdigest()) == (answer.rows, answer.checksum)
        seen += 1

    with beside(store) as one:
        with armed("magic.before_compaction_commit", look):
            one.write()
            one.upkeep.drain()
        one.check()
    assert seen > 3
