"""Regions that are moved and copied between partitions: invisible to every scan, one step each.

Random histories, in which regions move among three folders while they are divided, united and
compacted, are compared with `memory` at every timestamp. Processes are killed at each durable step.
"""

import os
import random
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from pyspark_theflash.base.errors import (
    CorruptionError,
    EngineError,
    OptionError,
    RegionNotFoundError,
    StoreFullError,
    StoreMismatchError,
    UnsupportedError,
)
from pyspark_theflash.base.failpoint import armed
from pyspark_theflash.base.types import RegionID, TimeStamp
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.storage.engine.api import ScanSpec
from pyspark_theflash.storage.engine.magic.engine import MagicEngine
from pyspark_theflash.storage.store.folder import StoreIdentity, open_manifest
from pyspark_theflash.storage.store.latch.lease import LeaseTable
from pyspark_theflash.storage.store.partition import PARTITION_KIND
from pyspark_theflash.testing.faulty_fs import Failure, FaultyFileSystem
from pyspark_theflash.testing.histories import publications, scan_columns
from pyspark_theflash.testing.memory import MemoryEngine
from tests.support.regions import (
    CLOCK,
    KEYS,
    LIMITS,
    LOCAL,
    TABLE,
    TABLES,
    change_regions,
    open_engine,
    regions,
    rows,
)
from tests.support.victims import Victim

STAMPS = range(100, 900, 50)
MOVE_STEPS = (
    "magic.before_file",
    "magic.after_file",
    "magic.before_move_commit",
    "magic.before_commit",
    "manifest.before_commit",
    "manifest.after_commit",
    "magic.after_move_commit",
    "magic.before_unlink",
)
ADD_STEPS = (
    "partition.before_link",
    "partition.after_link",
    "partition.before_commit",
    "manifest.before_commit",
    "manifest.after_commit",
    "partition.after_commit",
)


@pytest.fixture
def disks(tmp_path: Path) -> list[Path]:
    folders = [tmp_path / "disk1", tmp_path / "disk2"]
    for folder in folders:
        folder.mkdir()
    return folders


@pytest.fixture
def engine(store: Path, disks: list[Path]) -> Iterator[MagicEngine]:
    with closing(open_engine(store)) as opened:
        fill(opened)
        for disk in disks:
            opened.add_partition(disk)
        yield opened


def fill(engine: MagicEngine) -> None:
    """Some history, in files of regions and in deltas."""
    first, *rest = publications(random.Random(5), rounds=4, keys=KEYS)
    engine.publish(first)
    engine.compact(TABLE, scan_columns(), everything=True)
    for publication in rest:
        engine.publish(publication)


def answers(engine: MagicEngine) -> dict[int, Counter[Any]]:
    return {ts: rows(engine, TABLE, ts) for ts in STAMPS}


def files(disk: Path) -> set[str]:
    return {path.name for path in disk.rglob("*.parquet")}


def sound(engine: MagicEngine) -> bool:
    return not list(engine.check(engine.read([])))


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize(
    "seed", [1, 2, *(pytest.param(n, marks=pytest.mark.slow) for n in range(3, 20))]
)
def test_a_history_with_regions_that_move(
    store: Path, disks: list[Path], seed: int, binary: bool
) -> None:
    rng, memory, oldest, newest = random.Random(seed), MemoryEngine(), 0, 100
    engine = open_engine(store)
    for disk in disks:
        engine.add_partition(disk)
    for publication in publications(rng, rounds=8, keys=KEYS, binary=binary):
        memory.publish(publication)
        engine.publish(publication)
        for _ in range(rng.randrange(6)):
            if rng.random() < 0.4:
                change_regions(engine, rng, binary=binary)
            elif listed := regions(engine, table := rng.choice(TABLES)):
                region, partition = rng.choice(listed), rng.randrange(3)
                act = engine.move if rng.random() < 0.5 else engine.copy
                act(table, region.region_id, partition)
                again = act(table, region.region_id, partition)
                assert again.files_written == again.files_replaced == 0
        if rng.random() < 0.3:
            engine.close()
            engine = open_engine(store)
        if rng.random() < 0.2:
            oldest = max(oldest, rng.randrange(100, newest + 1))
            for each in (memory, engine):
                for table in TABLES:
                    each.compact(table, scan_columns(), safe_point=TimeStamp(oldest))
        newest = max(
            (int(v.batch.column(1).to_numpy().max()) for v in publication.versions), default=newest
        )
        for ts in rng.sample(range(oldest, newest + 10), min(8, newest + 10 - oldest)):
            for table in TABLES:
                assert rows(engine, table, ts) == rows(memory, table, ts)
    assert sound(engine)
    engine.close()


