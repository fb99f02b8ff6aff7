"""Writers through the API that are stopped, or killed, at every step of a write."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.errors import LatchHeldError, LatchLostError, TheFlashError
from pyspark_theflash.base.failpoint import armed
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.service.client.theflash import TheFlash, connect
from pyspark_theflash.service.wire.message import Latch, LatchScope
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.testing.stores import column, id_column, table_info
from pyspark_theflash.tidb.codec.field_type import MySQLType
from tests.support.serving import serving
from tests.support.victims import Victim, files_in_manifest, files_on_disk
from tests.support.writes import latch, schema_change, write

CLOCK = SystemClock()
ITEMS = table_info(7, "shop.items", [id_column(), column("name", MySQLType.VARCHAR, flen=20)])
OTHER = table_info(8, "shop.other", [id_column()])
BEFORE = {ITEMS: [(n, 150, 140, [n, "old"]) for n in range(4)]}
ROWS = {
    ITEMS: [(0, 250, 240, None), (1, 250, 240, [1, "new"]), (9, 251, 241, [9, "new"])],
    OTHER: [(5, 250, 240, [5])],
}
OLD = [(n, "old") for n in range(4)]
NEW = [(1, "new"), (2, "old"), (3, "old"), (9, "new")]
SHORT_MS = 1_000
STEPS = (
    "ingest.before_publish",
    "magic.before_file",
    "magic.after_file",
    "magic.before_commit",
    "manifest.before_commit",
    "manifest.after_commit",
    "ingest.after_publish",
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    registry.create(tmp_path / "store", registry.MAGIC, LocalFileSystem())
    with connect(tmp_path / "store") as store:
        held = latch(store)
        begin = {"start_ts": 100, "schema": (schema_change(ITEMS, 100), schema_change(OTHER, 100))}
        write(store, held, BEFORE, resolved_ts=200, **begin)
        store.release_latch(held)
    return tmp_path / "store"


@pytest.fixture
def store(path: Path) -> Iterator[TheFlash]:
    with connect(path) as opened:
        yield opened


def rows(store: TheFlash, table: str = "shop.items") -> list[Any]:
    plan = store.plan(table)
    cells = [tuple(row.values()) for batch in store.read(plan) for row in batch.to_pylist()]
    store.release(plan.snapshot)
    return sorted(cells)


def write_and_note(path: Path, held: Latch | None, step: str, how: str, noted: Path) -> None:
    """A victim's target: a write that is stopped or killed at a step; records its outcome.

    Takes its own latch for a short time unless one is passed.
    """

    def stop() -> None:
        os.kill(os.getpid(), signal.SIGSTOP)

    def die() -> None:
        os._exit(9)

    with connect(path) as store, armed(step, stop if how == "stop" else die):
        mine = held or latch(store, ttl_ms=SHORT_MS)
        try:
            write(store, mine, ROWS, resolved_ts=300, position="there")
        except TheFlashError as error:
            noted.write_text(type(error).__name__)
        else:
            noted.write_text("written")


def wait_until_stopped(victim: Victim) -> None:
    deadline_ms = CLOCK.boottime_ms() + 20_000
    while Path(f"/proc/{victim.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        assert CLOCK.boottime_ms() < deadline_ms
        CLOCK.sleep_ms(5)


def acquired_in_the_end(store: TheFlash) -> Latch:
    """A latch on the store as soon as the one before has run out."""
    with pytest.raises(LatchHeldError):
        latch(store, name="another")
    return latch(store, name="another", wait_ms=20_000)


@pytest.mark.parametrize("somebody_else", [False, True])
@pytest.mark.parametrize("step", ["ingest.before_publish", "magic.before_commit"])
def test_a_holder_that_was_stopped_writes_too_late(
    path: Path, store: TheFlash, tmp_path: Path, step: str, somebody_else: bool
) -> None:
    """It continues after its latch has expired, whether or not another caller has the next one."""
    victim = Victim(write_and_note, path, None, step, "stop", tmp_path / "noted")
    wait_until_stopped(victim)
    if somebody_else:
        second = acquired_in_the_end(store)
    else:
        CLOCK.sleep_ms(SHORT_MS)
    os.kill(victim.pid, signal.SIGCONT)
    victim.join()
    assert (tmp_path / "noted").read_text() == LatchLostError.__name__
    assert rows(store) == OLD
    assert store.status().resolved_ts == 200
    if not somebody_else:
        second = latch(store)
    write(store, second, ROWS, resolved_ts=300)
    assert rows(store) == NEW
    assert files_on_disk(path) == files_in_manifest(path)


def test_nobody_is_granted_the_next_in_the_midst_of_a_commit(
    path: Path, store: TheFlash, tmp_path: Path
) -> None:
    """Stopped after the look at its latch, it commits, and only then is the next one granted."""
    victim = Victim(write_and_note, path, None, "manifest.before_commit", "stop", tmp_path / "n")
    wait_until_stopped(victim)
    CLOCK.sleep_ms(SHORT_MS)
    granted: list[int] = []

    def acquire() -> None:
        with connect(path) as other:
            latch(other, name="another", wait_ms=20_000)
            granted.append(other.status().generation)

    thread = threading.Thread(target=acquire)
    thread.start()
    CLOCK.sleep_ms(300)
    assert not granted
    os.kill(victim.pid, signal.SIGCONT)
    victim.join()
    thread.join()
    assert (tmp_path / "n").read_text() == "written"
    assert granted == [store.status().generation]
    assert rows(store) == NEW


@pytest.mark.parametrize("step", STEPS)
def test_killed_in_a_write(path: Path, store: TheFlash, tmp_path: Path, step: str) -> None:
    """All rows or none; written again by the holder of the latch, they are stored once."""
    held = latch(store)
    victim = Victim(write_and_note, path, held, step, "die", tmp_path / "noted")
    assert victim.exit_code() == 9
    is_there = step in ("manifest.after_commit", "ingest.after_publish")
    status = store.status()
    assert (status.resolved_ts, status.position) == ((300, "there") if is_there else (200, None))
    assert rows(store) == (NEW if is_there else OLD)
    assert rows(store, "shop.other") == ([(5,)] if is_there else [])
    done = write(store, held, ROWS, resolved_ts=300, position="there")
    assert done.repeated == (2 if is_there else 0)
    assert rows(store) == NEW
    assert rows(store, "shop.other") == [(5,)]
    with closing(connect(path)) as again:
        again.compact()
    assert files_on_disk(path) == files_in_manifest(path)


def test_latches_outlive_the_service(path: Path, tmp_path: Path) -> None:
    """Tokens continue to increase after the service is started again."""
    tokens = []
    for n in range(3):
        with serving(path, f"unix:{tmp_path}/s") as server, connect(server.address) as store:
            for kept in store.latches().latches:
                assert store.renew_latch(kept).token == tokens[-1]
                with pytest.raises(LatchHeldError):
                    latch(store, LatchScope("shop.items"), name="another")
                store.release_latch(kept)
            tokens.append(latch(store, name=f"run {n}").token)
    assert tokens == sorted({token for token in tokens if token is not None})
