"""Files and rows that a compaction rewrites, and its steps."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.base.types import PhysicalTableID, TimeStamp
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.storage.engine.api import (
    Handle,
    Publication,
    RegionStats,
    ScanSpec,
    VersionBatch,
)
from pyspark_theflash.storage.engine.magic import compaction, encode, merge
from pyspark_theflash.storage.engine.magic.compaction import CompactionLimits
from pyspark_theflash.storage.engine.magic.engine import MagicEngine
from pyspark_theflash.storage.engine.magic.file import FILE_KIND, DataFile, FileKind
from pyspark_theflash.storage.engine.magic.layout import RegionFiles
from pyspark_theflash.storage.mvcc.version import Op
from pyspark_theflash.storage.store.manifest import ManifestChange
from pyspark_theflash.testing.histories import COLUMNS, scan_columns, version_batch

TABLE = PhysicalTableID(1)
LIMITS = CompactionLimits(region_rows=100, deltas=4, most_deltas=12, layer_rows=10, layers=3)


class Store:
    """A store with one table, and a timestamp that grows with every publication."""

    def __init__(self, path: Path, limits: CompactionLimits = LIMITS) -> None:
        registry.create(path, registry.MAGIC, LocalFileSystem())
        self.engine = MagicEngine(path, LocalFileSystem(), SystemClock(), limits=limits)
        self.ts = 0

    def put(self, handles: Sequence[Handle], text: str = "") -> None:
        self.ts += 10
        rows = [(h, self.ts, self.ts - 1, int(Op.PUT), self.ts, text) for h in handles]
        tp = pa.binary() if isinstance(handles[0], bytes) else pa.int64()
        batch = version_batch(rows, COLUMNS, tp)
        self.engine.publish(Publication([VersionBatch(TABLE, batch)], ManifestChange()))

    def compact(self, **options: Any) -> Any:
        return self.engine.compact(TABLE, scan_columns(), **options)

    def regions(self) -> Sequence[RegionStats]:
        return self.engine.regions(self.engine.read([]), TABLE)

    def files(self, kind: FileKind) -> list[DataFile]:
        records = self.engine.read([]).of_kind(FILE_KIND).values()
        return [f for f in map(DataFile.from_json, records) if f.kind is kind]

    def numbers(self, kind: FileKind) -> set[int]:
        return {f.number for f in self.files(kind)}

    def rows(self) -> int:
        return sum(
            batch.num_rows
            for region in self.engine.plan(self.engine.read([]), TABLE)
            for batch in self.engine.scan(region, ScanSpec([], TimeStamp(self.ts)))
        )


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path / "store")
    with closing(made.engine):
        yield made
        assert list(made.engine.check(made.engine.read([]))) == []


def shuffled(rows: int, seed: int = 1) -> list[int]:
    return [int(n) for n in np.random.default_rng(seed).permutation(rows)]


@pytest.mark.parametrize("is_binary", [False, True])
def test_a_large_table_is_divided_evenly(store: Store, is_binary: bool) -> None:
    handles: list[Any] = shuffled(1000)
    if is_binary:
        handles = [b"\x01%06d" % n for n in handles]
    for start in range(0, 1000, 250):
        store.put(handles[start : start + 250])
    report = store.compact()
    assert (report.rows_read, report.rows_written, report.rows_dropped) == (1000, 1000, 0)
    assert (report.files_replaced, report.files_written) == (4, 10)
    regions = store.regions()
    assert all(80 <= region.rows <= 120 for region in regions), regions
    assert [region.files for region in regions] == [1] * 10
    assert store.rows() == 1000


def test_few_deltas_wait(store: Store) -> None:
    store.put(range(50))
    generation = store.engine.read([]).generation
    for _ in range(3):
        assert store.compact().files_written == 0
        assert store.engine.read([]).generation == generation
        store.put(range(50))
        generation += 1
    assert store.compact().files_replaced == 4
    assert len(store.files(FileKind.STABLE)) == 2


def test_a_few_updates_do_not_rewrite_the_table(store: Store) -> None:
    for start in range(0, 1000, 250):
        store.put(range(start, start + 250))
    store.compact()
    stable = store.numbers(FileKind.STABLE)
    busiest = 0
    for number in range(40):
        store.put([number % 4 * 3, 200 + number, 990])
        store.compact()
        assert len(store.files(FileKind.DELTA)) < LIMITS.most_deltas
        busiest = max(busiest, *(region.files for region in store.regions()))
    assert store.rows() == 1000
    # The stable file, and fewer layers than are merged.
    assert busiest == LIMITS.layers
    assert len(stable & store.numbers(FileKind.STABLE)) >= 6


def test_deltas_are_merged_sooner_where_there_are_many_rows(store: Store) -> None:
    for start in range(0, 1000, 250):
        store.put(range(start, start + 250))
    store.compact()
    for number in range(4):
        store.put(range(number * 30, 1000, 40))
        store.compact()
    assert store.files(FileKind.DELTA) == []
    assert {region.files for region in store.regions()} == {2}


def test_a_garbage_collection_leaves_what_has_none(store: Store) -> None:
    for start in range(0, 1000, 250):
        store.put(range(start, start + 250))
    store.compact(everything=True)
    untouched = store.numbers(FileKind.STABLE)
    for _ in range(3):
        store.put(range(0, 100, 2))
    report = store.compact(everything=True)
    assert report.rows_dropped == 0
    before = store.numbers(FileKind.STABLE)
    report = store.compact(safe_point=TimeStamp(store.ts), everything=True)
    assert report.rows_dropped == 150
    assert report.rows_read <= 300
    assert len(untouched & store.numbers(FileKind.STABLE)) >= 8
    assert len(before - store.numbers(FileKind.STABLE)) <= 3
    assert store.compact(safe_point=TimeStamp(store.ts), everything=True).files_written == 0
    assert store.rows() == 1000


def test_dropped_versions_do_not_make_small_files(store: Store) -> None:
    for _ in range(6):
        store.put(shuffled(90))
    report = store.compact(safe_point=TimeStamp(store.ts), everything=True)
    assert (report.rows_dropped, report.files_written) == (450, 1)
    assert len(store.regions()) == 1


def test_a_row_of_many_versions_is_not_divided(store: Store) -> None:
    for _ in range(3):
        batch = [(7, store.ts + n + 1, store.ts + n, 1, n, "") for n in range(200)]
        store.ts += 300
        versions = VersionBatch(TABLE, version_batch(batch, COLUMNS))
        store.engine.publish(Publication([versions], ManifestChange()))
    assert store.compact(everything=True).rows_written == 600
    assert [region.rows for region in store.regions()] == [600]
    assert store.compact().files_written == 0
    assert store.rows() == 1


def test_a_commit_rewrites_a_bounded_share(tmp_path: Path) -> None:
    """A table that is due everywhere is rewritten in several commits."""
    store = Store(
        tmp_path / "store",
        CompactionLimits(region_rows=100, deltas=1, layer_rows=1, share=0.25, commit_rows=250),
    )
    store.put(range(1000))
    store.compact()
    assert len(store.regions()) == 10
    store.put(range(0, 1000, 2))
    generation = store.engine.read([]).generation
    report = store.compact()
    assert store.engine.read([]).generation - generation >= 8  # half of them remove files
    # Files that the first commit leaves are rewritten once more.
    assert 1500 < report.rows_written < 2000
    assert store.files(FileKind.LAYER) == []
    assert store.rows() == 1000
    store.engine.close()


def test_memory_is_bounded_by_a_region(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty times as many rows do not need more memory."""
    monkeypatch.setattr(encode, "ROW_GROUP_ROWS", 500)

    def peak(rows: int) -> int:
        path = tmp_path / f"{rows}"
        store = Store(path, CompactionLimits(region_rows=2000, deltas=99))
        for start in range(0, rows, 1000):
            store.put(range(start, start + 1000), "some text")
        allocated = []
        original = compaction.merged

        def merged(*arguments: Any) -> pa.Table:
            result = original(*arguments)
            allocated.append(pa.total_allocated_bytes() - before)
            return result

        with monkeypatch.context() as patch, closing(store.engine):
            patch.setattr(compaction, "merged", merged)
            before = pa.total_allocated_bytes()
            store.compact(everything=True)
            assert store.rows() == rows
        return max(allocated)

    assert peak(40_000) < 1.5 * peak(2000)


