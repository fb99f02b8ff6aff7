"""The writer's latch: callers that wait for it, its expiry, and failing disks."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.errors import LatchHeldError, LatchLostError
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.replication import writer_latch
from pyspark_theflash.replication.writer_latch import WriterLatch
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.storage.engine.api import Publication
from pyspark_theflash.storage.store import transient
from pyspark_theflash.storage.store.folder import open_manifest, read_identity
from pyspark_theflash.storage.store.latch.latch import STORE, LatchKind, LatchRequest
from pyspark_theflash.storage.store.latch.queue import LatchQueue
from pyspark_theflash.storage.store.manifest import Manifest, ManifestChange, Record

FS, CLOCK = LocalFileSystem(), SystemClock()
OTHER = LatchRequest(LatchKind.WRITE, STORE, 60_000, "loader", "user 0")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    registry.create(tmp_path / "store", registry.MAGIC, FS)
    return tmp_path / "store"


@pytest.fixture
def manifest(path: Path) -> Iterator[Manifest]:
    with closing(open_manifest(path, FS)) as opened:
        yield opened


def publication(n: int) -> Publication:
    return Publication((), ManifestChange([Record("note", "n", str(n).encode())]))


def test_writers_and_callers_keep_each_other_out(path: Path, manifest: Manifest) -> None:
    queue = LatchQueue(manifest, CLOCK)
    with closing(WriterLatch(path, FS, CLOCK)) as latch:
        latch.take(0)
        with pytest.raises(LatchHeldError, match="process"):
            queue.acquire(OTHER)
        with closing(WriterLatch(path, FS, CLOCK)) as second, pytest.raises(LatchHeldError):
            second.take(0)
    held = queue.acquire(OTHER)
    with closing(WriterLatch(path, FS, CLOCK)) as latch:
        with pytest.raises(LatchHeldError, match="loader"):
            latch.take(50)
        queue.release(held.claim)


def test_nothing_is_published_without_it(
    path: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A latch that expired while the process was suspended is acquired again."""
    monkeypatch.setattr(writer_latch, "_LOOK_S", 0.05)
    queue = LatchQueue(manifest, CLOCK)
    with closing(WriterLatch(path, FS, CLOCK, ttl_ms=300)) as latch:
        identity = read_identity(path, FS)
        with closing(registry.open_engine(path, identity, FS, CLOCK, latch.guard)) as engine:
            with pytest.raises(LatchLostError):
                engine.publish(publication(0))
            latch.take(0)
            engine.publish(publication(1))
            CLOCK.sleep_ms(700)
            engine.publish(publication(2))
            with pytest.raises(LatchHeldError):
                queue.acquire(OTHER)
            _end(manifest)
            held = queue.acquire(OTHER)
            with pytest.raises(LatchLostError):
                engine.publish(publication(3))
            assert engine.read(["note"]).of_kind("note")["n"] == b"2"
            queue.release(held.claim)
            deadline_ms = CLOCK.boottime_ms() + 5_000
            while True:
                try:
                    engine.publish(publication(4))
                    break
                except LatchLostError:
                    assert CLOCK.boottime_ms() < deadline_ms
                    CLOCK.sleep_ms(20)
            assert engine.read(["note"]).of_kind("note")["n"] == b"4"


def _end(manifest: Manifest) -> None:
    """End the latch, as after a long sleep."""
    with transient.opened(manifest, write=True) as rows:
        for id in rows.rows(transient.LATCH_KIND):
            rows.remove(transient.LATCH_KIND, id)
