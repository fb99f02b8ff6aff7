"""A flipped bit anywhere in a manifest's files: the right records or `CorruptionError`.

Once with a checkpointed database and no log, once as after a crash, with the last commits in the
log only.
"""

import logging
import random
import shutil
from collections import Counter
from collections.abc import Mapping
from contextlib import closing, suppress
from pathlib import Path

import pytest

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.errors import CorruptionError, TheFlashError
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.storage.store.folder import open_manifest
from pyspark_theflash.storage.store.latch.lease import LeaseTable
from pyspark_theflash.storage.store.manifest import ACK, DATABASE, ManifestChange, Record

FS = LocalFileSystem()
KINDS = ("store", "a", "b")
SLOW = pytest.mark.slow
Files = dict[str, bytes]
_log = logging.getLogger(__name__)


def snapshot(store: Path) -> Files:
    names = (ACK, DATABASE, f"{DATABASE}-wal")
    return {n: (store / n).read_bytes() for n in names if (store / n).exists()}


def read(store: Path) -> Mapping[str, Mapping[str, bytes]]:
    with closing(open_manifest(store, FS)) as manifest:
        return manifest.read(KINDS).records


def commit(store: Path, key: str) -> None:
    with closing(open_manifest(store, FS)) as manifest:
        manifest.commit(ManifestChange([Record("a", key, b"x" * 40)]), manifest.take_token())


@pytest.fixture(params=["checkpointed", "in the log"])
def files(request: pytest.FixtureRequest, store: Path) -> Files:
    for number in range(12):
        commit(store, f"key {number}")
    with closing(open_manifest(store, FS)) as manifest:
        LeaseTable(manifest, SystemClock()).take(TimeStamp(1), 1000)
        change = ManifestChange([Record("b", "k", b"y" * 500)], [("a", "key 3")])
        manifest.commit(change, manifest.head().token)
        as_a_crash_leaves_it = snapshot(store)
    return as_a_crash_leaves_it if request.param == "in the log" else snapshot(store)


def flipped(files: Files, name: str, bit: int) -> Files:
    data = bytearray(files[name])
    data[bit // 8] ^= 1 << bit % 8
    return {**files, name: bytes(data)}


def put_back(store: Path, files: Files) -> None:
    for name in (ACK, DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm"):
        (store / name).unlink(missing_ok=True)
    for name, data in files.items():
        (store / name).write_bytes(data)


def damages(files: Files, count: int) -> list[tuple[str, int]]:
    """Return (file, bit): half of them anywhere, half in used bytes, which are the minority."""
    rng = random.Random(1)
    used = {name: [at for at, byte in enumerate(data) if byte] for name, data in files.items()}
    return [
        (name, 8 * rng.choice(rng.choice([range(len(files[name])), used[name]])) + rng.randrange(8))
        for name in rng.choices(sorted(files), k=count)
    ]


@pytest.mark.parametrize("count", [150, pytest.param(4000, marks=SLOW)])
def test_a_flipped_bit_is_never_another_state(count: int, store: Path, files: Files) -> None:
    put_back(store, files)
    right, outcomes = read(store), Counter[tuple[str, bool]]()
    for name, bit in damages(files, count):
        put_back(store, flipped(files, name, bit))
        try:
            assert read(store) == right, (name, bit)
            outcomes[name, False] += 1
        except CorruptionError:
            outcomes[name, True] += 1
    assert all(outcomes[name, True] > count // 50 for name in files)
    _log.info("(file, noticed): %s", dict(outcomes))


@pytest.mark.parametrize("count", [60, pytest.param(2000, marks=SLOW)])
def test_a_commit_on_damage_is_never_another_state(count: int, store: Path, files: Files) -> None:
    put_back(store, files)
    right = read(store)
    commit(store, "new")
    right_after = read(store)
    outcomes = Counter[str]()
    for name, bit in damages(files, count):
        put_back(store, flipped(files, name, bit))
        is_acknowledged = False
        with suppress(TheFlashError):
            commit(store, "new")
            is_acknowledged = True
        try:
            state = read(store)
            assert state == right_after or (state == right and not is_acknowledged), (name, bit)
            outcomes["acknowledged" if is_acknowledged else "refused"] += 1
        except CorruptionError:
            outcomes["corrupt"] += 1
    assert len(outcomes) > 1
    _log.info("%s", dict(outcomes))


def test_a_head_that_is_read_by_itself(store: Path) -> None:
    with closing(open_manifest(store, FS)) as manifest:
        body = manifest.head().to_json()
    content = bytearray((store / DATABASE).read_bytes())
    content[content.index(body) // 4096 * 4096] = 0xFF
    (store / DATABASE).write_bytes(content)
    with (
        closing(open_manifest(store, FS)) as manifest,
        pytest.raises(CorruptionError, match="not readable"),
    ):
        manifest.head()


@pytest.mark.parametrize("keep", [0.0, 0.4, 0.99])
def test_a_shortened_file(store: Path, files: Files, keep: float) -> None:
    put_back(store, files)
    right = read(store)
    for name, data in files.items():
        put_back(store, {**files, name: data[: int(len(data) * keep)]})
        with suppress(CorruptionError):
            assert read(store) == right, name


def test_a_lost_log(store: Path, files: Files) -> None:
    put_back(store, {n: d for n, d in files.items() if not n.endswith("-wal")})
    if len(files) == 2:
        assert read(store)["b"] == {"k": b"y" * 500}
    else:
        with pytest.raises(CorruptionError):
            read(store)


def test_a_copy_of_the_folder_is_the_store(store: Path, files: Files, tmp_path: Path) -> None:
    put_back(store, files)
    shutil.copytree(store, tmp_path / "copy")
    assert read(tmp_path / "copy") == read(store)
