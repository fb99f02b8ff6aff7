"""Tests of a store whose disk fails, or whose writer dies, at any step of a small history.

Afterwards the store has the history up to some step, as a whole: at or after the last one that was
acknowledged, at most one after it. The repeated rest of the history leads to the same end as that
of an undisturbed writer.
"""

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import cache, partial
from pathlib import Path
from typing import Any, ClassVar, Final, TypeAlias

import pytest

from pyspark_theflash.base.errors import CorruptionError, EngineError, StoreFullError, TheFlashError
from pyspark_theflash.base.failpoint import EVERY_POINT, armed
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.storage.engine.api import Engine, EngineReader, Publication, ScanSpec
from pyspark_theflash.storage.store.folder import DATA_FOLDER, read_identity
from pyspark_theflash.storage.store.manifest import ManifestChange, Record
from pyspark_theflash.testing.case import CLOCK, LOCAL, EngineCase, shows
from pyspark_theflash.testing.faulty_fs import Failure, FaultyFileSystem
from pyspark_theflash.testing.histories import publications, scan_columns
from pyspark_theflash.testing.memory import MemoryEngine
from pyspark_theflash.testing.power import Power
from pyspark_theflash.testing.subject import TABLES

HISTORY: Final = tuple(publications(random.Random(7), rounds=3, keys=4))
DEAD: Final = 9
"""Exit status of a writer that has died as planned."""
_TIMESTAMPS: Final = tuple(TimeStamp(ts) for ts in (150, 350))
State: TypeAlias = Sequence[Any]


def publish(engine: Engine, publication: Publication) -> None:
    """Publish, then compact what is worth it."""
    engine.publish(publication)
    compact(engine)


def compact(engine: Engine) -> None:
    """Compact what is worth it."""
    for table in TABLES:
        engine.compact(table, scan_columns())


def _purge(engine: Engine) -> None:
    """Remove the rows of a table and change a record, in one commit."""
    note = Record("note", "round", str(len(HISTORY)).encode())
    engine.purge_range(TABLES[0], None, None, scan_columns(), ManifestChange([note]))


STEPS: Final[Sequence[Callable[[Engine], None]]] = (
    *(partial(lambda publication, engine: publish(engine, publication), each) for each in HISTORY),
    _purge,
)
"""The history: publications, then a purge."""


def state(engine: EngineReader) -> State:
    """Return the records and all rows at some timestamps."""
    view = engine.read(["note", "round"])
    rows = [
        sorted(
            repr(row)
            for region in engine.plan(view, table)
            for batch in engine.scan(region, ScanSpec(scan_columns(), ts, with_handle=True))
            for row in batch.to_pylist()
        )
        for table in TABLES
        for ts in _TIMESTAMPS
    ]
    return [dict(view.of_kind("note")), dict(view.of_kind("round")), rows]


@cache
def states() -> Sequence[State]:
    """Return the state of the engine in memory before the first step and after each."""
    memory = MemoryEngine()
    result = [state(memory)]
    for step in STEPS:
        step(memory)
        result.append(state(memory))
    return result


def steps_done(engine: EngineReader) -> int:
    """Return the number of steps whose result an engine has."""
    last = engine.read(["note"]).of_kind("note").get("round")
    return 0 if last is None else int(last) + 1


class DyingFileSystem(FaultyFileSystem):
    """A file system that counts calls and fail points, and ends the process at one of them."""

    def __init__(self, die_at: int | None = None) -> None:
        super().__init__(Failure.IO_ERROR)
        self._die_at, self.count = die_at, 0

    def step(self, name: str) -> None:
        """Count a call, which may be the last."""
        self.reach()
        super().step(name)

    def reach(self) -> None:
        """Count a call or fail point, before it takes effect."""
        if self.count == self._die_at:
            os._exit(DEAD)
        self.count += 1


def run_until_death(
    engine_name: str, store: Path, die_at: int | None, acknowledge: Callable[[], object]
) -> int:
    """Run the rest of the history; return the number of calls and fail points."""
    fs = DyingFileSystem(die_at)
    identity = read_identity(store, LOCAL)
    assert identity.engine == engine_name
    with (
        armed(EVERY_POINT, fs.reach),
        closing(registry.open_engine(store, identity, fs, CLOCK)) as engine,
    ):
        for step in STEPS[steps_done(engine) :]:
            step(engine)
            acknowledge()
    return fs.count