def test_a_merge_holds_a_small_part_of_each_delta(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deltas of one large transaction have the same range of handles."""
    monkeypatch.setattr(encode, "DELTA_GROUP_BYTES", 10_000)
    held: dict[int, int] = {}
    take = merge.Cursor.take_below

    def take_below(cursor: merge.Cursor, end: Handle | None) -> list[pa.Table]:
        tables = take(cursor, end)
        rest = cursor._rest
        if rest is not None and cursor.info.kind is FileKind.DELTA:
            # A slice refers to the whole row group.
            held[cursor.info.number] = max(
                held.get(cursor.info.number, 0), rest.get_total_buffer_size()
            )
        return tables

    store = Store(tmp_path / "store", CompactionLimits(region_rows=200, deltas=99))
    with closing(store.engine):
        for first in range(8):
            store.put(range(first, 800, 8), "x" * 1000)
        monkeypatch.setattr(merge.Cursor, "take_below", take_below)
        store.compact(everything=True)
        assert store.rows() == 800
    assert len(held) == 8
    assert sum(held.values()) < 8 * 20_000


def test_wide_rows_make_small_row_groups(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encode, "DELTA_GROUP_BYTES", 10_000)
    store.put(range(100), "x" * 1000)
    (delta,) = store.files(FileKind.DELTA)
    metadata = pq.read_metadata(store.engine._data / delta.path)
    assert metadata.num_row_groups >= 10
    assert store.rows() == 100


def test_a_region_knows_only_what_reaches_it(store: Store) -> None:
    for start in range(0, 1000, 250):
        store.put(range(start, start + 250))
    store.compact()
    store.put([5])
    store.put([5, 995])
    deltas = [region.deltas for region in store.regions()]
    assert deltas == [2, *[1] * (len(deltas) - 1)]
    plans = store.engine.plan(store.engine.read([]), TABLE)
    assert [len(RegionFiles.of(plan).files) for plan in plans] == [1 + n for n in deltas]


def delete(store: Store, handles: Sequence[int]) -> None:
    store.ts += 10
    rows = [(h, store.ts, store.ts - 1, int(Op.DELETE), None, None) for h in handles]
    versions = VersionBatch(TABLE, version_batch(rows, COLUMNS))
    store.engine.publish(Publication([versions], ManifestChange()))


def test_regions_that_have_lost_their_rows_are_united(store: Store) -> None:
    """A table whose oldest rows are deleted has no more regions than its rows need."""
    for start in range(0, 1000, 250):
        store.put(range(start, start + 250))
    store.compact()
    kept = store.numbers(FileKind.STABLE)
    ids = {region.region_id for region in store.regions()}
    delete(store, range(540))
    report = store.compact(safe_point=TimeStamp(store.ts), everything=True)
    assert report.rows_dropped == 1080
    # The empty regions were merged into one that keeps its file.
    regions = store.regions()
    assert (len(regions), regions[0].start) == (5, None)
    assert regions[0].region_id not in ids
    assert len(store.numbers(FileKind.STABLE) & kept) == 4
    assert store.rows() == 460
    # Regions with few rows are merged, too, and rewritten.
    delete(store, [n for n in range(540, 1000) if n % 10])
    store.compact(safe_point=TimeStamp(store.ts), everything=True)
    assert [(region.rows, region.files) for region in store.regions()] == [(46, 1)]
    delete(store, range(540, 1000, 10))
    store.compact(safe_point=TimeStamp(store.ts), everything=True)
    assert list(store.regions()) == []
    store.put(range(10))
    assert store.rows() == 10


@pytest.mark.parametrize("times", [1, 3])
def test_a_delete_stays_while_what_it_hides_is_elsewhere(store: Store, times: int) -> None:
    """A merge of deltas or layers must not drop deletes: an older version would become visible."""
    store.put(range(100))
    store.compact(everything=True)
    (stable,) = store.files(FileKind.STABLE)
    for number in range(4 * times):
        delete(store, [number])
        report = store.compact(safe_point=TimeStamp(store.ts))
        assert report.rows_dropped == 0
    assert store.files(FileKind.STABLE) == [stable]
    assert len(store.files(FileKind.LAYER)) == 1
    assert store.rows() == 100 - 4 * times
