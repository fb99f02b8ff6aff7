"""Regions of a captured history that are moved, copied and purged, by the command line.

Processes are killed (-9) at each durable step of the commands; every digest stays what it was.
"""

import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.errors import PurgedRangeError
from pyspark_theflash.base.failpoint import armed
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.base.types import PhysicalTableID, TimeStamp
from pyspark_theflash.cli.main import main
from pyspark_theflash.read.plan.snapshot import open_snapshot
from pyspark_theflash.replication.upkeep.maintenance import Maintenance
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.storage.engine.api import RegionStats
from pyspark_theflash.storage.store.catalog import SCHEMA_KIND, schema_history
from pyspark_theflash.storage.store.command import PurgeOrder
from pyspark_theflash.storage.store.folder import open_manifest, read_identity
from pyspark_theflash.tidb.schema.lineage import Lineage
from tests.integration.test_maintenance import apply_until
from tests.support.victims import Victim
from tests.support.workloads import check_answers, workload

FS, CLOCK = LocalFileSystem(), SystemClock()
BANK = workload("bank")
ANSWERS = list(BANK.answers())[-6:]
STEPS = (
    "magic.before_file",
    "magic.after_file",
    "magic.before_{}_commit",
    "manifest.before_commit",
    "manifest.after_commit",
    "magic.after_{}_commit",
    "magic.before_unlink",
)


@pytest.fixture
def store(workload_copy: Callable[[str, Path], Path], tmp_path: Path) -> Path:
    """A copy of the bank, with a second partition, in which each account table has two regions."""
    path = workload_copy("bank", tmp_path / "store")
    (tmp_path / "disk").mkdir()
    assert main(["compact", str(path)]) == 0
    assert main(["partitions", str(path), "--add", str(tmp_path / "disk")]) == 0
    return path


def regions(store: Path, physical_id: int) -> list[RegionStats]:
    with closing(registry.open_reader(store, read_identity(store, FS), FS, CLOCK)) as reader:
        return list(reader.regions(reader.read([]), PhysicalTableID(physical_id)))


def table_id(store: Path) -> int:
    with open_snapshot(store) as snapshot:
        return int(snapshot.table("bank.acc_int").physical_ids[0])


def command_and_die(step: str, words: list[str]) -> None:
    """A victim's target."""
    with armed(step, lambda: os._exit(9)):
        main(words)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("verb", ["move", pytest.param("copy", marks=pytest.mark.slow)])
def test_killed_while_a_region_moves(store: Path, verb: str, step: str) -> None:
    physical_id = table_id(store)
    (region,) = regions(store, physical_id)
    words = [verb, str(store), str(physical_id), str(region.region_id), "1"]
    dies = verb == "move" or step != "magic.before_unlink"
    assert Victim(command_and_die, step.format("move"), words).exit_code() == (9 if dies else 0)
    for _ in range(2):
        assert check_answers(store, ANSWERS) == len(ANSWERS)
        assert main(["fsck", str(store)]) == 0
        assert main(words) == 0
    (after,) = regions(store, physical_id)
    assert after.region_id == region.region_id
    assert after.partitions == ((1,) if verb == "move" else (0, 1))
    assert check_answers(store, ANSWERS) == len(ANSWERS)


@pytest.mark.parametrize("step", STEPS)
def test_killed_while_a_region_is_purged(store: Path, step: str) -> None:
    """Other tables, and the rows of the table's other region, are unchanged."""
    physical_id, name = table_id(store), "bank.acc_int"
    (region,) = regions(store, physical_id)
    assert main(["split", str(store), str(physical_id), str(region.region_id), "40"]) == 0
    lower, _ = regions(store, physical_id)
    with open_snapshot(store) as snapshot:
        rows = [r for b in snapshot.scan(name, where="id >= 40") for r in b.to_pylist()]
        all_rows = snapshot.digest(name)
    words = ["purge", str(store), str(physical_id), str(lower.region_id)]
    # The region's files are on one side of the cut, so nothing is rewritten.
    dies = step not in ("magic.before_file", "magic.after_file")
    assert Victim(command_and_die, step.format("purge"), words).exit_code() == (9 if dies else 0)
    others = [answer for answer in ANSWERS if answer.table != name]
    is_done = step in STEPS[4:] or not dies
    with open_snapshot(store) as snapshot:
        if is_done:
            with pytest.raises(PurgedRangeError):
                snapshot.digest(name)
        else:
            assert snapshot.digest(name).hexdigest() == all_rows.hexdigest()
    for _ in range(2):
        assert check_answers(store, others) == len(others) > 0
        assert main(["fsck", str(store)]) == 0
        assert main(words) == 0
        with open_snapshot(store) as snapshot:
            remaining = [r for b in snapshot.scan(name, where="id >= 40") for r in b.to_pylist()]
            assert sorted(remaining, key=repr) == sorted(rows, key=repr)
            with pytest.raises(PurgedRangeError):
                snapshot.digest(name)
    assert main(["digest", str(store), name]) == 4


def test_a_gap_goes_with_rows_that_a_reorganisation_moves(tmp_path: Path) -> None:
    """It is unknown which of the new partitions miss rows, so all of them are rejected."""
    ddl, store, whole = workload("ddl"), tmp_path / "store", tmp_path / "whole"
    for path in (store, whole):
        registry.create(path, registry.MAGIC, FS)
    apply_until(ddl, whole, ddl.end_ts)
    with closing(registry.open_reader(whole, read_identity(whole, FS), FS, CLOCK)) as reader:
        view = reader.read([SCHEMA_KIND])
        history = schema_history(view)
        assert history is not None
        held = {i for m in Lineage(history).moves for i in m.from_ids if reader.regions(view, i)}
        move = next(m for m in Lineage(history).moves if m.from_ids & held)
    apply_until(ddl, store, TimeStamp(move.ts - 1))
    engine = registry.open_engine(store, read_identity(store, FS), FS, CLOCK)
    with closing(engine), closing(open_manifest(store, FS)) as manifest:
        physical_id = min(move.from_ids & held)
        region = engine.regions(engine.read([]), physical_id)[0]
        order = PurgeOrder(physical_id, region.region_id)
        assert "purged 0" not in Maintenance(engine, manifest, CLOCK).purge(order)
    apply_until(ddl, store, ddl.end_ts)
    name = move.after.full_name
    with open_snapshot(store, move.ts) as snapshot, pytest.raises(PurgedRangeError):
        snapshot.plan(name)
    others = [a for a in ddl.answers() if a.table != name]
    assert check_answers(store, others) > 20
