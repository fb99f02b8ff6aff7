import contextlib
import dataclasses
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.errors import (
    CorruptionError,
    EngineError,
    LatchNotFoundError,
    LeaseExpiredError,
    StoreFullError,
    StoreInUseError,
)
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.base.types import MAX_TS, FencingToken, Generation, TimeStamp
from pyspark_theflash.storage.store import transient
from pyspark_theflash.storage.store.folder import open_manifest
from pyspark_theflash.storage.store.latch.holder import Holder
from pyspark_theflash.storage.store.latch.latch import Latch, LatchKind
from pyspark_theflash.storage.store.latch.lease import LEASE_TTL_MS, LeaseTable, ReadLease
from pyspark_theflash.storage.store.latch.readers_lock import exclusive_readers_lock
from pyspark_theflash.storage.store.manifest import DATABASE, Manifest, ManifestChange
from tests.support.manual_clock import ManualClock


@pytest.fixture
def manifest(store: Path) -> Iterator[Manifest]:
    with closing(open_manifest(store, LocalFileSystem())) as opened:
        yield opened


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def leases(manifest: Manifest, clock: ManualClock) -> LeaseTable:
    return LeaseTable(manifest, clock)


def test_a_lease_pins_the_generation_it_was_taken_in(
    manifest: Manifest, leases: LeaseTable
) -> None:
    assert leases.oldest_generation() is None
    first = leases.take(MAX_TS, 100)
    manifest.commit(ManifestChange(), FencingToken(0))
    second = leases.take(TimeStamp(0), 100)
    assert second.generation == first.generation + 1
    assert leases.oldest_generation() == first.generation
    leases.release(first)
    assert leases.oldest_generation() == second.generation
    leases.release(second)
    leases.release(second)
    assert leases.oldest_generation() is None


