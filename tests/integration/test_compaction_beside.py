"""Compactions and collections in a thread beside a writer that goes on publishing."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from pyspark_theflash.binlog.file import FileSource
from pyspark_theflash.clock import SystemClock
from pyspark_theflash.engine import registry
from pyspark_theflash.engine.api import Engine
from pyspark_theflash.engine.magic.compaction import Limits
from pyspark_theflash.engine.magic.engine import MagicEngine
from pyspark_theflash.errors import CorruptionError, EngineError
from pyspark_theflash.failpoint import armed
from pyspark_theflash.fs import LocalFileSystem
from pyspark_theflash.planner.snapshot import open_snapshot, read_progress
from pyspark_theflash.replication import writer as writer_module
from pyspark_theflash.replication.maintenance import Maintenance
from pyspark_theflash.replication.writer import Writer
from pyspark_theflash.schema.file import FileSchema
from pyspark_theflash.store.command import CollectOrder, Mailbox, Verb
from pyspark_theflash.store.folder import open_manifest
from pyspark_theflash.types import PhysicalTableID, TimeStamp
from tests.integration.test_replication import BANK, FRAMES, run
from tests.support.victims import files_known, files_on_disk
from tests.support.workloads import check_answers

FS, CLOCK = LocalFileSystem(), SystemClock()
ANSWERS = list(BANK.answers())
MIDDLE = sorted({answer.snapshot_ts for answer in ANSWERS})[len(ANSWERS) // 10]
EAGER = Limits(region_rows=2000, deltas=1, layer_rows=1, direct_rows=1 << 20)
"""Whatever is published is merged."""
THREAD = "compaction"


class Beside:
    """A writer's engine and upkeep, whose compactions run in a thread."""

    def __init__(self, engine: Engine, upkeep: Maintenance) -> None:
        self.engine, self.upkeep = engine, upkeep

    def write(self) -> None:
        """Publish all of the bank, in many publications."""
        writer = Writer(self.engine, FileSchema(BANK.schema), compact=self.upkeep.touched)
        writer.run_once(FileSource(BANK.binlog), until_ts=BANK.end_ts)

    def check(self) -> None:
        """All that is promised, of the store as it is on disk."""
        assert list(self.engine.check(self.engine.read([]))) == []


@contextmanager
def beside(store: Path) -> Iterator[Beside]:
    engine = MagicEngine(store, FS, CLOCK, limits=EAGER)
    with (
        closing(engine),
        closing(open_manifest(store, FS)) as manifest,
        ThreadPoolExecutor(1, thread_name_prefix=THREAD) as thread,
    ):
        yield Beside(engine, Maintenance(engine, manifest, CLOCK, thread=thread))


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Half of the bank, written in small batches."""
    monkeypatch.setattr(writer_module, "GATHER_BYTES", 300_000)
    made = tmp_path / "store"
    registry.create(made, registry.MAGIC, FS)
    run(made, FRAMES[: len(FRAMES) // 2])
    return made


def in_thread(action: Callable[[], None]) -> Callable[[], None]:
    """The action, where compactions call it."""

    def act() -> None:
        if threading.current_thread().name.startswith(THREAD):
            action()

    return act


@pytest.mark.parametrize("verb", [Verb.COMPACT, Verb.GC])
def test_a_writer_publishes_while_a_table_is_rewritten(store: Path, verb: Verb) -> None:
    """A piece that does not end by itself: everything is published before it does."""
    begun, published = threading.Event(), threading.Event()

    def stand_still() -> None:
        begun.set()
        assert published.wait(60)

    with beside(store) as one, closing(open_manifest(store, FS)) as manifest:
        asker = Mailbox(manifest, CLOCK)
        order = CollectOrder(MIDDLE).to_text() if verb is Verb.GC else None
        with armed("magic.after_file", in_thread(stand_still)):
            command = asker.ask(verb, order, 600_000)
            one.upkeep.poll()
            assert begun.wait(60)
            one.write()
            progress = read_progress(store)
            assert progress is not None
            assert progress.resolved_ts == BANK.end_ts
            one.upkeep.poll()
            assert asker.answer(command) is None
            published.set()
        while (told := asker.answer(command)) is None:
            one.upkeep.poll()
            CLOCK.sleep_ms(5)
        one.upkeep.drain()
        one.check()
        assert one.upkeep.discarded == 0
    assert "compacted" in told
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
        assert [i for i, found in kinds.items() if "delta" in found] == failed
        one.engine.begin = begin  # type: ignore[method-assign]
        one.write()
        one.upkeep.drain()
        one.check()
    check_answers(store, ANSWERS)


@pytest.mark.parametrize(
    "point",
    [
        "magic.before_file",
        "magic.after_file",
        "magic.before_commit",
        "magic.before_compaction_commit",
        "manifest.before_commit",
        "manifest.after_commit",
        "magic.after_compaction_commit",
    ],
)
def test_a_writer_that_dies_in_a_compaction_loses_nothing(store: Path, point: str) -> None:
    """At each step of a merge beside which more was published: what is on disk then is right."""
    calls = 0

    def die() -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt

    def live() -> None:
        with beside(store) as one:
            one.write()
            one.upkeep.drain()

    with pytest.raises((KeyboardInterrupt, EngineError)), armed(point, in_thread(die)):
        live()
    assert calls == 3
    progress = read_progress(store)
    assert progress is not None
    reached = [a for a in ANSWERS if a.snapshot_ts <= progress.resolved_ts]
    assert check_answers(store, reached) == len(reached)
    with beside(store) as one:
        assert files_on_disk(store) == files_known(store)
        one.check()
        one.write()
        one.upkeep.drain()
        one.check()
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
