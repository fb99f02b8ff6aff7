"""Regions that operators divide and unite: invisible to every scan, one step each, once.

Random histories with divisions, unions, flushes, compactions and collections in between are
compared with `memory`, which has no regions, at every timestamp that can still be read.
"""

import os
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from pyspark_theflash.base.errors import OptionError, RegionNotFoundError, UnsupportedError
from pyspark_theflash.base.failpoint import armed
from pyspark_theflash.base.types import RegionID, TimeStamp
from pyspark_theflash.storage.engine.api import ScanSpec
from pyspark_theflash.storage.engine.magic.compaction import CompactionLimits
from pyspark_theflash.storage.engine.magic.engine import MagicEngine
from pyspark_theflash.storage.store.folder import open_manifest
from pyspark_theflash.storage.store.latch.lease import LeaseTable
from pyspark_theflash.testing.histories import publications, scan_columns
from pyspark_theflash.testing.memory import MemoryEngine
from tests.support.regions import (
    CLOCK,
    KEYS,
    LOCAL,
    TABLE,
    TABLES,
    change_regions,
    open_engine,
    regions,
    rows,
)
from tests.support.victims import Victim

STEPS = (
    "magic.before_flush_commit",
    "magic.after_flush_commit",
    "magic.before_file",
    "magic.after_file",
    "magic.before_{}_commit",
    "manifest.before_commit",
    "manifest.after_commit",
    "magic.after_{}_commit",
    "magic.before_unlink",
)


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize(
    "seed", [1, 2, *(pytest.param(n, marks=pytest.mark.slow) for n in range(3, 20))]
)
def test_a_history_with_regions_that_change(store: Path, seed: int, binary: bool) -> None:
    rng, memory = random.Random(seed), MemoryEngine()
    oldest = 0
    with closing(open_engine(store)) as engine:
        for publication in publications(rng, rounds=8, keys=KEYS, binary=binary):
            memory.publish(publication)
            engine.publish(publication)
            for _ in range(rng.randrange(4)):
                change_regions(engine, rng, binary=binary)
            newest = max(
                (int(v.batch.column(1).to_numpy().max()) for v in publication.versions), default=100
            )
            if rng.random() < 0.2:
                oldest = max(oldest, rng.randrange(100, newest + 1))
                for each in (memory, engine):
                    for table in TABLES:
                        each.compact(table, scan_columns(), safe_point=TimeStamp(oldest))
            for ts in rng.sample(range(oldest, newest + 10), min(8, newest + 10 - oldest)):
                for table in TABLES:
                    assert rows(engine, table, ts) == rows(memory, table, ts)
        assert not list(engine.check(engine.read([])))


@pytest.fixture
def history() -> Any:
    return tuple(publications(random.Random(5), rounds=4, keys=KEYS))


@pytest.fixture
def engine(store: Path, history: Any) -> Iterator[MagicEngine]:
    with closing(open_engine(store)) as opened:
        for publication in history:
            opened.publish(publication)
        yield opened


def test_ids_from_before_are_refused(engine: MagicEngine) -> None:
    (whole,) = regions(engine)
    engine.split(TABLE, whole.region_id, 0, scan_columns())
    lower, upper = regions(engine)
    assert (lower.end, upper.start) == (0, 0)
    for act in (
        lambda: engine.split(TABLE, whole.region_id, 1, scan_columns()),
        lambda: engine.split(TABLE, RegionID(99), 1, scan_columns()),
        lambda: engine.merge(TABLE, whole.region_id, upper.region_id, scan_columns()),
        lambda: engine.merge(TABLE, lower.region_id, RegionID(99), scan_columns()),
    ):
        with pytest.raises(RegionNotFoundError):
            act()
    for wrong in (
        lambda: engine.split(TABLE, lower.region_id, 0, scan_columns()),
        lambda: engine.split(TABLE, upper.region_id, 0, scan_columns()),
        lambda: engine.merge(TABLE, upper.region_id, lower.region_id, scan_columns()),
        lambda: engine.merge(TABLE, lower.region_id, lower.region_id, scan_columns()),
    ):
        with pytest.raises(OptionError):
            wrong()
    # None of these has stopped the engine.
    engine.merge(TABLE, lower.region_id, upper.region_id, scan_columns())
    assert len(regions(engine)) == 1


