import re
from contextlib import closing
from pathlib import Path

import pytest

import pyspark_theflash
from pyspark_theflash.base.errors import (
    CorruptionError,
    EngineError,
    StoreExistsError,
    StoreFormatError,
    StoreNotFoundError,
    TheFlashError,
)
from pyspark_theflash.base.failpoint import armed
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.storage.store import folder
from pyspark_theflash.storage.store.folder import (
    FORMAT,
    FORMAT_FILE,
    LATER_KINDS,
    StoreIdentity,
    create_store,
    format_of,
    open_manifest,
    read_identity,
)
from pyspark_theflash.storage.store.manifest import DATABASE, ManifestChange, Record

FORMAT_4_KINDS = {
    "aside",
    "assumed-empty",
    "base",
    "command",
    "feed",
    "fence",
    "file",
    "floor",
    "gap",
    "latch",
    "learned",
    "move",
    "orphan",
    "partition",
    "pending",
    "progress",
    "purged",
    "recovered",
    "region",
    "retired",
    "scope",
    "setting",
    "store",
    "ticket",
    "written",
}
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
        ("theflash-store 6\n", StoreFormatError),
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


@pytest.mark.parametrize("kind", sorted(LATER_KINDS))
def test_the_first_record_of_a_later_kind_raises_the_format(store: Path, kind: str) -> None:
    """Before it is committed, so that no version can see a record that it would ignore."""
    record = Record(kind, "k", b"1")

    def look(_: object) -> None:
        assert (store / FORMAT_FILE).read_text() == "theflash-store 4\n"

    with closing(open_manifest(store, FS)) as manifest:
        token = manifest.take_token()
        manifest.commit(ManifestChange([Record("setting", "interval_ms", b"1")]), token, look)
        with armed("manifest.before_commit", fail), pytest.raises(ValueError, match="commit fails"):
            manifest.commit(ManifestChange([record]), token, look)
        assert not manifest.read([kind]).of_kind(kind)
        assert (store / FORMAT_FILE).read_text() == "theflash-store 5\n"
        manifest.commit(ManifestChange([record]), token)
        stamp = (store / FORMAT_FILE).stat().st_mtime_ns
        manifest.commit(ManifestChange((), [(kind, "k")]), token)
    assert (store / FORMAT_FILE).stat().st_mtime_ns == stamp
    assert format_of(store) == FORMAT
    assert read_identity(store, FS) == IDENTITY


def fail() -> None:
    raise ValueError("the commit fails")


def test_a_version_of_format_4_refuses_them(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(open_manifest(store, FS)) as manifest:
        manifest.commit(ManifestChange([Record("load", "plan", b"")]), manifest.take_token())
    before = {p: p.read_bytes() for p in store.iterdir() if p.is_file()}
    monkeypatch.setattr(folder, "FORMAT", 4)
    with pytest.raises(StoreFormatError, match="format 5; this version reads up to 4"):
        open_manifest(store, FS)
    assert {p: p.read_bytes() for p in store.iterdir() if p.is_file()} == before


def test_every_kind_of_records_has_a_format() -> None:
    """A new kind is added to `LATER_KINDS` of the next format, never to those of format 4.

    The engine delta has its records in a Delta table, which has a format of its own.
    """
    files = Path(pyspark_theflash.__file__).parent.rglob("*.py")
    texts = [file.read_text() for file in files if file.parent.name != "delta"]
    kinds = {kind for text in texts for kind in re.findall(r'_KIND: Final = "([^"]*)"', text)}
    assert kinds == LATER_KINDS | FORMAT_4_KINDS


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
