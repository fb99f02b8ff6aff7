"""A disk that fails at every call of everything that writes.

What is found afterwards is what one of the operation's commits leaves, nothing in between; reads go
on meanwhile. After a full disk the same engine continues; after any other failure the store is
opened again, and the repeated operation has the same result as an undisturbed one.
"""

import logging
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeAlias

import pytest

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.errors import SnapshotTooOldError, StoreFullError, TheFlashError
from pyspark_theflash.base.failpoint import armed
from pyspark_theflash.base.fs import FileSystem, LocalFileSystem
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.read.plan.snapshot import open_snapshot
from pyspark_theflash.replication.apply.move import MOVE_KIND
from pyspark_theflash.replication.source.file import FileSource
from pyspark_theflash.replication.upkeep.maintenance import Maintenance
from pyspark_theflash.replication.upkeep.work_queue import run_all
from pyspark_theflash.replication.writer import Writer
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.storage.engine.api import Engine
from pyspark_theflash.storage.engine.magic.compaction import CompactionLimits
from pyspark_theflash.storage.engine.magic.engine import MagicEngine
from pyspark_theflash.storage.store.folder import open_manifest, read_identity
from pyspark_theflash.storage.store.progress import PROGRESS_KIND, Progress
from pyspark_theflash.storage.store.scope import TableScope
from pyspark_theflash.storage.store.setting import SETTING_KIND
from pyspark_theflash.testing.faulty_fs import Failure, FaultyFileSystem
from pyspark_theflash.tidb.schema.file import FileSchema
from pyspark_theflash.tidb.schema.lineage import Lineage
from tests.support.binlog_writer import frames
from tests.support.feeds import messages
from tests.support.victims import files_in_manifest, files_on_disk
from tests.support.workloads import Workload, workload

LOCAL, CLOCK = LocalFileSystem(), SystemClock()
EAGER = CompactionLimits(region_rows=200, deltas=2, layer_rows=1, layers=2)
BANK, DDL = workload("bank"), workload("ddl")
BANK_TIMES = sorted({a.snapshot_ts for a in BANK.answers()})[:2]
(MOVE,) = Lineage(FileSchema(DDL.schema).read()).moves
MOVE_TIMES = [TimeStamp(MOVE.ts - 1000), MOVE.ts, TimeStamp(MOVE.ts + (1 << 28))]
PARTITIONED = TableScope((MOVE.after.full_name,))
State: TypeAlias = Mapping[str, object]
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Operation:
    """An operation on the store named by `prepared`, and the timestamps at which it is checked.

    `run` is given the engine, the store, its file system and the folder with the prepared input.
    """

    prepared: str
    times: Sequence[TimeStamp]
    run: Callable[[Engine, Path, FileSystem, Path], object]


def open_engine(
    store: Path, fs: FileSystem = LOCAL, limits: CompactionLimits = EAGER
) -> MagicEngine:
    return MagicEngine(store, fs, CLOCK, limits=limits)


# -- initial stores


def prepare(
    folder: Path, chosen: Workload, *until: TimeStamp, scope: TableScope | None = None
) -> None:
    """A store that has followed a workload up to the first moment; the rest is still to come.

    Next to nothing has been compacted.
    """
    (binlog := folder / "binlog").mkdir(parents=True)
    registry.create(folder / "store", registry.MAGIC, LOCAL)
    written: set[bytes] = set()
    for number, ts in enumerate(until):
        new = [m for m in messages(chosen, ts) if m not in written]
        written.update(new)
        (binlog / f"{number}").write_bytes(frames(new))
        if number == 0:
            with closing(open_engine(folder / "store", limits=CompactionLimits())) as engine:
                if chosen.base:
                    Writer(engine, FileSchema(chosen.schema)).load_base(chosen.base)
                poll(engine, folder, chosen, scope)


