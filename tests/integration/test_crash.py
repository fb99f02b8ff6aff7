"""The kit's tests of failures, on the engine *magic*, and deaths at its own fail points."""

import os
import resource
from contextlib import closing
from pathlib import Path

import pytest

from pyspark_theflash.base.errors import EngineError, StoreFullError, TheFlashError
from pyspark_theflash.base.failpoint import armed
from pyspark_theflash.base.fs import FileSystem
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.storage.engine.api import Engine, EngineReader, Publication
from pyspark_theflash.storage.engine.magic.compaction import CompactionLimits
from pyspark_theflash.storage.engine.magic.engine import MagicEngine
from pyspark_theflash.storage.engine.magic.file import FILE_KIND, DataFile
from pyspark_theflash.storage.engine.magic.layout import RETIRED_KIND
from pyspark_theflash.storage.store.folder import DATA_FOLDER, read_identity
from pyspark_theflash.storage.store.manifest import Guard
from pyspark_theflash.testing.case import CLOCK, LOCAL
from pyspark_theflash.testing.failures import (
    DEAD,
    HISTORY,
    FailureTests,
    compact,
    publish,
    state,
    states,
    steps_done,
)
from pyspark_theflash.testing.subject import TABLES
from tests.support.victims import Victim

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


@pytest.fixture
def store(tmp_path: Path) -> Path:
    registry.create(tmp_path / "store", registry.MAGIC, LOCAL)
    return tmp_path / "store"


def open_engine(store: Path, fs: FileSystem = LOCAL) -> Engine:
    return MagicEngine(store, fs, CLOCK, limits=EAGER)


class TestEagerMagic(FailureTests):
    """The kit's history; files are compacted after each publication."""

    engine = "magic"

    def open_engine(self, path: Path, fs: FileSystem = LOCAL, guard: Guard | None = None) -> Engine:
        return open_engine(path, fs)

    def check_remains(self, store: Path, engine: Engine) -> None:
        assert files_on_disk(store) == files_in_manifest(engine)


@pytest.mark.slow
class TestEachCallOfMagic(TestEagerMagic):
    calls = None
    deaths = None
    cut_every = 1
    flips = 200


def files_on_disk(store: Path) -> set[str]:
    data = store / DATA_FOLDER
    return {p.relative_to(data).as_posix() for p in data.rglob("*") if p.is_file()}


def files_in_manifest(engine: EngineReader) -> set[str]:
    view = engine.read([FILE_KIND, RETIRED_KIND])
    named = {DataFile.from_json(body).path for body in view.of_kind(FILE_KIND).values()}
    return named | set(view.of_kind(RETIRED_KIND))


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
                assert steps_done(engine) == min(done, 2)
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
        for publication in HISTORY[steps_done(engine) :]:
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
            count = steps_done(r)
            assert state(r) == states()[count]
        assert acknowledged <= count <= acknowledged + 1
        acknowledged = count
    TestEagerMagic().assert_recovers(store, acknowledged)


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
        *records, rows = states()[len(HISTORY)]
        assert state(engine) == [*records, [[]] * len(rows) if is_purged else rows]
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