def test_a_lease_of_another_host_is_kept_for_its_time(
    manifest: Manifest, leases: LeaseTable, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its clock is unknown here, so its time begins when it is seen, and again when it changes."""
    lease = leases.take(TimeStamp(5), LEASE_TTL_MS)
    clock.boot, clock.now_ms = "a restart of the same host", 10
    assert leases.oldest_snapshot_ts() is None
    clock.boot = "this run"
    lease = leases.take(TimeStamp(5), LEASE_TTL_MS)
    here = os.uname()
    other = os.uname_result((here[0], "another", *here[2:]))
    monkeypatch.setattr(os, "uname", lambda: other)
    clock.boot, clock.now_ms = "that of another host", 900_000_000
    assert leases.oldest_snapshot_ts() == 5
    clock.now_ms += LEASE_TTL_MS - 1
    assert leases.oldest_snapshot_ts() == 5
    monkeypatch.setattr(os, "uname", lambda: here)
    (clock.boot, clock.now_ms), then = ("this run", 20), clock.now_ms
    leases.renew(lease)
    monkeypatch.setattr(os, "uname", lambda: other)
    clock.boot, clock.now_ms = "that of another host", then + 2
    assert leases.oldest_snapshot_ts() == 5
    clock.now_ms += LEASE_TTL_MS
    assert leases.oldest_snapshot_ts() is None
    with transient.opened(manifest, write=False) as rows:
        assert not rows.rows(transient.LATCH_KIND)
        assert not rows.keys(transient.FLOOR_KIND, "foreign-")


def test_a_lease_runs_out_unless_renewed(leases: LeaseTable, clock: ManualClock) -> None:
    kept, left = leases.take(TimeStamp(1), 100), leases.take(TimeStamp(2), 100)
    for _ in range(3):
        clock.now_ms += 99
        leases.renew(kept)
    with pytest.raises(LeaseExpiredError) as expired:
        leases.renew(left)
    assert (expired.value.lease_id, expired.value.snapshot_ts) == (left.id, 2)
    clock.now_ms += 99
    assert leases.oldest_generation() == kept.generation
    clock.now_ms += 1
    with pytest.raises(LeaseExpiredError):
        leases.renew(kept)
    assert leases.oldest_generation() is None
    with pytest.raises(LeaseExpiredError):
        leases.renew(kept)


@pytest.mark.parametrize(("ttl_ms", "step_ms"), [(60_000, 1000), (1600, 100), (16, 1)])
def test_a_lease_is_extended_by_a_second_or_more(
    manifest: Manifest, leases: LeaseTable, clock: ManualClock, ttl_ms: int, step_ms: int
) -> None:
    def expires_ms() -> int:
        return leases.living()[0].expires_ms

    lease = leases.take(TimeStamp(1), ttl_ms)
    begun_ms, taken_ms = expires_ms(), clock.now_ms
    with closing(open_manifest(manifest.folder, LocalFileSystem())) as other:
        version = other.data_version()
        clock.now_ms += step_ms - 1
        leases.extend(lease)
        assert (expires_ms(), other.data_version()) == (begun_ms, version)
    clock.now_ms = taken_ms + step_ms
    leases.extend(lease)
    assert expires_ms() == begun_ms + step_ms
    clock.now_ms += ttl_ms
    with pytest.raises(LeaseExpiredError):
        leases.extend(lease)


def test_a_lease_ends_with_the_machines_run(leases: LeaseTable, clock: ManualClock) -> None:
    lease = leases.take(TimeStamp(1), 10_000)
    clock.boot, clock.now_ms = "the next run", 0
    with pytest.raises(LeaseExpiredError):
        leases.renew(lease)
    assert leases.oldest_generation() is None


def test_the_block_of_a_lease_is_one_transaction(manifest: Manifest, leases: LeaseTable) -> None:
    with contextlib.suppress(ArithmeticError), transient.opened(manifest, write=True) as rows:
        latch = Latch("x", LatchKind.READ, TimeStamp(1), Generation(0), "this run", 9999, None)
        rows.put(transient.LATCH_KIND, latch.id, latch.to_body())
        raise ArithmeticError
    assert leases.oldest_generation() is None


def test_a_lease_table_that_is_gone(manifest: Manifest, leases: LeaseTable) -> None:
    with manifest.transient_transaction(write=True) as db:
        db.execute("DROP TABLE board")
    with pytest.raises(CorruptionError, match="no such table"):
        leases.take(TimeStamp(1), 1)


def test_each_kind_pins_what_it_says(leases: LeaseTable) -> None:
    assert leases.oldest_snapshot_ts() is None
    admin = leases.take(TimeStamp(1), 100, LatchKind.ADMIN)
    assert (leases.oldest_generation(), leases.oldest_snapshot_ts()) == (admin.generation, None)
    leases.release(admin)
    pin = leases.take(TimeStamp(7), 100, LatchKind.PIN)
    assert (leases.oldest_generation(), leases.oldest_snapshot_ts()) == (None, 7)
    read = leases.take(MAX_TS, 100)
    assert (leases.oldest_generation(), leases.oldest_snapshot_ts()) == (read.generation, 7)
    leases.release(pin)
    assert leases.oldest_snapshot_ts() == MAX_TS


def test_a_latch_is_listed_and_removed_by_its_id(leases: LeaseTable, clock: ManualClock) -> None:
    late, soon = leases.take(TimeStamp(1), 200, LatchKind.PIN), leases.take(TimeStamp(2), 100)
    assert [(x.id, x.kind, x.expires_ms) for x in leases.living()] == [
        (soon.id, LatchKind.READ, 1_000_100),
        (late.id, LatchKind.PIN, 1_000_200),
    ]
    assert str(leases.living()[0].holder).startswith(f"process {os.getpid()} on ")
    clock.now_ms += 100
    assert [x.id for x in leases.living()] == [late.id]
    leases.remove(late.id)
    assert leases.living() == []
    for gone in (soon.id, late.id, "no such"):
        with pytest.raises(LatchNotFoundError):
            leases.remove(gone)


@pytest.mark.parametrize("kind", LatchKind)
def test_which_latches_end_with_their_process(
    manifest: Manifest, kind: LatchKind, leases: LeaseTable
) -> None:
    dead = dataclasses.replace(Holder.here(SystemClock()), pid=2**22 + 1, boot_id="this run")
    latch = Latch("x", kind, TimeStamp(5), Generation(1), "this run", 1_009_999, dead)
    with transient.opened(manifest, write=True) as rows:
        rows.put(transient.LATCH_KIND, latch.id, latch.to_body())
    ends = kind in (LatchKind.ADMIN, LatchKind.WRITE)
    assert [x.id for x in leases.living()] == ([] if ends else ["x"])
    lease = ReadLease("x", TimeStamp(5), Generation(1), 100)
    if ends:
        assert leases.oldest_generation() is None
        with pytest.raises(LeaseExpiredError):
            leases.renew(lease)
    else:
        leases.renew(lease)


@pytest.mark.parametrize("body", [b"", b"[]", b'["read"]', b'["who", 1, 1, "", 1, null]', b"\xff"])
def test_a_row_that_is_no_latch(manifest: Manifest, leases: LeaseTable, body: bytes) -> None:
    with transient.opened(manifest, write=True) as rows:
        rows.put(transient.LATCH_KIND, "x", body)
    for ask in (leases.living, leases.oldest_generation, leases.oldest_snapshot_ts):
        with pytest.raises(CorruptionError, match="latch x"):
            ask()


def test_every_bit_of_a_latch_counts(
    store: Path, manifest: Manifest, leases: LeaseTable, clock: ManualClock
) -> None:
    lease = leases.take(TimeStamp(5), 100)
    with closing(sqlite3.connect(store / DATABASE, isolation_level=None)) as db:
        (body,) = db.execute("SELECT body FROM board").fetchone()
        for bit in range(len(body) * 8):
            damaged = bytearray(body)
            damaged[bit // 8] ^= 1 << bit % 8
            db.execute("UPDATE board SET body = ?", (bytes(damaged),))
            for ask in (leases.living, lambda: leases.renew(lease)):
                with pytest.raises(CorruptionError):
                    ask()
        for ask in (leases.oldest_generation, leases.oldest_snapshot_ts):
            with pytest.raises(CorruptionError):
                ask()
        other = leases.take(TimeStamp(6), 100)
        leases.renew(other)
        leases.release(other)


# -- without room, or without permission


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Let the disk be full from the call on."""

    def put(*_: object) -> None:
        raise StoreFullError("disk")

    return lambda: monkeypatch.setattr(transient.TransientRecords, "put", put)


def test_a_full_disk_can_be_read_and_keeps_all(
    store: Path,
    manifest: Manifest,
    leases: LeaseTable,
    clock: ManualClock,
    full: Callable[[], None],
) -> None:
    manifest.commit(ManifestChange(), FencingToken(0))
    full()
    with closing(open_manifest(store, LocalFileSystem())) as opened:
        reader = LeaseTable(opened, clock)
        lease = reader.take(TimeStamp(7), 100)
        assert lease.shared
        assert lease.generation == manifest.head().generation
        assert (leases.oldest_generation(), leases.oldest_snapshot_ts()) == (0, 0)
        clock.now_ms += 1_000
        reader.renew(lease)
        reader.release(lease)
        with pytest.raises(StoreFullError):
            reader.take(TimeStamp(7), 100, LatchKind.PIN)
    assert leases.oldest_snapshot_ts() is None


def test_a_lease_that_cannot_be_renewed_for_lack_of_room_goes_on(
    leases: LeaseTable, clock: ManualClock, full: Callable[[], None], store: Path
) -> None:
    lease = leases.take(TimeStamp(7), 100)
    full()
    clock.now_ms += 99
    leases.renew(lease)
    clock.now_ms += 99
    with closing(open_manifest(store, LocalFileSystem())) as other:
        assert LeaseTable(other, clock).oldest_generation() == 0


def test_a_folder_that_cannot_be_written_can_be_read(
    store: Path, clock: ManualClock, read_only: Callable[[Path], None]
) -> None:
    with closing(open_manifest(store, LocalFileSystem())) as writer:
        writer.commit(ManifestChange(), FencingToken(0))
    before = {p.name: p.read_bytes() for p in store.iterdir() if p.is_file()}
    read_only(store)
    with closing(open_manifest(store, LocalFileSystem())) as manifest:
        reader = LeaseTable(manifest, clock)
        lease = reader.take(TimeStamp(7), 100)
        reader.renew(lease)
        assert (lease.shared, reader.living()) == (True, [])
        assert set(manifest.read(["store"]).of_kind("store")) == {"identity"}
        with pytest.raises(EngineError, match="cannot be written"):
            manifest.take_token()
        with pytest.raises(EngineError, match="cannot be written"):
            reader.take(TimeStamp(7), 100, LatchKind.PIN)
    assert {p.name: p.read_bytes() for p in store.iterdir() if p.is_file()} == before


def test_a_writer_that_comes_while_a_folder_is_read_that_cannot_be_written(
    store: Path, manifest: Manifest, read_only: Callable[[Path], None]
) -> None:
    manifest.close()
    read_only(store)
    with closing(open_manifest(store, LocalFileSystem())) as reader:
        assert not reader.is_writable
        writer = sqlite3.connect(store / DATABASE)
        with (
            pytest.raises(EngineError, match="try again"),
            reader.transient_transaction(write=False),
        ):
            writer.execute("CREATE TABLE other (x)")
        writer.close()
        assert reader.read(["store"]).records


def test_a_shared_lease_ends_where_files_may_have_gone(
    store: Path, manifest: Manifest, leases: LeaseTable, clock: ManualClock
) -> None:
    """The lock is not held between a planner's end and its tasks."""
    lease = ReadLease("x", TimeStamp(7), manifest.head().generation, 100, shared=True)
    leases.oldest_generation()
    leases.renew(lease)
    with closing(open_manifest(store, LocalFileSystem())) as other:
        assert LeaseTable(other, clock).oldest_generation() == 0
    manifest.commit(ManifestChange(), FencingToken(0))
    with closing(open_manifest(store, LocalFileSystem())) as task:
        LeaseTable(task, clock).renew(lease)
    manifest.close()
    with closing(open_manifest(store, LocalFileSystem())) as other:
        assert LeaseTable(other, clock).oldest_generation() is None
        with pytest.raises(LeaseExpiredError):
            LeaseTable(other, clock).renew(lease)


def test_who_removes_files_for_too_long(store: Path, leases: LeaseTable) -> None:
    lease = ReadLease("x", TimeStamp(7), Generation(1), 100, shared=True)
    with exclusive_readers_lock(store) as alone:
        assert alone
        with pytest.raises(StoreInUseError):
            leases.renew(lease)
    leases.renew(lease)
    with exclusive_readers_lock(store) as alone:
        assert not alone
