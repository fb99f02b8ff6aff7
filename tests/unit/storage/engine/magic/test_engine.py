import random
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from pyspark_theflash.base.errors import (
    CorruptionError,
    EngineError,
    OptionError,
    StoreInUseError,
    UnsupportedError,
)
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.base.types import PhysicalTableID, TimeStamp
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.storage.engine.api import ScanSpec
from pyspark_theflash.storage.engine.magic.compaction import CompactionLimits
from pyspark_theflash.storage.engine.magic.engine import MagicEngine
from pyspark_theflash.storage.store.folder import DATA_FOLDER, StoreIdentity
from pyspark_theflash.storage.store.latch.lease import LeaseTable
from pyspark_theflash.storage.store.manifest import ACK, Manifest
from pyspark_theflash.testing.histories import publications, scan_columns
from tests.support.manual_clock import ManualClock

TABLE = PhysicalTableID(1)
FS = LocalFileSystem()
EAGER = CompactionLimits(deltas=1)
HISTORY = tuple(publications(random.Random(3), rounds=4, keys=4, tables=1))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    registry.create(tmp_path / "store", registry.MAGIC, FS)
    return tmp_path / "store"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def engine(store: Path, clock: ManualClock) -> Iterator[MagicEngine]:
    with closing(MagicEngine(store, FS, clock, limits=EAGER)) as opened:
        yield opened


def files(store: Path) -> set[str]:
    return {path.name for path in (store / DATA_FOLDER).rglob("*.parquet")}


def test_a_lease_keeps_what_a_compaction_replaces(
    store: Path, engine: MagicEngine, clock: ManualClock
) -> None:
    engine.publish(HISTORY[0])
    first = files(store)
    with closing(Manifest(store, FS)) as manifest:
        leases = LeaseTable(manifest, clock)
        lease = leases.take(TimeStamp(150), 100)
        view = engine.read([])
        plan = engine.plan(view, TABLE)
        rows = [b.to_pylist() for r in plan for b in engine.scan(r, ScanSpec([], TimeStamp(150)))]
        engine.compact(TABLE, scan_columns(), everything=True)
        assert len(files(store)) == len(first) + 1
        assert first < files(store)
        engine.publish(HISTORY[1])
        later = leases.take(TimeStamp(150), 10_000)
        second = files(store) - first
        clock.now_ms += 99
        leases.renew(lease)
        engine.compact(TABLE, scan_columns(), everything=True)
        assert first | second < files(store)
        assert rows == [
            b.to_pylist() for r in plan for b in engine.scan(r, ScanSpec([], TimeStamp(150)))
        ]
        clock.now_ms += 100  # the first lease expires, the second pins later files
        engine.publish(HISTORY[2])
        engine.compact(TABLE, scan_columns(), everything=True)
        assert not first & files(store)
        assert second < files(store)
        leases.release(later)
    engine.close()
    with closing(MagicEngine(store, FS, clock)):
        assert len(files(store)) == 1


def test_leftovers_are_swept_at_the_start(store: Path, clock: ManualClock) -> None:
    with closing(MagicEngine(store, FS, clock)) as engine:
        engine.publish(HISTORY[0])
    named = files(store)
    (store / DATA_FOLDER / "1" / "ffff.parquet").write_bytes(b"half a file")
    (store / DATA_FOLDER / "77").mkdir()
    (store / DATA_FOLDER / "77" / "ffff.parquet").write_bytes(b"")
    with closing(MagicEngine(store, FS, clock)):
        assert files(store) == named


def test_a_writer_that_cannot_start_leaves_no_trace(store: Path, clock: ManualClock) -> None:
    """The lock is free again, and a damaged store is unchanged."""
    with closing(MagicEngine(store, FS, clock)), pytest.raises(StoreInUseError):
        MagicEngine(store, FS, clock)
    ack = (store / ACK).read_bytes()
    (store / ACK).write_bytes(b"")
    (store / DATA_FOLDER / "not ours").write_bytes(b"")
    for _ in range(2):
        with pytest.raises(CorruptionError):
            MagicEngine(store, FS, clock)
    assert (store / DATA_FOLDER / "not ours").exists()
    (store / ACK).write_bytes(ack)
    with closing(MagicEngine(store, FS, clock)) as engine:
        engine.publish(HISTORY[0])


def test_a_writer_that_was_fenced_off(store: Path, engine: MagicEngine) -> None:
    with closing(Manifest(store, FS)) as manifest:
        manifest.take_token()
    with pytest.raises(Exception, match="stale"):
        engine.publish(HISTORY[0])
    with pytest.raises(EngineError, match="rejects writes"):
        engine.publish(HISTORY[0])


def test_engines_by_name(tmp_path: Path, clock: ManualClock) -> None:
    with pytest.raises(OptionError, match="magic"):
        registry.create(tmp_path / "store", "steam", FS)
    assert not (tmp_path / "store").exists()
    for opened in (registry.open_engine, registry.open_reader):
        with pytest.raises(UnsupportedError):
            opened(tmp_path, StoreIdentity("id", "steam"), FS, clock)
