import sqlite3
import stat
import threading
from contextlib import closing
from pathlib import Path

import pytest

from pyspark_theflash.base.errors import (
    CorruptionError,
    EngineError,
    InternalError,
    StaleTokenError,
    StoreFullError,
    TheFlashError,
)
from pyspark_theflash.base.failpoint import armed
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.storage.store.folder import DATA_FOLDER, open_manifest
from pyspark_theflash.storage.store.latch.readers_lock import READERS_LOCK_FILE
from pyspark_theflash.storage.store.manifest import ACK, DATABASE, Manifest, ManifestChange, Record
from pyspark_theflash.storage.store.writer_lock import LOCK_FILE, WriterLock

FS = LocalFileSystem()


def opened(store: Path) -> "closing[Manifest]":
    return closing(open_manifest(store, FS))


def put(manifest: Manifest, *bodies: str) -> int:
    """Put records 0, 1, ... of kind `k`."""
    records = [Record("k", str(n), body.encode()) for n, body in enumerate(bodies)]
    return manifest.commit(ManifestChange(records), manifest.head().token)


def run_sql(store: Path, *statements: str) -> None:
    """Change the database without the manifest."""
    with closing(sqlite3.connect(store / DATABASE, isolation_level=None)) as db:
        for statement in statements:
            db.execute(statement)


def test_commits_add_up_however_they_come(store: Path) -> None:
    with opened(store) as manifest:
        first = put(manifest, "a", "b")
        assert put(manifest, "a", "c", "d") == first + 1
        manifest.commit(ManifestChange(deletes=[("k", "0"), ("k", "2")]), manifest.head().token)
        assert manifest.read(["k", "no such kind"]).records == {
            "k": {"1": b"c"},
            "no such kind": {},
        }
        sums = manifest.head().sums["k"]
        assert sums == Record("k", "1", b"c").hash()
        assert set(manifest.read(["store"]).records) == {"store"}


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE record SET body = x'00' WHERE kind = 'k' AND key = '0'",
        "UPDATE record SET body = 'a' WHERE kind = 'k' AND key = '0'",
        "UPDATE record SET key = '9' WHERE kind = 'k' AND key = '0'",
        "UPDATE record SET kind = 'other' WHERE kind = 'k' AND key = '0'",
        "UPDATE record SET kind = 'k', key = '9' WHERE kind = 'store'",
        "DELETE FROM record WHERE kind = 'k' AND key = '0'",
        "DELETE FROM record",
        "INSERT INTO record VALUES ('k', '9', x'')",
        "INSERT INTO record VALUES ('k', x'39', x'')",
        "UPDATE head SET body = '[]'",
        "UPDATE head SET body = x'00'",
        "UPDATE head SET checksum = x'00'",
        "DELETE FROM head",
        "DROP TABLE head",
        "DROP TABLE record",
    ],
)
def test_what_was_changed_behind_its_back_shows(store: Path, statement: str) -> None:
    with opened(store) as manifest:
        put(manifest, "a", "b")
    run_sql(store, statement)
    with opened(store) as manifest, pytest.raises(CorruptionError):
        manifest.read(["k"])


def test_a_record_that_only_the_index_has_lost_shows(store: Path) -> None:
    with opened(store) as manifest:
        put(manifest, "a", "b")
    run_sql(
        store,
        "PRAGMA writable_schema = ON",
        "UPDATE sqlite_master SET sql = sql || ' WHERE key <> ''0''' WHERE name = 'record_key'",
        "PRAGMA writable_schema = RESET",
        "REINDEX record_key",
        "PRAGMA writable_schema = ON",
        "UPDATE sqlite_master SET sql = replace(sql, ' WHERE key <> ''0''', '') "
        "WHERE name = 'record_key'",
    )
    with opened(store) as manifest, pytest.raises(CorruptionError, match="fail their checksum"):
        manifest.read(["k"])


def files(store: Path) -> dict[Path, bytes]:
    """The content of a closed manifest, for `restore`."""
    return {path: path.read_bytes() for path in (store / DATABASE, store / ACK)}


def restore(files: dict[Path, bytes], *names: str) -> None:
    for path, data in files.items():
        if path.name in names:
            path.write_bytes(data)


@pytest.mark.parametrize("body", ["another", "the same"])
def test_a_database_that_is_not_the_acknowledged_one(store: Path, body: str) -> None:
    old = files(store)
    with opened(store) as manifest:
        put(manifest, "the same")
    new = files(store)
    restore(old, DATABASE)
    with opened(store) as manifest:
        with pytest.raises(
            CorruptionError, match="has generation 1, but generation 2 was acknowledged"
        ):
            manifest.read(["k"])
        with pytest.raises(CorruptionError, match="was acknowledged"):
            manifest.take_token()
        with pytest.raises(CorruptionError, match="was acknowledged"):
            put(manifest, "more")
    restore(old, DATABASE, ACK)
    with opened(store) as manifest:
        put(manifest, body)
    restore(new, ACK)
    with opened(store) as manifest:
        if body == "the same":
            assert manifest.read(["k"]).of_kind("k") == {"0": b"the same"}
        else:
            with pytest.raises(CorruptionError, match="generation 2 differs from"):
                manifest.read(["k"])