def test_a_region_that_moves_leaves_its_partition(
    engine: MagicEngine, store: Path, disks: list[Path]
) -> None:
    (region,), before = regions(engine), answers(engine)
    own = region.files
    assert region.partitions == (0,)
    engine.move(TABLE, region.region_id, 1)
    (moved,) = regions(engine)
    assert (moved.region_id, moved.partitions) == (region.region_id, (1,))
    assert len(files(disks[0])) == own > 0
    assert not files(disks[0]) & files(store / "data" / str(TABLE))
    assert answers(engine) == before
    # New files of the region are written to its partition, until it is moved back.
    engine.compact(TABLE, scan_columns(), everything=True)
    assert files(disks[0])
    assert not files(store / "data" / str(TABLE))
    (moved,) = regions(engine)
    engine.move(TABLE, moved.region_id, 0)
    assert not files(disks[0])
    assert answers(engine) == before
    assert sound(engine)


def test_a_copy_outlives_what_happens_to_the_other(
    engine: MagicEngine, store: Path, disks: list[Path]
) -> None:
    (region,), before = regions(engine), answers(engine)
    engine.move(TABLE, region.region_id, 1)
    engine.copy(TABLE, region.region_id, 2)
    assert files(disks[0]) == files(disks[1])
    assert sound(engine)
    for path in disks[0].rglob("*.parquet"):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    with closing(open_engine_reader(store)) as reader:
        assert answers(reader) == before
        damage = [str(error) for error in reader.check(reader.read([]))]
        assert damage
        assert all("@1/" in text for text in damage)
    disks[0].rename(disks[0].with_name("unplugged"))
    with closing(open_engine_reader(store)) as reader:
        assert answers(reader) == before
        assert any("is its disk mounted" in str(e) for e in reader.check(reader.read([])))
    # After a move to its present partition, the region does not need the other disk.
    engine.move(TABLE, region.region_id, 2)
    assert answers(engine) == before
    assert sound(engine) is False  # partition 1 is missing still
    engine.remove_partition(1)
    assert sound(engine)


def open_engine_reader(store: Path) -> Any:
    """A reader that has read nothing yet."""
    identity = StoreIdentity("", registry.MAGIC)
    return registry.open_reader(store, identity, LOCAL, CLOCK)


def test_without_a_copy_a_missing_disk_is_said(
    engine: MagicEngine, store: Path, disks: list[Path]
) -> None:
    (region,) = regions(engine)
    engine.move(TABLE, region.region_id, 1)
    other = regions(engine, TABLES[1])
    disks[0].rename(disks[0].with_name("unplugged"))
    with closing(open_engine_reader(store)) as reader:
        with pytest.raises(EngineError, match="partition 1 is missing: is its disk mounted"):
            rows(reader, TABLE, 800)
        assert rows(reader, TABLES[1], 800)
    with pytest.raises(OptionError, match="partition 1 is missing"):
        engine.move(TABLES[1], other[0].region_id, 1)
    # An empty mount point, or another disk on it, is not the partition either.
    disks[0].mkdir()
    (disks[0] / "theflash-partition").write_text('[1, "another"]')
    with closing(open_engine_reader(store)) as reader, pytest.raises(CorruptionError):
        rows(reader, TABLE, 800)
    with pytest.raises(OptionError, match="is of another one"):
        engine.move(TABLES[1], other[0].region_id, 1)


