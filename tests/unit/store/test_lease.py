import contextlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from pyspark_theflash.clock import SystemClock
from pyspark_theflash.errors import CorruptionError, LeaseExpiredError
from pyspark_theflash.fs import LocalFileSystem
from pyspark_theflash.store.folder import open_manifest
from pyspark_theflash.store.lease import LeaseTable
from pyspark_theflash.store.manifest import Change, Manifest
from pyspark_theflash.types import MAX_TS, FencingToken, TimeStamp


class FakeClock(SystemClock):
    """Stands still until it is told; the wall clock lies."""

    def __init__(self) -> None:
        self.now_ms, self.boot = 1_000, "this run"

    def wall_ms(self) -> int:
        return -self.now_ms

    def boottime_ms(self) -> int:
        return self.now_ms

    def boot_id(self) -> str:
        return self.boot


@pytest.fixture
def manifest(store: Path) -> Iterator[Manifest]:
    with closing(open_manifest(store, LocalFileSystem())) as opened:
        yield opened


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def leases(manifest: Manifest, clock: FakeClock) -> LeaseTable:
    return LeaseTable(manifest, clock)


def test_a_lease_pins_the_generation_it_was_taken_in(
    manifest: Manifest, leases: LeaseTable
) -> None:
    assert leases.oldest_generation() is None
    first = leases.take(MAX_TS, 100)
    manifest.commit(Change(), FencingToken(0))
    second = leases.take(TimeStamp(0), 100)
    assert second.generation == first.generation + 1
    assert leases.oldest_generation() == first.generation
    leases.release(first)
    assert leases.oldest_generation() == second.generation
    leases.release(second)
    leases.release(second)
    assert leases.oldest_generation() is None


def test_a_lease_runs_out_unless_renewed(leases: LeaseTable, clock: FakeClock) -> None:
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


def test_a_lease_ends_with_the_machines_run(leases: LeaseTable, clock: FakeClock) -> None:
    lease = leases.take(TimeStamp(1), 10_000)
    clock.boot, clock.now_ms = "the next run", 0
    with pytest.raises(LeaseExpiredError):
        leases.renew(lease)
    assert leases.oldest_generation() is None


def test_the_block_of_a_lease_is_one_transaction(manifest: Manifest, leases: LeaseTable) -> None:
    with contextlib.suppress(ArithmeticError), manifest.leases() as db:
        db.execute("INSERT INTO lease VALUES ('x', '1', 0, 'this run', 9999)")
        raise ArithmeticError
    assert leases.oldest_generation() is None


def test_a_lease_table_that_is_gone(manifest: Manifest, leases: LeaseTable) -> None:
    with manifest.leases() as db:
        db.execute("DROP TABLE lease")
    with pytest.raises(CorruptionError, match="no such table"):
        leases.take(TimeStamp(1), 1)