def test_what_an_operator_divides_stays_divided(engine: MagicEngine) -> None:
    (whole,) = regions(engine)
    engine.split(TABLE, whole.region_id, 0, scan_columns())
    for _ in range(2):
        engine.compact(TABLE, scan_columns(), everything=True)
        assert 0 in [r.start for r in regions(engine)]
    lower, upper = regions(engine)
    engine.merge(TABLE, lower.region_id, upper.region_id, scan_columns())
    engine.compact(TABLE, scan_columns(), everything=True)
    assert len(regions(engine)) == 1


def test_what_would_be_split_at_once_is_not_merged(store: Path, history: Any) -> None:
    tiny = CompactionLimits(region_rows=6, direct_rows=2, deltas=2, layer_rows=1, layers=2)
    with closing(MagicEngine(store, LOCAL, CLOCK, limits=tiny)) as engine:
        for publication in history:
            engine.publish(publication)
        engine.compact(TABLE, scan_columns(), everything=True)
        pairs = pairwise(regions(engine))
        left, right = max(pairs, key=lambda pair: pair[0].rows + pair[1].rows)
        with pytest.raises(OptionError, match="more than one region can hold"):
            engine.merge(TABLE, left.region_id, right.region_id, scan_columns())


def test_a_scan_that_was_planned_goes_on(engine: MagicEngine, store: Path) -> None:
    before = rows(engine, TABLE, 10_000)
    with closing(open_manifest(store, LOCAL)) as manifest:
        LeaseTable(manifest, CLOCK).take(TimeStamp(10_000), 60_000)
    planned = list(engine.plan(engine.read([]), TABLE))
    (whole,) = regions(engine)
    streams = [
        engine.scan(s, ScanSpec(scan_columns(), TimeStamp(10_000), with_handle=True))
        for s in planned
    ]
    first = [next(stream) for stream in streams]
    engine.split(TABLE, whole.region_id, 0, scan_columns())
    rest = [batch for stream in streams for batch in stream]
    scanned = Counter(tuple(r.values()) for batch in [*first, *rest] for r in batch.to_pylist())
    assert scanned == before == rows(engine, TABLE, 10_000)


def test_memory_has_none() -> None:
    memory = MemoryEngine()
    with pytest.raises(UnsupportedError):
        memory.split(TABLE, RegionID(1), 0, [])
    with pytest.raises(UnsupportedError):
        memory.merge(TABLE, RegionID(1), RegionID(2), [])


def change_and_die(store: Path, how: str, ids: list[int], step: str) -> None:
    """A victim's target."""
    with closing(open_engine(store)) as engine, armed(step, lambda: os._exit(9)):
        act(engine, how, ids)


def act(engine: MagicEngine, how: str, ids: list[int]) -> None:
    region_ids = [RegionID(id) for id in ids]
    if how == "split":
        engine.split(TABLE, region_ids[0], 0, scan_columns())
    else:
        engine.merge(TABLE, region_ids[0], region_ids[1], scan_columns())


@pytest.mark.parametrize("how", ["split", "merge"])
@pytest.mark.parametrize("step", STEPS)
def test_killed_at_every_step(store: Path, history: Any, how: str, step: str) -> None:
    """The old map or the new one, the same rows; done again, it is the new one."""
    with closing(open_engine(store)) as engine:
        for publication in history[:-1]:
            engine.publish(publication)
        if how == "merge":
            engine.split(TABLE, regions(engine)[0].region_id, 0, scan_columns())
        engine.publish(history[-1])
        old = regions(engine)
        before = {ts: rows(engine, TABLE, ts) for ts in range(100, 900, 50)}
    ids = [int(r.region_id) for r in old]
    victim = Victim(change_and_die, store, how, ids, step.format(how))
    assert victim.exit_code() in (0, 9)
    with closing(open_engine(store)) as engine:
        after = regions(engine)
        assert len(after) in (1, 2)
        if len(after) == len(old):
            assert [r.region_id for r in after] == ids
        assert {ts: rows(engine, TABLE, ts) for ts in before} == before
        act(engine, how, ids)
        assert len(regions(engine)) == 3 - len(old)
        assert {ts: rows(engine, TABLE, ts) for ts in before} == before
        assert not list(engine.check(engine.read([])))
