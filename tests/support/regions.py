"""A small engine with many regions, and its content."""

import random
from collections import Counter
from pathlib import Path
from typing import Any

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.errors import OptionError
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.base.types import PhysicalTableID, TimeStamp
from pyspark_theflash.storage.engine.api import EngineReader, RegionScan, RegionStats, ScanSpec
from pyspark_theflash.storage.engine.magic.compaction import CompactionLimits
from pyspark_theflash.storage.engine.magic.engine import MagicEngine
from pyspark_theflash.storage.engine.magic.region import Region, regions_error
from pyspark_theflash.testing.histories import scan_columns

TABLES = (PhysicalTableID(1), PhysicalTableID(2))
TABLE = TABLES[0]
CLOCK, LOCAL = SystemClock(), LocalFileSystem()
LIMITS = CompactionLimits(region_rows=40, direct_rows=8, deltas=3, layer_rows=2, layers=3)
KEYS = 12


def open_engine(store: Path) -> MagicEngine:
    return MagicEngine(store, LOCAL, CLOCK, limits=LIMITS)


def rows(engine: EngineReader, table: PhysicalTableID, ts: int) -> Counter[Any]:
    view = engine.read([])
    scans: list[RegionScan] = list(engine.plan(view, table))
    batches = (
        batch
        for scan in scans
        for batch in engine.scan(scan, ScanSpec(scan_columns(), TimeStamp(ts), with_handle=True))
    )
    return Counter(tuple(row.values()) for batch in batches for row in batch.to_pylist())


def regions(engine: EngineReader, table: PhysicalTableID = TABLE) -> list[RegionStats]:
    listed = list(engine.regions(engine.read([]), table))
    bounds = [Region(table, r.region_id, r.start, r.end) for r in listed]
    assert not listed or regions_error(bounds) is None
    return listed


def change_regions(engine: MagicEngine, rng: random.Random, *, binary: bool) -> None:
    """Execute a random operation of an operator or of the engine."""
    table = rng.choice(TABLES)
    listed = regions(engine, table)
    if not listed:
        return
    region = rng.choice(listed)
    key = rng.randrange(KEYS)
    at = b"\x03%08d" % key if binary else key - KEYS // 2
    action = rng.choice(["split", "split", "merge", "merge", "flush", "compact", "everything"])
    before = {r.region_id for r in listed}
    if action == "split" and region.covers(at, at) and region.start != at:
        for _ in range(2):  # the second time does nothing
            engine.split(table, region.region_id, at, scan_columns())
        after = regions(engine, table)
        assert at in [r.start for r in after]
        # The region has been replaced; compaction, too, may have divided others.
        assert region.region_id not in {r.region_id for r in after}
        assert max(r.region_id for r in after) > max(before)
    elif action == "merge" and region is not listed[-1]:
        right = listed[listed.index(region) + 1]
        try:
            engine.merge(table, region.region_id, right.region_id, scan_columns())
        except OptionError:
            return
        engine.merge(table, region.region_id, right.region_id, scan_columns())
        assert right.start not in [r.start for r in regions(engine, table)]
    elif action == "flush":
        engine.flush(table, scan_columns())
        assert {r.deltas for r in regions(engine, table)} == {0}
    elif action in ("compact", "everything"):
        engine.compact(table, scan_columns(), everything=action == "everything")
