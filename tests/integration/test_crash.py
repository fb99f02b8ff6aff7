"""A store whose disk fails, or whose writer dies, at every point of a small history.

What is found afterwards is the history up to some publication, whole: at or after the last that was
acknowledged, at most one after it. Going on from there gives what an undisturbed writer gives.
"""

import logging
import os
import random
import resource
import shutil
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.errors import EngineError, StoreFullError, TheFlashError
from pyspark_theflash.base.failpoint import armed
from pyspark_theflash.base.fs import FileSystem, LocalFileSystem
from pyspark_theflash.base.types import PhysicalTableID, TimeStamp
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.storage.engine.api import Engine, EngineReader, Publication, ScanSpec
from pyspark_theflash.storage.engine.magic.compaction import CompactionLimits
from pyspark_theflash.storage.engine.magic.engine import MagicEngine
from pyspark_theflash.storage.engine.magic.file import FILE_KIND, DataFile
from pyspark_theflash.storage.engine.magic.layout import RETIRED_KIND
from pyspark_theflash.storage.store.folder import DATA_FOLDER, read_identity
from tests.support.faulty_fs import Failure, FaultyFileSystem
from tests.support.histories import publications, scan_columns
from tests.support.memory_engine import MemoryEngine
from tests.support.victims import Victim

TABLES = (PhysicalTableID(1), PhysicalTableID(2))
CLOCK, LOCAL = SystemClock(), LocalFileSystem()
HISTORY = tuple(publications(random.Random(7), rounds=3, keys=4))
TIMESTAMPS = tuple(TimeStamp(ts) for ts in (150, 350))
FAIL_POINTS = (
    "magic.before_file",
    "magic.after_file",
    "magic.before_commit",
    "manifest.before_commit",
    "manifest.after_commit",
    "magic.before_compaction_commit",
    "magic.after_compaction_commit",
    "magic.before_unlink",
)
EAGER = CompactionLimits(region_rows=8, direct_rows=3, deltas=2, layer_rows=1, layers=2)
DEAD = 9
State = Sequence[Any]
_log = logging.getLogger(__name__)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    registry.create(tmp_path / "store", registry.MAGIC, LOCAL)
    return tmp_path / "store"


def open_engine(store: Path, fs: FileSystem = LOCAL) -> Engine:
    return MagicEngine(store, fs, CLOCK, limits=EAGER)


def publish(engine: Engine, publication: Publication) -> None:
    """One step of the history: a publication, and compactions where they pay."""
    engine.publish(publication)
    compact(engine)


def compact(engine: Engine) -> None:
    for table in TABLES:
        engine.compact(table, scan_columns())


def state(engine: EngineReader) -> State:
    """All that can be seen: records, and every row at some timestamps."""
    view = engine.read(["note", "round"])
    rows = [
        sorted(
            repr(row)
            for region in engine.plan(view, table)
            for batch in engine.scan(region, ScanSpec(scan_columns(), ts, with_handle=True))
            for row in batch.to_pylist()
        )
        for table in TABLES
        for ts in TIMESTAMPS
    ]
    return [dict(view.of_kind("note")), dict(view.of_kind("round")), rows]


def states() -> Iterator[State]:
    """Yield the state of memory before the first publication and after each."""
    memory = MemoryEngine()
    yield state(memory)
    for publication in HISTORY:
        memory.publish(publication)
        yield state(memory)


STATES = tuple(states())


def published(engine: EngineReader) -> int:
    """Return the number of publications of the history in an engine."""
    last = engine.read(["note"]).of_kind("note").get("round")
    return 0 if last is None else int(last) + 1


def assert_recovers(store: Path, acknowledged: int) -> None:
    """The store opens in the state of a publication, has no stray files, and can continue."""
    with closing(open_engine(store)) as engine:
        count = published(engine)
        assert acknowledged <= count <= acknowledged + 1
        assert state(engine) == STATES[count]
        assert files_on_disk(store) == files_in_manifest(engine)
        for publication in HISTORY[count:]:
            publish(engine, publication)
        assert state(engine) == STATES[-1]
        assert files_on_disk(store) == files_in_manifest(engine)