def poll(engine: Engine, folder: Path, chosen: Workload, scope: TableScope | None = None) -> None:
    writer = Writer(engine, FileSchema(chosen.schema), scope)
    writer.poll(FileSource(folder / "binlog"))


PREPARED: Mapping[str, Callable[[Path], None]] = {
    "new": lambda folder: prepare(folder, BANK),
    "bank": lambda folder: prepare(folder, BANK, *BANK_TIMES),
    "partitions": lambda folder: prepare(
        folder, DDL, MOVE_TIMES[0], MOVE_TIMES[2], scope=PARTITIONED
    ),
    "moved": lambda folder: prepare(folder, DDL, MOVE_TIMES[2], scope=PARTITIONED),
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """name -> a folder with a store, which is not to be changed, and input."""

    @cache
    def made(name: str) -> Path:
        folder = tmp_path_factory.mktemp(name) / name
        PREPARED[name](folder)
        return folder

    return made


# -- the operations


@contextmanager
def maintenance(engine: Engine, store: Path, fs: FileSystem) -> Iterator[Maintenance]:
    with closing(open_manifest(store, fs)) as manifest:
        yield Maintenance(engine, manifest, CLOCK)


def load_base(engine: Engine, _store: Path, _fs: FileSystem, _folder: Path) -> None:
    assert BANK.base is not None
    Writer(engine, FileSchema(BANK.schema)).load_base(BANK.base)


def follow(engine: Engine, _store: Path, _fs: FileSystem, folder: Path) -> None:
    poll(engine, folder, BANK)


def move(engine: Engine, _store: Path, _fs: FileSystem, folder: Path) -> None:
    poll(engine, folder, DDL)


def compact(engine: Engine, store: Path, fs: FileSystem, _folder: Path) -> None:
    with maintenance(engine, store, fs) as upkeep:
        run_all(upkeep.compacting())


def collect(engine: Engine, store: Path, fs: FileSystem, _folder: Path) -> None:
    with maintenance(engine, store, fs) as upkeep:
        run_all(upkeep.collecting(MOVE_TIMES[2]))


def set_interval(engine: Engine, store: Path, fs: FileSystem, _folder: Path) -> None:
    with maintenance(engine, store, fs) as upkeep:
        upkeep.set_interval(500)


def live_a_day(engine: Engine, store: Path, fs: FileSystem, folder: Path) -> None:
    follow(engine, store, fs, folder)
    with maintenance(engine, store, fs) as upkeep:
        run_all(upkeep.compacting())
        run_all(upkeep.collecting(BANK_TIMES[-1]))


OPERATIONS = {
    "base": Operation("new", [FileSchema(BANK.schema).read().start_ts], load_base),
    "publication": Operation("bank", BANK_TIMES, follow),
    "compaction": Operation("bank", BANK_TIMES[:1], compact),
    "collection": Operation("moved", MOVE_TIMES[1:], collect),
    "move": Operation("partitions", MOVE_TIMES, move),
    "interval": Operation("bank", BANK_TIMES[:1], set_interval),
}


DAY = Operation("bank", BANK_TIMES, live_a_day)


# -- reads of a store


def state(store: Path, times: Sequence[TimeStamp]) -> State:
    with closing(registry.open_reader(store, read_identity(store, LOCAL), LOCAL, CLOCK)) as reader:
        view = reader.read([PROGRESS_KIND, SETTING_KIND, MOVE_KIND])
    progress = Progress.of(view)
    readable = [ts for ts in times if progress and ts <= progress.resolved_ts]
    return {
        "progress": progress,
        "setting": dict(view.of_kind(SETTING_KIND)),
        "moves": list(view.of_kind(MOVE_KIND)),
        "rows": {ts: digests(store, ts) for ts in readable},
    }


def digests(store: Path, ts: TimeStamp) -> Mapping[str, str] | None:
    """Return the digests of all tables; None if the timestamp has been collected."""
    try:
        with open_snapshot(store, ts) as snapshot:
            return {
                t.full_name: snapshot.digest(t.full_name).hexdigest() for t in snapshot.tables()
            }
    except SnapshotTooOldError:
        return None


def undisturbed(operation: Operation, folder: Path, copy: Path) -> tuple[list[State], list[str]]:
    """The states that the operation's commits leave, and the calls it makes."""
    store = Path(shutil.copytree(folder / "store", copy))
    states = [state(store, operation.times)]
    fs = FaultyFileSystem(Failure.IO_ERROR)

    def look() -> None:
        states.append(state(store, operation.times))

    with closing(open_engine(store, fs)) as engine, armed("manifest.after_commit", look):
        operation.run(engine, store, fs, folder)
    return states, fs.calls


def disturbed(
    operation: Operation, folder: Path, store: Path, fs: FaultyFileSystem, states: Sequence[State]
) -> None:
    """Run the operation on a failing disk, and continue afterwards."""
    shutil.copytree(folder / "store", store)
    try:
        engine = open_engine(store, fs)
    except TheFlashError:
        pass
    else:
        with closing(engine):
            try:
                operation.run(engine, store, fs, folder)
            except TheFlashError as error:
                assert state(store, operation.times) in states
                fs.heal()
                if isinstance(error, StoreFullError):
                    operation.run(engine, store, fs, folder)
                    assert state(store, operation.times) == states[-1]
    assert state(store, operation.times) in states
    with closing(open_engine(store)) as engine:
        operation.run(engine, store, LOCAL, folder)
        assert list(engine.check(engine.read([]))) == []
    assert state(store, operation.times) == states[-1]
    assert files_on_disk(store) == files_in_manifest(store)
    shutil.rmtree(store)


@pytest.mark.parametrize(
    ("name", "most"),
    [
        *((name, 3) for name in ("base", "publication", "compaction", "interval")),
        *(pytest.param(name, None, marks=pytest.mark.slow) for name in OPERATIONS),
    ],
)
def test_every_call_of_an_operation_fails(
    name: str, most: int | None, prepared: Callable[[str], Path], tmp_path: Path
) -> None:
    """Each call in turn, or some; once, and from then on."""
    operation = OPERATIONS[name]
    folder = prepared(operation.prepared)
    states, calls = undisturbed(operation, folder, tmp_path / "undisturbed")
    cases = [case for fail_at in range(len(calls)) for case in ways_to_fail(calls, fail_at)]
    chosen = cases if most is None else random.Random(most).sample(cases, most)
    for failure, fail_at, lasting in chosen:
        fs = FaultyFileSystem(failure, fail_at, lasting=lasting)
        disturbed(operation, folder, tmp_path / "store", fs, states)
        assert fs.failed
    _log.info("%s: %d calls, %d states, %d cases", name, len(calls), len(states), len(chosen))


@pytest.mark.slow
def test_every_call_of_a_day_fails(prepared: Callable[[str], Path], tmp_path: Path) -> None:
    """A longer workload: each call in turn, in one of the ways in which it may."""
    folder, rng, figures = prepared(DAY.prepared), random.Random(1), Counter[str]()
    states, calls = undisturbed(DAY, folder, tmp_path / "undisturbed")
    assert len(calls) > 200
    for fail_at in range(len(calls)):
        failure, _, lasting = rng.choice(ways_to_fail(calls, fail_at))
        fs = FaultyFileSystem(failure, fail_at, lasting=lasting)
        disturbed(DAY, folder, tmp_path / "store", fs, states)
        assert fs.failed
        figures[failure.name] += 1
    _log.info("a day: %d calls, %d states, %s", len(calls), len(states), dict(figures))


def ways_to_fail(calls: Sequence[str], fail_at: int) -> list[tuple[Failure, int, bool]]:
    """(failure, call, whether it lasts) of those failures that a call can have."""
    failures = [failure for failure in Failure if calls[fail_at] in failure.calls]
    return [(failure, fail_at, lasting) for failure in failures for lasting in (True, False)]