def test_what_is_damaged_everywhere_is_not_moved(engine: MagicEngine, store: Path) -> None:
    (region,) = regions(engine)
    for path in (store / "data" / str(TABLE)).glob("*.parquet"):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    with pytest.raises(CorruptionError):
        engine.move(TABLE, region.region_id, 1)
    # The engine stays usable.
    engine.move(TABLES[1], regions(engine, TABLES[1])[0].region_id, 1)


def test_a_full_partition_changes_nothing(store: Path, disks: list[Path]) -> None:
    fs = FaultyFileSystem(Failure.FULL)
    with closing(MagicEngine(store, fs, CLOCK, limits=LIMITS)) as engine:
        fill(engine)
        engine.add_partition(disks[0])
        (region,), before = regions(engine), answers(engine)
        fs.fail_from_now()
        with pytest.raises(StoreFullError):
            engine.move(TABLE, region.region_id, 1)
        fs.heal()
        assert (answers(engine), files(disks[0])) == (before, set())
        engine.move(TABLE, region.region_id, 1)
        assert answers(engine) == before
        assert sound(engine)


def test_a_scan_that_was_planned_goes_on(engine: MagicEngine, store: Path) -> None:
    (region,), before = regions(engine), rows(engine, TABLE, 800)
    planned = list(engine.plan(engine.read([]), TABLE))
    with closing(open_manifest(store, LOCAL)) as manifest:
        leases = LeaseTable(manifest, CLOCK)
        lease = leases.take(TimeStamp(800), 60_000)
        # There and back while the scan holds the old files, whose paths are named again.
        for partition in (1, 0, 2, 0, 1):
            engine.move(TABLE, region.region_id, partition)
        streams = [
            engine.scan(s, ScanSpec(scan_columns(), TimeStamp(800), with_handle=True))
            for s in planned
        ]
        scanned = Counter(tuple(r.values()) for s in streams for b in s for r in b.to_pylist())
        assert scanned == before == rows(engine, TABLE, 800)
        with pytest.raises(OptionError, match="still has"):
            engine.remove_partition(2)
        leases.release(lease)
    engine.remove_partition(2)
    assert rows(engine, TABLE, 800) == before
    assert sound(engine)


def test_requests_that_make_no_sense_are_refused(
    engine: MagicEngine, store: Path, disks: list[Path], tmp_path: Path
) -> None:
    (region,) = regions(engine)
    for act in (engine.move, engine.copy):
        with pytest.raises(OptionError, match="has no partition 9"):
            act(TABLE, region.region_id, 9)
        with pytest.raises(RegionNotFoundError):
            act(TABLE, RegionID(99), 1)
    full = tmp_path / "full"
    full.mkdir()
    (full / "file").touch()
    for folder in (full, tmp_path / "missing", Path("relative"), store / "data"):
        with pytest.raises(OptionError):
            engine.add_partition(folder)
    assert engine.add_partition(disks[0]) == 1
    engine.move(TABLE, region.region_id, 1)
    for partition in (0, 1, 9):
        with pytest.raises(OptionError):
            engine.remove_partition(partition)
    engine.split(TABLE, region.region_id, 0, scan_columns())
    lower, upper = regions(engine)
    assert lower.partitions == upper.partitions == (1,)
    with pytest.raises(RegionNotFoundError):
        engine.move(TABLE, region.region_id, 2)
    engine.move(TABLE, upper.region_id, 2)
    with pytest.raises(OptionError, match="is in another partition"):
        engine.merge(TABLE, lower.region_id, upper.region_id, scan_columns())
    engine.compact(TABLE, scan_columns(), everything=True)
    assert [r.partitions for r in regions(engine)] == [(1,), (2,)]


def test_a_copied_store_does_not_share_its_partitions(
    store: Path, disks: list[Path], tmp_path: Path
) -> None:
    with closing(open_engine(store)) as engine:
        fill(engine)
        engine.add_partition(disks[0])
        engine.move(TABLE, regions(engine)[0].region_id, 1)
        before = answers(engine)
    second = tmp_path / "second"
    shutil.copytree(store, second, symlinks=True)
    with pytest.raises(StoreMismatchError, match="of which this one is a copy"):
        open_engine(second)
    # Where the store itself was moved, its new folder owns them.
    store.rename(tmp_path / "third")
    with closing(open_engine(tmp_path / "third")) as engine:
        assert answers(engine) == before


