"""Ranges of handles that are purged: their rows are gone from disk, all others stay as they are.

Random histories with purges in between are compared with `memory` at every timestamp, and processes
are killed at each durable step.
"""

import os
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from pyspark_theflash.base.failpoint import armed
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.storage.engine.api import ScanSpec
from pyspark_theflash.storage.engine.magic.engine import MagicEngine
from pyspark_theflash.storage.store.folder import open_manifest
from pyspark_theflash.storage.store.latch.lease import LeaseTable
from pyspark_theflash.storage.store.manifest import ManifestChange, Record
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

STAMPS = range(100, 900, 50)
MARK = ManifestChange([Record("mark", "purged", b"")])
STEPS = (
    "magic.before_file",
    "magic.after_file",
    "magic.before_flush_commit",
    "magic.after_flush_commit",
    "magic.before_purge_commit",
    "manifest.before_commit",
    "manifest.after_commit",
    "magic.after_purge_commit",
    "magic.before_unlink",
)


def bounds(rng: random.Random, *, binary: bool) -> tuple[Any, Any]:
    """A range, of which either end may be open, and which may be empty."""
    ends = sorted(rng.randrange(-1, KEYS + 2) for _ in range(2))
    keys = [b"\x03%08d" % max(end, 0) if binary else end - KEYS // 2 for end in ends]
    return (
        None if rng.random() < 0.2 else keys[0],
        None if rng.random() < 0.2 else keys[1],
    )


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize(
    "seed", [1, 2, 3, *(pytest.param(n, marks=pytest.mark.slow) for n in range(4, 30))]
)
def test_a_history_with_purges(store: Path, seed: int, binary: bool) -> None:
    rng, memory, dropped = random.Random(seed), MemoryEngine(), 0
    with closing(open_engine(store)) as engine:
        for publication in publications(rng, rounds=8, keys=KEYS, binary=binary):
            memory.publish(publication)
            engine.publish(publication)
            for _ in range(rng.randrange(4)):
                change_regions(engine, rng, binary=binary)
            if rng.random() < 0.6:
                table, (start, end) = rng.choice(TABLES), bounds(rng, binary=binary)
                for each in (memory, engine):
                    dropped += each.purge_range(table, start, end, scan_columns()).rows_dropped
                generation = engine.read([]).generation
                again = engine.purge_range(table, start, end, scan_columns())
                assert again.files_replaced == again.rows_dropped == 0
                assert engine.read([]).generation == generation
                keys = engine.keys(engine.read([]), table, start, end)
                assert not sum(batch.num_rows for batch in keys)
            for ts in STAMPS:
                for table in TABLES:
                    assert rows(engine, table, ts) == rows(memory, table, ts)
            assert not list(engine.check(engine.read([])))
    assert dropped


@pytest.fixture
def engine(store: Path) -> Iterator[MagicEngine]:
    with closing(open_engine(store)) as opened:
        fill(opened)
        yield opened


def fill(engine: MagicEngine) -> None:
    """Three regions, their own files, and deltas that all of them share."""
    first, *rest = publications(random.Random(5), rounds=4, keys=KEYS)
    engine.publish(first)
    engine.compact(TABLE, scan_columns(), everything=True)
    for at in (-2, 2):
        region = next(r for r in regions(engine) if r.covers(at, at))
        engine.split(TABLE, region.region_id, at, scan_columns())
    for publication in rest:
        engine.publish(publication)


def outside(counts: Counter[Any]) -> Counter[Any]:
    """The rows that are not in the region in the middle."""
    return Counter({row: n for row, n in counts.items() if not -2 <= row[0] < 2})


def answers(engine: MagicEngine) -> dict[int, Counter[Any]]:
    return {ts: rows(engine, TABLE, ts) for ts in STAMPS}


def test_other_regions_keep_what_they_share(engine: MagicEngine, store: Path) -> None:
    before, other = answers(engine), rows(engine, TABLES[1], 800)
    assert len(regions(engine)) == 3
    assert regions(engine)[0].deltas
    engine.purge_range(TABLE, -2, 2, scan_columns(), MARK)
    assert answers(engine) == {ts: outside(counts) for ts, counts in before.items()}
    assert before != answers(engine)
    assert rows(engine, TABLES[1], 800) == other
    assert [r.region_id for r in regions(engine) if not r.files and not r.deltas]
    assert engine.read(["mark"]).of_kind("mark")
    named = {f.path for t in TABLES for f in engine.files(engine.read([]), t)}
    data = store / "data"
    assert {p.relative_to(data).as_posix() for p in data.rglob("*.parquet")} == named


def test_a_scan_that_was_planned_goes_on(engine: MagicEngine, store: Path) -> None:
    before = rows(engine, TABLE, 800)
    with closing(open_manifest(store, LOCAL)) as manifest:
        LeaseTable(manifest, CLOCK).take(TimeStamp(800), 60_000)
    planned = engine.plan(engine.read([]), TABLE)
    engine.purge_range(TABLE, None, None, scan_columns())
    assert not rows(engine, TABLE, 800)
    streams = [
        engine.scan(s, ScanSpec(scan_columns(), TimeStamp(800), with_handle=True)) for s in planned
    ]
    assert before == Counter(tuple(r.values()) for s in streams for b in s for r in b.to_pylist())


def purge_and_die(store: Path, step: str) -> None:
    """A victim's target."""
    with closing(open_engine(store)) as engine, armed(step, lambda: os._exit(9)):
        engine.purge_range(TABLE, -2, 2, scan_columns(), MARK)


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_every_step(store: Path, step: str) -> None:
    """All rows and no record, or none of the range's rows and the record."""
    with closing(open_engine(store)) as engine:
        fill(engine)
        before = answers(engine)
    wanted = {ts: outside(counts) for ts, counts in before.items()}
    assert Victim(purge_and_die, store, step).exit_code() == 9
    with closing(open_engine(store)) as engine:
        is_done = bool(engine.read(["mark"]).of_kind("mark"))
        assert answers(engine) == (wanted if is_done else before)
        assert not list(engine.check(engine.read([])))
        engine.purge_range(TABLE, -2, 2, scan_columns(), MARK)
        assert answers(engine) == wanted
        assert not list(engine.check(engine.read([])))
