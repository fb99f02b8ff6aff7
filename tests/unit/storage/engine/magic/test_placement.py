"""Files of a publication: deltas, layers of regions, or new regions."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
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
from pyspark_theflash.storage.engine.magic.compaction import CompactionLimits
from pyspark_theflash.storage.engine.magic.engine import MagicEngine
from pyspark_theflash.storage.engine.magic.file import FILE_KIND, DataFile, FileKind
from pyspark_theflash.storage.mvcc.version import Op
from pyspark_theflash.storage.store.manifest import ManifestChange
from pyspark_theflash.testing.histories import COLUMNS, scan_columns, version_batch

TABLE = PhysicalTableID(1)
LIMITS = CompactionLimits(region_rows=100, direct_rows=20, deltas=4, layers=3)


class Store:
    """A store with one table, and a timestamp that grows with every publication."""

    def __init__(self, path: Path, handle: type) -> None:
        registry.create(path, registry.MAGIC, LocalFileSystem())
        self.engine = MagicEngine(path, LocalFileSystem(), SystemClock(), limits=LIMITS)
        self.handle, self.ts = handle, 0

    def put(self, *batches: Sequence[int]) -> None:
        """Publish batches together, each with its own timestamp."""
        self.engine.publish(Publication([self._versions(b) for b in batches], ManifestChange()))

    def _versions(self, numbers: Sequence[int]) -> VersionBatch:
        self.ts += 10
        rows = [(self.key(n), self.ts, self.ts - 1, int(Op.PUT), self.ts, "") for n in numbers]
        tp = pa.binary() if self.handle is bytes else pa.int64()
        return VersionBatch(TABLE, version_batch(rows, COLUMNS, tp))

    def key(self, number: int) -> Handle:
        return b"\x01%06d" % number if self.handle is bytes else number

    def compact(self) -> Any:
        return self.engine.compact(TABLE, scan_columns())

    def regions(self) -> Sequence[RegionStats]:
        return self.engine.regions(self.engine.read([]), TABLE)

    def files(self, kind: FileKind) -> dict[int, int]:
        """Return the number of rows in each file of a kind."""
        records = self.engine.read([]).of_kind(FILE_KIND).values()
        return {f.number: f.rows for f in map(DataFile.from_json, records) if f.kind is kind}

    def values(self, ts: int) -> dict[Handle, int]:
        """Return the newest value of each row, which is the time of its publication."""
        newest: dict[Handle, int] = {}
        for region in self.engine.plan(self.engine.read([]), TABLE):
            columns = scan_columns()[:1]
            for batch in self.engine.scan(
                region, ScanSpec(columns, TimeStamp(ts), with_handle=True)
            ):
                rows = zip(*(column.to_pylist() for column in batch.columns), strict=True)
                newest.update(rows)  # type: ignore[arg-type]
        return newest


@pytest.fixture(params=[int, bytes])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path / "store", request.param)
    with closing(made.engine):
        yield made
        assert list(made.engine.check(made.engine.read([]))) == []


def test_few_versions_are_a_delta(store: Store) -> None:
    store.put(range(19))
    assert list(store.files(FileKind.DELTA).values()) == [19]


def test_many_versions_of_a_new_table_are_its_regions(store: Store) -> None:
    store.put(range(450))
    assert [(region.rows, region.files) for region in store.regions()] == [(90, 1)] * 5
    assert list(store.files(FileKind.STABLE).values()) == [90] * 5
    assert store.compact().files_written == 0


def test_what_is_appended_is_written_once(store: Store) -> None:
    for start in range(0, 600, 60):
        store.put(range(start, start + 60))
        written = set(store.files(FileKind.STABLE))
        store.compact()
        assert set(store.files(FileKind.STABLE)) == written
    assert len(store.regions()) == 10
    assert store.files(FileKind.DELTA) == store.files(FileKind.LAYER) == {}
    assert store.values(store.ts) == {store.key(n): n // 60 * 10 + 10 for n in range(600)}


def test_what_is_not_enough_for_a_region_waits_in_layers(store: Store) -> None:
    """Many appended layers are merged; other layers are merged if they are large."""
    for start in range(0, 200, 20):
        store.put(range(start, start + 20))
        store.compact()
    # Every third publication starts a new region, because its region is half full.
    assert [(region.rows, region.files) for region in store.regions()] == [(40, 2)] * 5
    assert list(store.files(FileKind.STABLE).values()) == [20] * 5
    store.put(range(160, 200))
    store.compact()
    assert store.regions()[-1].files == 1


def test_versions_of_old_rows_become_layers(store: Store) -> None:
    store.put(range(200))
    stable = store.files(FileKind.STABLE)
    store.put(range(50, 150))
    assert store.files(FileKind.STABLE) == stable
    assert list(store.files(FileKind.LAYER).values()) == [50, 50]
    changed = {store.key(n): 20 if 50 <= n < 150 else 10 for n in range(200)}
    assert store.values(20) == changed
    assert store.values(19) == dict.fromkeys(changed, 10)


def test_old_and_appended_rows_are_parted(store: Store) -> None:
    """The last existing row belongs to the region that has it."""
    store.put(range(100))
    store.put(range(90, 160))
    assert [(region.rows, region.files) for region in store.regions()] == [(110, 2), (60, 1)]
    assert [region.start for region in store.regions()] == [None, store.key(100)]
    assert list(store.files(FileKind.LAYER).values()) == [10]
    assert store.values(store.ts) == {store.key(n): 20 if n >= 90 else 10 for n in range(160)}


def test_nothing_overtakes_a_delta(store: Store) -> None:
    store.put(range(10))
    store.put(range(5, 100))
    assert list(store.files(FileKind.DELTA).values()) == [10, 95]
    store.compact()
    assert store.files(FileKind.DELTA) == {}
    store.put(range(50, 150))
    assert store.files(FileKind.DELTA) == {}
    wanted = {n: 10 if n < 5 else 20 if n < 50 else 30 for n in range(150)}
    assert store.values(store.ts) == {store.key(n): ts for n, ts in wanted.items()}


def test_a_second_batch_of_a_commit(store: Store) -> None:
    """As with DDL between transactions: it supersedes rows of the first batch."""
    store.put(range(100))
    store.put(range(50, 200), range(150, 250))
    assert list(store.files(FileKind.DELTA).values()) == [100]
    wanted = {n: 10 if n < 50 else 20 if n < 150 else 30 for n in range(250)}
    assert store.values(store.ts) == {store.key(n): ts for n, ts in wanted.items()}
    assert store.values(20) == {store.key(n): min(wanted[n], 20) for n in range(200)}


def test_a_divided_table_is_filled_at_several_places(store: Store) -> None:
    store.engine.divide(TABLE, [store.key(200), store.key(400)])
    for start in range(0, 200, 50):
        for part in (400, 0, 200):
            store.put(range(part + start, part + start + 50))
    # Without regions of their own, rows below those of another place would be layers.
    assert sum(store.files(FileKind.STABLE).values()) == 600
    assert not store.files(FileKind.LAYER)
    assert {store.key(200), store.key(400)} <= {region.start for region in store.regions()}
    store.engine.divide(TABLE, [store.key(7)])
    assert store.key(7) not in [region.start for region in store.regions()]