def test_a_partition_with_a_new_table_is_in_use(tmp_path: Path) -> None:
    """A table that was created after the partition was added."""
    store, disk = tmp_path / "store", tmp_path / "disk"
    disk.mkdir()
    registry.create(store, "magic", LOCAL)
    with closing(open_engine(store)) as engine:
        assert engine.add_partition(disk) == 1
        fill(engine)
        engine.flush(TABLE, scan_columns())
        for region in regions(engine, TABLE):
            engine.move(TABLE, region.region_id, 1)
        with pytest.raises(OptionError, match="still has regions"):
            engine.remove_partition(1)
        assert sound(engine)


def test_memory_has_no_partitions(tmp_path: Path) -> None:
    memory = MemoryEngine()
    for act in (
        lambda: memory.move(TABLE, RegionID(1), 1),
        lambda: memory.copy(TABLE, RegionID(1), 1),
        lambda: memory.add_partition(tmp_path),
        lambda: memory.remove_partition(1),
    ):
        with pytest.raises(UnsupportedError):
            act()
    assert not memory.partitions(memory.read([]))


def act_and_die(store: Path, how: str, target: int | Path, region_id: int, step: str) -> None:
    """A victim's target."""
    with closing(open_engine(store)) as engine, armed(step, lambda: os._exit(9)):
        act(engine, how, target, region_id)


def act(engine: MagicEngine, how: str, target: int | Path, region_id: int) -> None:
    if isinstance(target, Path):
        engine.add_partition(target)
    elif how == "move":
        engine.move(TABLE, RegionID(region_id), target)
    else:
        engine.copy(TABLE, RegionID(region_id), target)


@pytest.mark.parametrize("how", ["move", "copy"])
@pytest.mark.parametrize("step", MOVE_STEPS)
def test_killed_at_every_step(store: Path, disks: list[Path], how: str, step: str) -> None:
    """The old partitions or the new ones, the same rows; done again, it is the new ones."""
    with closing(open_engine(store)) as engine:
        fill(engine)
        for disk in disks:
            engine.add_partition(disk)
        (region,) = regions(engine)
        engine.move(TABLE, region.region_id, 1)
        before = answers(engine)
    victim = Victim(act_and_die, store, how, 2, int(region.region_id), step)
    # Nothing is removed by a copy.
    dies = not (how == "copy" and step == "magic.before_unlink")
    assert victim.exit_code() == (9 if dies else 0)
    wanted = (2,) if how == "move" else (1, 2)
    with closing(open_engine(store)) as engine:
        (changed,) = regions(engine)
        assert changed.partitions in ((1,), wanted)
        held = [len(files(disk)) for disk in disks]
        assert [n > 0 for n in held] == [n in changed.partitions for n in (1, 2)]
        assert answers(engine) == before
        assert sound(engine)
        act(engine, how, 2, int(region.region_id))
        (changed,) = regions(engine)
        assert changed.partitions == wanted
        assert answers(engine) == before
        assert sound(engine)


@pytest.mark.parametrize("step", ADD_STEPS)
def test_killed_while_a_partition_is_added(store: Path, disks: list[Path], step: str) -> None:
    with closing(open_engine(store)) as engine:
        fill(engine)
        before = answers(engine)
    victim = Victim(act_and_die, store, "add", disks[0], 0, step)
    assert victim.exit_code() == 9
    with closing(open_engine(store)) as engine:
        assert len(engine.read([]).of_kind(PARTITION_KIND)) in (0, 1)
        assert sound(engine)
        # Another folder may be given in its place, too.
        others = [engine.add_partition(disk) for disk in reversed(disks)]
        assert sorted(others) == [1, 2]
        engine.move(TABLE, regions(engine)[0].region_id, 2)
        assert answers(engine) == before
        assert sound(engine)
