"""Upgrades of formats 1 to 3 at the first opening, also with crashes, and rejected ones."""

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.errors import (
    CorruptionError,
    EngineError,
    StoreExistsError,
    StoreFullError,
    StoreInUseError,
)
from pyspark_theflash.base.failpoint import armed
from pyspark_theflash.base.fs import FileSystem, LocalFileSystem
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.service.client.theflash import connect
from pyspark_theflash.service.wire.message import AcquireRequest
from pyspark_theflash.storage.store.folder import (
    FORMAT_FILE,
    StoreIdentity,
    create_store,
    open_manifest,
    read_identity,
)
from pyspark_theflash.storage.store.latch.lease import LeaseTable
from pyspark_theflash.storage.store.latch.readers_lock import READERS_LOCK_FILE
from pyspark_theflash.storage.store.manifest import DATABASE, SCRATCH_ACK
from pyspark_theflash.storage.store.writer_lock import LOCK_FILE, WriterLock
from pyspark_theflash.testing.faulty_fs import Failure, FaultyFileSystem
from tests.support.archives import unpack

FS, CLOCK = LocalFileSystem(), SystemClock()
IDENTITY = StoreIdentity("some-id", "magic")


@pytest.fixture
def format1(fixtures: Path, tmp_path: Path) -> Path:
    """A store that a version of format 1 has written."""
    unpack(fixtures / "stores" / "format1.tar.gz", tmp_path)
    return tmp_path / "format1"


def content(store: Path, fs: FileSystem = FS) -> dict[str, dict[str, bytes]]:
    with closing(open_manifest(store, fs)) as manifest:
        return {k: dict(v) for k, v in manifest.read(tuple(manifest.head().sums)).records.items()}


def tables(store: Path) -> list[str]:
    with closing(sqlite3.connect(store / DATABASE)) as db:
        rows = db.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
        return [name for (name,) in rows]


def check_upgraded(store: Path) -> None:
    assert content(store)["file"]
    assert (store / FORMAT_FILE).read_text() == "theflash-store 4\n"
    assert tables(store) == ["board", "board_sum", "head", "record"]
    names = {"ack", "data", "format", READERS_LOCK_FILE, DATABASE, LOCK_FILE}
    # A commit that was not acknowledged leaves one, which the next commit replaces.
    assert {p.name for p in store.iterdir()} - {SCRATCH_ACK} == names
    with closing(open_manifest(store, FS)) as manifest:
        leases = LeaseTable(manifest, CLOCK)
        lease = leases.take(TimeStamp(1), 1000)
        assert leases.oldest_generation() == lease.generation


def test_opening_a_store_of_format_1_brings_it_up_to_date(format1: Path) -> None:
    with closing(sqlite3.connect(format1 / DATABASE)) as db:
        records = db.execute("SELECT count(*) FROM record").fetchone()[0]
    upgraded = content(format1)
    assert upgraded.pop("feed") == {"main": b"stream"}
    assert sum(map(len, upgraded.values())) == records
    check_upgraded(format1)


def test_latches_of_format_1_go_on(format1: Path) -> None:
    with closing(sqlite3.connect(format1 / DATABASE, isolation_level=None)) as db:
        for id, ts, boot, expires in [
            ("a", 2**64 - 1, CLOCK.boot_id(), CLOCK.boottime_ms() + 60_000),
            ("b", 5, CLOCK.boot_id(), CLOCK.boottime_ms()),
            ("c", 6, "an earlier run", CLOCK.boottime_ms() + 60_000),
        ]:
            db.execute("INSERT INTO lease VALUES (?, ?, 3, ?, ?)", (id, str(ts), boot, expires))
    with closing(open_manifest(format1, FS)) as manifest:
        leases = LeaseTable(manifest, CLOCK)
        assert [(x.id, x.snapshot_ts) for x in leases.living()] == [("a", 2**64 - 1)]
        assert leases.oldest_generation() == 3


@pytest.mark.parametrize(
    "row", [("a", "5z", 3, "boot", 9), ("a", "5", "x", "boot", 9), (None, "5", 3, b"boot", 9)]
)
def test_damaged_latches_of_format_1(format1: Path, row: tuple[object, ...]) -> None:
    with closing(sqlite3.connect(format1 / DATABASE, isolation_level=None)) as db:
        db.execute("INSERT INTO lease VALUES (?, ?, ?, ?, ?)", row)
    with pytest.raises(CorruptionError, match="a lease of format 1 is malformed"):
        open_manifest(format1, FS)