class FailureTests(EngineCase):
    """Tests of an engine with a store in a folder.

    Attributes:
        calls: The number of calls that fail, one in each run; None for each call of the history.
        deaths: The number of calls at which a writer dies.
        cut_every: The number of syncs between two power cuts.
        flips: The number of bits that are flipped in each file.
    """

    calls: ClassVar[int | None] = 5
    deaths: ClassVar[int | None] = 3
    cut_every: ClassVar[int] = 15
    flips: ClassVar[int] = 20

    def data_files(self, store: Path) -> Sequence[Path]:
        """Return the files of the engine, without those of the manifest."""
        return sorted(path for path in (store / DATA_FOLDER).rglob("*") if path.is_file())

    def check_remains(self, store: Path, engine: Engine) -> None:
        """Check that nothing is left of what was not committed; for engines to override."""

    def assert_recovers(self, store: Path, acknowledged: int) -> None:
        """The store opens in the state after a whole step, and can continue."""
        with closing(self.open_engine(store)) as engine:
            count = steps_done(engine)
            assert acknowledged <= count <= acknowledged + 1
            assert state(engine) == states()[count]
            self.check_remains(store, engine)
            for step in STEPS[count:]:
                step(engine)
            assert state(engine) == states()[-1]
            self.check_remains(store, engine)

    @shows("P4", "P5", "P6", "P10")
    @pytest.mark.parametrize("failure", Failure, ids=lambda failure: failure.name)
    def test_every_call_fails_once(self, failure: Failure, tmp_path: Path) -> None:
        """Each call of the file system in turn, or some of them."""
        self.create(tmp_path / "whole")
        fs = FaultyFileSystem(Failure.IO_ERROR)
        with closing(self.open_engine(tmp_path / "whole", fs)) as engine:
            for step in STEPS:
                step(engine)
            assert state(engine) == states()[-1]
        cases = [number for number, call in enumerate(fs.calls) if call in failure.calls]
        assert cases
        for number in _sample(cases, self.calls):
            store = tmp_path / f"{number}"
            self.create(store)
            self._run_with_failure(store, FaultyFileSystem(failure, number))
            shutil.rmtree(store)

    def _run_with_failure(self, store: Path, fs: FaultyFileSystem) -> None:
        acknowledged = 0
        try:
            engine = self.open_engine(store, fs)
        except TheFlashError:
            self.assert_recovers(store, 0)
            return
        with closing(engine):
            try:
                for step in STEPS:
                    step(engine)
                    acknowledged += 1
            except TheFlashError as error:
                acknowledged = self._go_on(engine, error, fs, acknowledged)
        self.assert_recovers(store, acknowledged)

    @staticmethod
    def _go_on(
        engine: Engine, error: TheFlashError, fs: FaultyFileSystem, acknowledged: int
    ) -> int:
        """Read on, and write on if the disk was full; return the number of acknowledged steps."""
        count = steps_done(engine)
        assert acknowledged <= count <= acknowledged + 1
        assert state(engine) == states()[count]
        expected = StoreFullError if isinstance(error, StoreFullError) else EngineError
        with pytest.raises(expected):
            engine.publish(HISTORY[-1])
        assert state(engine) == states()[count]
        fs.heal()
        if expected is EngineError:
            with pytest.raises(EngineError):
                engine.publish(HISTORY[-1])
            return acknowledged
        for step in STEPS[count:]:
            step(engine)
        return len(STEPS)

    @shows("P4", "P5", "P6", "P7")
    def test_a_writer_dies(self, tmp_path: Path) -> None:
        """A process is killed before any call of the file system, and at any fail point."""
        self.create(tmp_path / "whole")
        count = run_until_death(self.engine, tmp_path / "whole", None, lambda: None)
        for number in _sample(range(count), self.deaths):
            store = tmp_path / f"{number}"
            self.create(store)
            notes = tmp_path / "acknowledged"
            notes.write_bytes(b"")
            arguments = [self.engine, str(store), str(number), str(notes)]
            done = subprocess.run(  # noqa: S603 (this interpreter)
                [sys.executable, "-m", "pyspark_theflash.testing.dying", *arguments],
                capture_output=True,
                text=True,
                timeout=600,
                check=False,
            )
            assert done.returncode == DEAD, done.stderr
            self.assert_recovers(store, notes.stat().st_size)

    @shows("P4", "P5")
    def test_the_power_is_cut(self, tmp_path: Path) -> None:
        """A power cut loses all writes that were not synced."""
        root, acknowledged = tmp_path / "root", 0
        root.mkdir()
        self.create(root / "store")

        def check(left: Path) -> None:
            self.assert_recovers(left / "store", acknowledged)

        power = Power(root, tmp_path / "left", check, self.cut_every)
        with power.watched(), closing(self.open_engine(root / "store")) as engine:
            for publication in HISTORY:
                engine.publish(publication)
                acknowledged += 1
                power.look()
                compact(engine)
        assert power.cuts > len(HISTORY)

    @shows("P9")
    def test_a_flipped_bit(self, tmp_path: Path) -> None:
        """A scan returns the right rows, or an error that names the file."""
        store, rng, detected = tmp_path / "store", random.Random(1), 0
        self.create(store)
        with closing(self.open_engine(store)) as engine:
            for publication in HISTORY:
                publish(engine, publication)
            assert not list(engine.check(engine.read([])))
        files = self.data_files(store)
        assert files
        for path in files:
            whole = path.read_bytes()
            for bit in rng.sample(range(8 * len(whole)), min(self.flips, 8 * len(whole))):
                damaged = bytearray(whole)
                damaged[bit // 8] ^= 1 << bit % 8
                path.write_bytes(damaged)
                detected += self._detects(store, path.name)
            path.write_bytes(whole)
        assert detected

    def _detects(self, store: Path, name: str) -> bool:
        """Check that all rows are returned, or an error that names the file."""
        try:
            with closing(self.open_reader(store)) as reader:
                rows = state(reader)
        except CorruptionError as error:
            message = str(error)
            assert name in message
            return True
        assert rows == states()[len(HISTORY)]
        return False


def _sample(cases: Sequence[int], most: int | None) -> Sequence[int]:
    if most is None or len(cases) <= most:
        return cases
    return random.Random(most).sample(cases, most)