def files_on_disk(store: Path) -> set[str]:
    data = store / DATA_FOLDER
    return {p.relative_to(data).as_posix() for p in data.rglob("*") if p.is_file()}


def files_in_manifest(engine: EngineReader) -> set[str]:
    view = engine.read([FILE_KIND, RETIRED_KIND])
    named = {DataFile.from_json(body).path for body in view.of_kind(FILE_KIND).values()}
    return named | set(view.of_kind(RETIRED_KIND))


def calls_of_the_history(store: Path) -> list[str]:
    fs = FaultyFileSystem(Failure.IO_ERROR)
    with closing(open_engine(store, fs)) as engine:
        for publication in HISTORY:
            publish(engine, publication)
        assert state(engine) == STATES[-1]
    return fs.calls


@pytest.mark.parametrize("most", [5, pytest.param(None, marks=pytest.mark.slow)])
@pytest.mark.parametrize("failure", Failure, ids=lambda failure: failure.name)
def test_every_call_fails_once(failure: Failure, most: int | None, tmp_path: Path) -> None:
    """Each call in turn, or some of them."""
    registry.create(tmp_path / "whole", registry.MAGIC, LOCAL)
    calls = calls_of_the_history(tmp_path / "whole")
    cases = [number for number, call in enumerate(calls) if call in failure.calls]
    chosen = cases if most is None else random.Random(most).sample(cases, most)
    for number in chosen:
        store = tmp_path / f"{number}"
        registry.create(store, registry.MAGIC, LOCAL)
        run_with_failure(store, FaultyFileSystem(failure, number))
        shutil.rmtree(store)
    _log.info("%s: %d calls, %d of them failed", failure.name, len(calls), len(chosen))


def run_with_failure(store: Path, fs: FaultyFileSystem) -> None:
    acknowledged = 0
    try:
        engine = open_engine(store, fs)
    except TheFlashError:
        assert_recovers(store, 0)
        return
    with closing(engine):
        try:
            for publication in HISTORY:
                publish(engine, publication)
                acknowledged += 1
        except TheFlashError as error:
            acknowledged = go_on(engine, error, fs, acknowledged)
    assert_recovers(store, acknowledged)


def go_on(engine: Engine, error: TheFlashError, fs: FaultyFileSystem, acknowledged: int) -> int:
    """Reads go on. A full disk can be tried again, at once and with room; any other is the end.

    Returns how many publications are acknowledged now.
    """
    count = published(engine)
    assert acknowledged <= count <= acknowledged + 1
    assert state(engine) == STATES[count]
    expected = StoreFullError if isinstance(error, StoreFullError) else EngineError
    with pytest.raises(expected):
        engine.publish(HISTORY[-1])
    assert state(engine) == STATES[count]
    fs.heal()
    if expected is EngineError:
        with pytest.raises(EngineError, match="rejects writes after an error"):
            engine.publish(HISTORY[-1])
        return acknowledged
    for publication in HISTORY[count:]:
        publish(engine, publication)
    return len(HISTORY)


def test_sqlites_own_writes_fail(store: Path) -> None:
    """The log cannot grow, which SQLite reports as a full disk or an I/O error."""
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    seen = set()
    done = 0
    for room in range(0, 60_000, 3_000):
        with closing(open_engine(store)) as engine:
            publication = Publication([], HISTORY[min(done, 1)].change)
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
            try:
                engine.publish(publication)
                done += 1
            except TheFlashError as error:
                seen.add(type(error))
                resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
                assert published(engine) == min(done, 2)
                if isinstance(error, StoreFullError):
                    engine.publish(publication)
                    done += 1
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
            if done == 2:
                break
    assert seen <= {StoreFullError, EngineError}
    assert seen


