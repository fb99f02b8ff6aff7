"""Overlays of rows in memory over rows in files, through the engine's interface."""

import numpy as np
import pyarrow as pa
import pytest

from pyspark_theflash.base.errors import LeaseExpiredError
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.base.types import Generation, PhysicalTableID, TimeStamp
from pyspark_theflash.replication.apply.tables import PhysicalTables
from pyspark_theflash.replication.apply.versions import Versions
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.storage.engine.api import ScanSpec
from pyspark_theflash.storage.mvcc.project import scan_column
from pyspark_theflash.storage.mvcc.version import HANDLE, Op, column_name
from pyspark_theflash.storage.store.folder import read_identity
from pyspark_theflash.storage.store.latch.lease import ReadLease
from pyspark_theflash.testing.stores import StoreBuilder
from pyspark_theflash.tikv.memory_versions import MemoryVersions
from pyspark_theflash.tikv.overlay import MEMORY_REGION, OverlaidReader, Overlay, Overlays
from tests.support.kv_table import HISTORY, TABLE, row
from tests.support.manual_clock import ManualClock

ID = PhysicalTableID(TABLE.id)
TS = TimeStamp(200)
COLUMNS = [scan_column(TABLE, column) for column in TABLE.public_columns]
LEASE = ReadLease("mine", TS, Generation(1), 1000)


def overlay(rows: dict[int, str | None], lease: ReadLease = LEASE) -> Overlay:
    handles = sorted(rows)
    texts = [rows[handle] for handle in handles]
    newest = Versions(
        np.full(len(rows), ID, np.int64),
        pa.array(handles, pa.int64()),
        np.full(len(rows), 180, np.uint64),
        np.full(len(rows), 170, np.uint64),
        np.array([Op.DELETE if text is None else Op.PUT for text in texts], np.uint8),
        pa.array([b"" if text is None else row(text) for text in texts], pa.binary()),
    )
    return Overlay(lease, MemoryVersions(ID, newest, PhysicalTables(HISTORY)))


@pytest.fixture
def stored(tmp_path):
    rows = [(n, 150, (n, f"old {n}")) for n in range(6)]
    path = StoreBuilder(tmp_path / "s", TABLE).publish(TS, {TABLE: rows}).path
    fs, clock = LocalFileSystem(), ManualClock()
    reader = registry.open_reader(path, read_identity(path, fs), fs, clock)
    yield reader
    reader.close()


def laid_over(stored, rows, clock=None):
    overlays, one = Overlays(clock or ManualClock()), overlay(rows)
    overlays.add(one)
    return OverlaidReader(stored, overlays, {ID: one}), overlays


def scanned(reader, columns=COLUMNS, **options):
    view = reader.read([])
    regions = {stats.region_id for stats in reader.regions(view, ID)}
    rows = []
    for region in reader.plan(view, ID):
        assert region.region_id in regions
        for batch in reader.scan(region, ScanSpec(columns, TS, **options)):
            rows += zip(*(c.to_pylist() for c in batch.columns), strict=True)
    return sorted(rows)


class Like:
    """A condition that must not see stored rows with a version in memory."""

    columns = COLUMNS[1:]

    def __init__(self, wanted):
        self.wanted, self.seen = wanted, []

    def rows(self, batch, visible=None):
        texts = batch.column(column_name(COLUMNS[1].id)).to_pylist()
        mask = np.ones(len(texts), np.bool_) if visible is None else visible
        self.seen += [text for text, is_visible in zip(texts, mask, strict=True) if is_visible]
        return mask & [self.wanted in text for text in texts]


def test_changed_rows_are_read_once(stored):
    reader, _ = laid_over(stored, {1: "new 1", 2: None, 9: "new 9"})
    left = [(n, f"old {n}") for n in (0, 3, 4, 5)]
    both = sorted([*left, (1, "new 1"), (9, "new 9")])
    assert scanned(reader) == both
    assert scanned(reader, COLUMNS[1:], with_handle=True) == both
    condition = Like("new")
    assert scanned(reader, COLUMNS[:1], condition=condition) == [(1,), (9,)]
    assert sorted(condition.seen) == sorted(text for _, text in both)


def test_dictionaries_are_what_they_are_asked_for(stored):
    reader, _ = laid_over(stored, {1: "new 1"})
    spec = ScanSpec(COLUMNS, TS, dictionaries={COLUMNS[1].id})
    regions = reader.plan(reader.read([]), ID)
    batches = [batch for region in regions for batch in reader.scan(region, spec)]
    types = {batch.column(column_name(COLUMNS[1].id)).type for batch in batches}
    assert types == {pa.dictionary(pa.int32(), pa.string())}


def test_regions_that_memory_does_not_reach_carry_no_id(stored):
    reader, overlays = laid_over(stored, {1: None})
    view = reader.read([])
    (marked,) = reader.plan(view, ID)
    assert MEMORY_REGION not in {r.region_id for r in reader.regions(view, ID)}
    overlays.forget(lambda: {"mine"})
    assert list(reader.scan(marked, ScanSpec(COLUMNS, TS)))
    overlays.forget(lambda: {"another"})
    with pytest.raises(LeaseExpiredError):
        list(reader.scan(marked, ScanSpec(COLUMNS, TS)))
    (plain,) = stored.plan(stored.read([]), ID)
    assert sum(b.num_rows for b in reader.scan(plain, ScanSpec(COLUMNS, TS, with_handle=True))) == 6
    assert HANDLE not in column_name(COLUMNS[0].id)


def test_without_room_for_latches_what_is_used_stays():
    clock = ManualClock()
    overlays = Overlays(clock)
    kept = overlay({1: "a"}, ReadLease("shared", TS, Generation(1), 1000, shared=True))
    overlays.add(kept)
    clock.now_ms += 900
    assert overlays.get(kept.id, TS) is kept
    clock.now_ms += 900
    overlays.forget(set)
    assert overlays.size_bytes
    clock.now_ms += 200
    overlays.forget(set)
    assert not overlays.size_bytes