def test_a_commit_that_was_not_acknowledged_is_whole(store: Path) -> None:
    old = files(store)
    with opened(store) as manifest:
        put(manifest, "a")
    restore(old, ACK)
    with opened(store) as manifest:
        assert manifest.read(["k"]).of_kind("k") == {"0": b"a"}
        put(manifest, "b")


@pytest.mark.parametrize("content", [None, b"", b"\0" * 28, b"\0" * 24])
def test_a_damaged_ack(store: Path, content: bytes | None) -> None:
    (store / ACK).unlink()
    if content is not None:
        (store / ACK).write_bytes(content)
    with opened(store) as manifest, pytest.raises(CorruptionError):
        manifest.read([])


def test_a_stale_token_is_refused(store: Path) -> None:
    with opened(store) as manifest, opened(store) as other:
        old, new = manifest.take_token(), other.take_token()
        assert new > old
        with pytest.raises(StaleTokenError):
            manifest.commit(ManifestChange([Record("k", "0", b"")]), old)
        other.commit(ManifestChange([Record("k", "1", b"")]), new)
        assert list(manifest.read(["k"]).of_kind("k")) == ["1"]


def test_a_commit_that_fails_changes_nothing(store: Path) -> None:
    def fail() -> None:
        raise ArithmeticError

    with opened(store) as manifest:
        generation = put(manifest, "a")
        with pytest.raises(ArithmeticError), armed("manifest.before_commit", fail):
            put(manifest, "b")
        with pytest.raises(InternalError):
            manifest.commit(ManifestChange(deletes=[("k", "no such")]), manifest.head().token)
        assert manifest.read(["k"]).of_kind("k") == {"0": b"a"}
        assert put(manifest, "c") == generation + 1


def test_a_full_database_can_be_tried_again(store: Path) -> None:
    with opened(store) as manifest:
        put(manifest, "a")
        (pages,) = manifest._db.execute("PRAGMA page_count").fetchone()
        manifest._db.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(StoreFullError):
            put(manifest, "b" * 100_000)
        manifest._db.execute("PRAGMA max_page_count = 100000")
        assert manifest.read(["k"]).of_kind("k") == {"0": b"a"}
        put(manifest, "b" * 100_000)
        assert manifest.read(["k"]).of_kind("k") == {"0": b"b" * 100_000}


def test_a_database_that_is_not_there_or_locked(store: Path) -> None:
    with opened(store) as manifest, opened(store) as other:
        manifest._db.execute("PRAGMA busy_timeout = 1")
        with other.transient_transaction(write=True), pytest.raises(EngineError, match="locked"):
            put(manifest, "a")
        put(manifest, "a")
    (store / DATABASE).unlink()
    with pytest.raises(EngineError, match="unable to open"):
        Manifest(store, FS)


def test_readers_during_commits_see_whole_generations(store: Path) -> None:
    """Each generation holds its number in ten records; a reader must never see two numbers."""
    seen: list[set[bytes]] = []
    failures: list[Exception] = []
    done = threading.Event()

    def follow() -> None:
        try:
            with opened(store) as manifest:
                while not done.is_set():
                    seen.append(set(manifest.read(["k"]).of_kind("k").values()))
        except TheFlashError as error:
            failures.append(error)

    threads = [threading.Thread(target=follow) for _ in range(2)]
    for thread in threads:
        thread.start()
    with opened(store) as manifest:
        # Readers may be given no time for a while.
        for number in range(10_000):
            put(manifest, *[str(number)] * 10)
            if number > 60 and len({frozenset(s) for s in list(seen)}) > 2:
                break
    done.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert {len(s) for s in seen} <= {0, 1}
    assert len({frozenset(s) for s in seen}) > 2


def test_the_log_does_not_grow_without_end(store: Path) -> None:
    with opened(store) as manifest:
        for number in range(300):
            put(manifest, f"{number}" * 10_000)
        assert (store / f"{DATABASE}-wal").stat().st_size < 8 << 20


def test_only_the_owner_may_read(store: Path) -> None:
    with opened(store) as manifest:
        put(manifest, "a")
        lock = WriterLock(store)
        files = {p.name: stat.S_IMODE(p.stat().st_mode) for p in store.iterdir() if p.is_file()}
        lock.release()
    names = {ACK, DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm", "format", LOCK_FILE}
    names.add(READERS_LOCK_FILE)
    assert files == dict.fromkeys(names, 0o600)
    for folder in (store, store / DATA_FOLDER):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
