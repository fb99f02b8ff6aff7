from pathlib import Path

import pytest

from pyspark_theflash.base.errors import (
    CorruptionError,
    EngineError,
    StoreExistsError,
    StoreFormatError,
    StoreNotFoundError,
    TheFlashError,
)
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.storage.store.folder import (
    FORMAT_FILE,
    StoreIdentity,
    create_store,
    open_manifest,
    read_identity,
)
from pyspark_theflash.storage.store.manifest import DATABASE

FS = LocalFileSystem()
IDENTITY = StoreIdentity("some-id", "magic")


def test_a_store_knows_itself(store: Path) -> None:
    assert read_identity(store, FS) == IDENTITY
    assert (store / FORMAT_FILE).read_text() == "theflash-store 4\n"
    names = ["ack", "data", "format", "readers.lock", "theflash.db", "writer.lock"]
    assert sorted(p.name for p in store.iterdir()) == names


def test_an_empty_folder_will_do(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir(mode=0o755)
    create_store(tmp_path / "store", IDENTITY, FS)
    assert (tmp_path / "store").stat().st_mode & 0o777 == 0o700


def test_what_is_there_stays(store: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    for path in (store, tmp_path / "file", tmp_path):
        with pytest.raises(StoreExistsError):
            create_store(path, IDENTITY, FS)
    assert read_identity(store, FS) == IDENTITY
    with pytest.raises(EngineError, match="No such file"):
        create_store(tmp_path / "no" / "store", IDENTITY, FS)


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ("theflash-store 5\n", StoreFormatError),
        ("theflash-store 18446744073709551616", StoreFormatError),
        ("theflash-store 0\n", CorruptionError),
        ("theflash-store -1\n", CorruptionError),
        ("theflash-store\n", CorruptionError),
        ("theflash-store ²\n", CorruptionError),
        ("theflash-store 1 or so\n", CorruptionError),
        ("", CorruptionError),
        ("\0" * 100, CorruptionError),
        (None, StoreNotFoundError),
    ],
)
def test_another_format_is_refused_untouched(
    store: Path, content: str | None, error: type[TheFlashError]
) -> None:
    (store / FORMAT_FILE).unlink()
    if content is not None:
        (store / FORMAT_FILE).write_text(content)
    before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in store.iterdir() if p.is_file()}
    for attempt in (open_manifest, read_identity):
        with pytest.raises(error) as raised:
            attempt(store, FS)
        assert type(raised.value) is error
    after = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in store.iterdir() if p.is_file()}
    assert after == before


@pytest.mark.parametrize("content", [None, b"", b"not a database" * 400])
def test_a_manifest_that_is_not_one(store: Path, content: bytes | None) -> None:
    (store / DATABASE).unlink()
    if content is not None:
        (store / DATABASE).write_bytes(content)
    with pytest.raises(CorruptionError):
        read_identity(store, FS)


def test_no_store(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFoundError):
        open_manifest(tmp_path / "nothing", FS)
    with pytest.raises(StoreNotFoundError):
        open_manifest(tmp_path, FS)
