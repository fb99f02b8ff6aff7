"""A store of format 1, which had no regions, is read, written and split."""

from contextlib import closing
from pathlib import Path

import pytest

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.base.types import MAX_TS, PhysicalTableID, TimeStamp
from pyspark_theflash.read.plan.snapshot import open_snapshot
from pyspark_theflash.storage.engine.api import Publication, ScanSpec, VersionBatch
from pyspark_theflash.storage.engine.magic.compaction import CompactionLimits
from pyspark_theflash.storage.engine.magic.engine import MagicEngine
from pyspark_theflash.storage.engine.magic.file import DataFile, FileKind
from pyspark_theflash.storage.mvcc.project import scan_column
from pyspark_theflash.storage.mvcc.rows import stored_columns
from pyspark_theflash.storage.store.manifest import ManifestChange
from pyspark_theflash.testing.histories import version_batch
from pyspark_theflash.tidb.schema.model import TableInfo
from tests.support.archives import unpack
from tests.support.progress import read_progress

DIGESTS = {
    "bank.acc_int": (260, "3296fb15e4739befb6d9b4e6705e1322"),
    "bank.acc_hash": (240, "b623b0939e87b84b4e83824b06febb0d"),
    "bank.acc_ch": (259, "02f50c1f467680a96195920f022c2116"),
    "bank.acc_u": (241, "b3047372d5407ac51cf826e0bc928429"),
    "bank.acc_nopk": (230, "31b672250c1209d419439ad824fb3066"),
}
LIMITS = CompactionLimits(region_rows=100, deltas=2)


@pytest.fixture
def store(fixtures: Path, tmp_path: Path) -> Path:
    unpack(fixtures / "stores" / "format1.tar.gz", tmp_path)
    return tmp_path / "format1"


def answers(store: Path, ts: TimeStamp | None = None) -> dict[str, tuple[int, str]]:
    with open_snapshot(store, ts) as snapshot:
        digests = {name: snapshot.digest(name) for name in DIGESTS}
    return {name: (digest.rows, digest.hexdigest()) for name, digest in digests.items()}


def tables(store: Path) -> list[TableInfo]:
    with open_snapshot(store) as snapshot:
        return [snapshot.table(name) for name in DIGESTS]


def test_it_is_read_compacted_and_divided(store: Path) -> None:
    assert answers(store) == DIGESTS
    progress = read_progress(store)
    assert progress is not None
    middle = TimeStamp((progress.oldest_ts + progress.resolved_ts) // 2)
    before = answers(store, middle)
    split = 0
    infos = tables(store)
    with closing(MagicEngine(store, LocalFileSystem(), SystemClock(), limits=LIMITS)) as engine:
        assert list(engine.check(engine.read([]))) == []
        for table in infos:
            columns = [scan_column(table, column) for column in stored_columns(table)]
            for physical_id in table.physical_ids:
                engine.compact(physical_id, columns, everything=True)
                split += len(engine.regions(engine.read([]), physical_id)) > 1
        assert list(engine.check(engine.read([]))) == []
    assert split >= 3
    assert answers(store) == DIGESTS
    assert answers(store, middle) == before


def test_it_is_written_on(store: Path) -> None:
    """New versions supersede rows in files without a range of handles."""
    (table,) = [t for t in tables(store) if t.name == "acc_int"]
    progress = read_progress(store)
    assert progress is not None
    ts = progress.resolved_ts + 1
    columns = [scan_column(table, column) for column in stored_columns(table)]
    with open_snapshot(store) as snapshot:
        handles = [h for b in snapshot.scan("bank.acc_int", ["id"]) for h in b[0].to_pylist()]
    deletes = [(h, ts, ts - 1, 0, *[None] * len(columns)) for h in handles[::2]]
    with closing(MagicEngine(store, LocalFileSystem(), SystemClock())) as engine:
        batch = version_batch(deletes, [(c.id, c.type) for c in columns])
        physical_id = PhysicalTableID(table.id)
        engine.publish(Publication([VersionBatch(physical_id, batch)], ManifestChange()))
        left = [
            b.num_rows
            for region in engine.plan(engine.read([]), physical_id)
            for b in engine.scan(region, ScanSpec(columns, TimeStamp(ts)))
        ]
        assert sum(left) == len(handles) // 2
        assert list(engine.check(engine.read([]))) == []


def test_a_record_of_format_1() -> None:
    old = (
        '{"number":33554432,"physical_id":108,"path":"108/0000000002000000.parquet",'
        '"is_stable":true,"rows":120,"size_bytes":5000,"crc":1,"footer_bytes":2000,"footer_crc":2,'
        '"min_commit_ts":10,"max_commit_ts":20,"has_deletes":false,"has_superseded":false,'
        '"has_previous":false}'
    )
    info = DataFile.from_json(old)
    assert (info.kind, info.region_id, info.min_handle) == (FileKind.STABLE, 1, None)
    assert info.garbage_ts == MAX_TS
    assert DataFile.from_json(info.to_json()) == info
    info = DataFile.from_json(old.replace('"is_stable":true', '"is_stable":false'))
    assert (info.kind, info.region_id) == (FileKind.DELTA, 0)
    info = DataFile.from_json(old.replace('"has_deletes":false', '"has_deletes":true'))
    assert info.garbage_ts == 0