@pytest.mark.parametrize("lasting", [True, False], ids=["lasting", "once"])
@pytest.mark.parametrize("failure", Failure)
def test_an_upgrade_may_fail_at_every_call(
    format1: Path, tmp_path: Path, failure: Failure, lasting: bool
) -> None:
    calls = 0
    right = content(Path(shutil.copytree(format1, tmp_path / "right")))
    for fail_at in range(100):
        store = Path(shutil.copytree(format1, tmp_path / f"{fail_at}"))
        fs = FaultyFileSystem(failure, fail_at, lasting=lasting)
        try:
            content(store, fs)
        except (EngineError, StoreFullError):
            calls += 1
        else:
            if fail_at >= len(fs.calls):
                break
        assert content(store) == right
        check_upgraded(store)
    assert calls >= (1 if failure is Failure.TORN else 3)


@pytest.mark.parametrize(
    "point", ["upgrade.before_format", "upgrade.after_format", "upgrade.after_database"]
)
def test_an_upgrade_may_die_between_any_two_steps(format1: Path, point: str) -> None:
    def die() -> None:
        raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt), armed(point, die):
            open_manifest(format1, FS)
    refused_by_format_1 = (format1 / FORMAT_FILE).read_text() != "theflash-store 1\n"
    assert refused_by_format_1 or "lease" in tables(format1)
    check_upgraded(format1)


def test_a_store_in_use_is_not_brought_up_to_date(format1: Path) -> None:
    before = {p: p.read_bytes() for p in format1.rglob("*") if p.is_file()}
    lock = WriterLock(format1)
    with pytest.raises(StoreInUseError):
        open_manifest(format1, FS)
    lock.release()
    (format1 / LOCK_FILE).unlink()
    assert {p: p.read_bytes() for p in format1.rglob("*") if p.is_file()} == before
    check_upgraded(format1)


def test_a_folder_that_cannot_be_written_is_not_brought_up_to_date(
    format1: Path, read_only: Callable[[Path], None]
) -> None:
    read_only(format1)
    with pytest.raises(EngineError, match="older format"):
        open_manifest(format1, FS)


@pytest.mark.parametrize("failure", Failure)
def test_making_a_store_may_fail_at_every_call(tmp_path: Path, failure: Failure) -> None:
    failed = 0
    for fail_at in range(100):
        store, fs = tmp_path / f"{fail_at}", FaultyFileSystem(failure, fail_at)
        try:
            create_store(store, IDENTITY, fs)
        except (EngineError, StoreFullError):
            failed += 1
        if fail_at >= len(fs.calls):
            break
        if not (store / FORMAT_FILE).exists():
            create_store(store, IDENTITY, FS)
        assert read_identity(store, FS) == IDENTITY
        with pytest.raises(StoreExistsError):
            create_store(store, IDENTITY, FS)
    assert failed >= 4


def test_two_processes_that_make_one_store(tmp_path: Path) -> None:
    lock = WriterLock(tmp_path)
    with pytest.raises(StoreInUseError):
        create_store(tmp_path, IDENTITY, FS)
    lock.release()
    create_store(tmp_path, IDENTITY, FS)


@pytest.mark.parametrize("lost", ["rows", "a file of the user's"])
def test_what_looks_half_made_and_is_not(store: Path, lost: str) -> None:
    (store / FORMAT_FILE).unlink()
    (store / "data" / "1" if lost == "rows" else store / "notes").mkdir()
    with pytest.raises(StoreExistsError):
        create_store(store, IDENTITY, FS)
    assert (store / DATABASE).exists()


def test_a_store_of_format_2_gets_what_latches_need(fixtures: Path, tmp_path: Path) -> None:
    unpack(fixtures / "stores" / "format2.tar.gz", tmp_path)
    store = tmp_path / "format2"
    with connect(store) as api:
        latch = api.acquire_latch(AcquireRequest("write", name="test"))
        assert latch.token
        assert [listed.id for listed in api.latches().latches] == [latch.id]
        rows = api.read(api.plan("shop.items"))
        assert sum(batch.num_rows for batch in rows) == 4
    assert (store / FORMAT_FILE).read_text() == "theflash-store 4\n"