def die() -> None:
    os._exit(DEAD)


def write_until_death(store: Path, point: str, left: int, acknowledged: Path) -> None:
    """Run in a separate process: the history, dying when `point` is reached `left` times.

    Each acknowledgement adds a byte to the file `acknowledged`.
    """

    def count_down() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            die()

    with (
        open(acknowledged, "wb", buffering=0) as notes,
        armed(point, count_down),
        closing(open_engine(store)) as engine,
    ):
        for publication in HISTORY[published(engine) :]:
            engine.publish(publication)
            notes.write(b".")
            compact(engine)


@pytest.mark.parametrize("point", FAIL_POINTS)
def test_the_writer_dies(store: Path, point: str) -> None:
    """Several times in one store, each time at another publication."""
    acknowledged, notes = 0, store.parent / "acknowledged"
    for hits in (1, 2 if "compaction" in point or "unlink" in point else 4):
        assert Victim(write_until_death, store, point, hits, notes).exit_code() == DEAD
        acknowledged += notes.stat().st_size
        with closing(registry.open_reader(store, read_identity(store, LOCAL), LOCAL, CLOCK)) as r:
            count = published(r)
            assert state(r) == STATES[count]
        assert acknowledged <= count <= acknowledged + 1
        acknowledged = count
    assert_recovers(store, acknowledged)


def purge_until_death(store: Path, point: str) -> None:
    """Run in a separate process: purge both tables, dying when `point` is reached."""
    with closing(open_engine(store)) as engine, armed(point, die):
        engine.purge(TABLES)


@pytest.mark.parametrize(
    "point", ["magic.before_purge_commit", "manifest.before_commit", "magic.after_purge_commit"]
)
def test_a_purge_dies(store: Path, point: str) -> None:
    """All tables exist or none, and later writers continue."""
    with closing(open_engine(store)) as engine:
        for publication in HISTORY:
            publish(engine, publication)
    assert Victim(purge_until_death, store, point).exit_code() == DEAD
    with closing(open_engine(store)) as engine:
        is_purged = point == "magic.after_purge_commit"
        rows = [[]] * len(STATES[-1][-1]) if is_purged else STATES[-1][-1]
        assert state(engine) == [*STATES[-1][:-1], rows]
        assert files_on_disk(store) == files_in_manifest(engine)
        assert bool(files_on_disk(store)) != is_purged
        engine.publish(HISTORY[0])


def test_everything_is_synced_before_the_commit(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: set[int] = set()
    checked = {store / DATA_FOLDER}
    commits = 0
    fsync = os.fsync

    def record(fd: int) -> None:
        synced.add(os.fstat(fd).st_ino)
        fsync(fd)

    def check() -> None:
        """Check that files since the last commit and their folders are synced."""
        nonlocal commits
        commits += 1
        new = {*(store / DATA_FOLDER).rglob("*"), store / "ack.new"} - checked
        folders = {p.parent for p in new} - {store}
        assert [p for p in sorted(new | folders) if p.stat().st_ino not in synced] == []
        checked.update(new - {store / "ack.new"})
        synced.clear()

    monkeypatch.setattr(os, "fsync", record)
    with armed("manifest.before_commit", check), closing(open_engine(store)) as engine:
        assert engine._manifest._db.execute("PRAGMA synchronous").fetchone() == (2,)  # type: ignore[attr-defined]
        for publication in HISTORY:
            engine.publish(publication)
            assert synced == {store.stat().st_ino}
            compact(engine)
    assert commits > len(HISTORY)


def test_a_folder_whose_maker_died_is_synced(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The entry of a data folder that is already there may never have reached the disk."""
    (store / DATA_FOLDER / "1").mkdir()
    synced = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.fstat(fd).st_ino))
    with closing(open_engine(store)) as engine:
        engine.publish(HISTORY[0])
    assert (store / DATA_FOLDER).stat().st_ino in synced
