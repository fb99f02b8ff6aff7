"""A store's folder: its files, creation, identification and format upgrades.

STORE/
  format        "theflash-store 4" or 5: checked before anything else is opened, so that a later
                format is rejected before anything changes
  theflash.db   the manifest (SQLite, with -wal and -shm beside it)
  ack           the newest acknowledged manifest
  writer.lock   held by the one process that writes
  readers.lock  held by readers that cannot write (`readers_lock.py`)
  data/         the engine's files
  upgrade       exists during an upgrade from an older format

Creation
    The format file is written last; without it there is no store. A crash before that leaves only
    files with the names above and no data, which the next attempt removes.

Upgrade
    The first process that opens a store of an older format upgrades it, with the writer's lock:

    upgrade       is created: the upgrade has begun and must be completed
    format        is set to 4: older versions of the program reject the store from now on
    readers.lock  is created
    theflash.db   gets the tables of transient records, or the kinds missing in format 2 (tickets
                  and fences); the latches of format 1 are copied and their table is dropped;
                  then the record of the main feed, missing in format 3, is added
    upgrade       is removed

    All steps are idempotent, so a crashed upgrade is repeated.

Format 5
    A store gets format 5 before the first commit with a kind of records that format 4 does not
    have, so that versions that would ignore these records reject the store. Until then, they can
    open it.
"""

import contextlib
import json
import os
import sqlite3
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from pyspark_theflash.base.errors import (
    CodecError,
    CorruptionError,
    EngineError,
    StoreExistsError,
    StoreFormatError,
    StoreNotFoundError,
)
from pyspark_theflash.base.failpoint import fail_point
from pyspark_theflash.base.fs import FileSystem, file_stamp
from pyspark_theflash.base.types import Generation, TimeStamp
from pyspark_theflash.storage.store.feed import inferred_feed
from pyspark_theflash.storage.store.latch.latch import Latch, LatchKind
from pyspark_theflash.storage.store.latch.readers_lock import READERS_LOCK_FILE
from pyspark_theflash.storage.store.manifest import (
    ACK,
    DATABASE,
    SCRATCH_ACK,
    Manifest,
    ManifestChange,
    Record,
    View,
    file_errors,
)
from pyspark_theflash.storage.store.place import check_place
from pyspark_theflash.storage.store.transient import LATCH_KIND, TransientRecords, create_board
from pyspark_theflash.storage.store.writer_lock import LOCK_FILE, WriterLock
from pyspark_theflash.tidb.codec.document import int64, load, shaped, text, uint64

FORMAT: Final = 5
"""The newest format that this version reads."""
_NEW_FORMAT: Final = 4
"""The format of a new store, and of one that was upgraded."""
LATER_KINDS: Final = frozenset(
    {
        "base-load",
        "ch",
        "ch.retired",
        "compared",
        "copy",
        "entered",
        "following",
        "imports",
        "load",
        "sink-series",
        "stopped-region",
    }
)
"""The kinds of records that format 4 does not have."""
FORMAT_FILE: Final = "format"
DATA_FOLDER: Final = "data"
IDENTITY_KIND: Final = "store"
_FORMAT_PREFIX: Final = "theflash-store "
_SCRATCH_FORMAT: Final = f"{FORMAT_FILE}.new"
_UPGRADE_FILE: Final = "upgrade"
_HALF_MADE: Final = (
    DATABASE,
    *(f"{DATABASE}-{part}" for part in ("wal", "shm", "journal")),
    ACK,
    SCRATCH_ACK,
    READERS_LOCK_FILE,
    _SCRATCH_FORMAT,
)
"""The files that `create_store` creates before `format`, except the lock and the data folder."""


@dataclass(frozen=True, slots=True)
class StoreIdentity:
    """The id of a store and the name of its engine."""

    store_id: str
    engine: str

    def to_record(self) -> Record:
        return Record(IDENTITY_KIND, "identity", json.dumps(asdict(self)).encode())

    @classmethod
    def of(cls, view: View) -> "StoreIdentity":
        """Decode the identity in a view. Raises `CodecError`."""
        with shaped(f"{IDENTITY_KIND} record"):
            body = load(view.of_kind(IDENTITY_KIND)["identity"])
            return cls(text(body["store_id"]), text(body["engine"]))


def create_store(
    path: Path, identity: StoreIdentity, fs: FileSystem, settings: Iterable[Record] = ()
) -> None:
    """Create an empty store at `path` durably, with these settings.

    Raises:
        StorePlaceError: `path` is not on a local file system.
        StoreExistsError: `path` exists and is not an empty folder.
        StoreInUseError: Another process is creating a store there.
    """
    check_place(path, fs)
    with file_errors(path):
        if not _is_free(path):
            raise StoreExistsError(str(path))
        fs.make_folder(path)
        path.chmod(0o700)
        lock = WriterLock(path)
        try:
            if not _is_free(path):
                raise StoreExistsError(str(path))
            for name in _HALF_MADE:
                fs.unlink(path / name)
            fs.make_folder(path / DATA_FOLDER)
            fs.write_new(path / READERS_LOCK_FILE, memoryview(b""))
            Manifest.create(path, fs, [identity.to_record(), *settings], also=create_board)
            _write_format(path, fs, _NEW_FORMAT)
        finally:
            lock.release()


def _is_free(path: Path) -> bool:
    """Return whether a path does not exist, or is an empty or partly created store folder."""
    if not path.exists():
        return True
    if not path.is_dir() or any((path / DATA_FOLDER).glob("*")):
        return False
    return {p.name for p in path.iterdir()} <= {*_HALF_MADE, LOCK_FILE, DATA_FOLDER}


def open_manifest(path: Path, fs: FileSystem) -> Manifest:
    """Open the manifest of the store at `path`, and upgrade the store if it has an older format.

    Raises:
        StorePlaceError: `path` is not on a local file system.
        StoreNotFoundError: There is no store at `path`.
        StoreFormatError: The store has a later format.
        StoreInUseError: The store has an older format and another process has its writer's lock.
        CorruptionError: The store is damaged.
    """
    check_place(path, fs)
    if format_of(path) < _NEW_FORMAT or (path / _UPGRADE_FILE).exists():
        _upgrade(path, fs)
    return _open(path, fs)


def read_identity(path: Path, fs: FileSystem) -> StoreIdentity:
    """Read the identity of the store at `path`. Raises what `open_manifest` does."""
    with contextlib.closing(open_manifest(path, fs)) as manifest:
        return StoreIdentity.of(manifest.read([IDENTITY_KIND]))


class CurrentIdentity:
    """Cached identity of the store at `path`; read again if the store was replaced. Thread-safe."""

    def __init__(self, path: Path, fs: FileSystem) -> None:
        self._path, self._fs = path, fs
        self._cached: tuple[object, StoreIdentity] | None = None

    def get(self) -> StoreIdentity:
        """Return the identity. Raises what `open_manifest` does."""
        with file_errors(self._path):
            stamp = file_stamp(self._path / FORMAT_FILE)
        cached = self._cached
        if cached is None or cached[0] != stamp:
            cached = self._cached = stamp, read_identity(self._path, self._fs)
        return cached[1]


def _open(path: Path, fs: FileSystem) -> Manifest:
    if not (path / DATABASE).is_file():
        raise CorruptionError(str(path / DATABASE), 0, "the manifest is missing")
    return Manifest(path, fs, lambda kinds: _raise_format(path, fs, kinds))


def format_of(path: Path) -> int:
    """Return the format of the store at `path`.

    Raises:
        StoreNotFoundError: There is no store at `path`.
        StoreFormatError: The store has a later format.
        StoreAccessError: This process may not read the store.
        CorruptionError: The store is damaged.
    """
    file = path / FORMAT_FILE
    with file_errors(path):
        if not file.is_file():
            raise StoreNotFoundError(str(path))
        content = file.read_bytes()[:64].decode("ascii", "replace")
    number = content.removeprefix(_FORMAT_PREFIX).strip()
    if not content.startswith(_FORMAT_PREFIX) or not number.isdigit() or int(number) < 1:
        raise CorruptionError(str(file), 0, "not a store's format file")
    if int(number) > FORMAT:
        raise StoreFormatError(str(path), int(number), FORMAT)
    return int(number)


def _raise_format(path: Path, fs: FileSystem, kinds: Collection[str]) -> None:
    """Raise the format of a store, if format 4 does not have one of the kinds of records."""
    if not LATER_KINDS.isdisjoint(kinds) and format_of(path) < FORMAT:
        _write_format(path, fs, FORMAT)


def _write_format(path: Path, fs: FileSystem, format: int) -> None:
    scratch = path / _SCRATCH_FORMAT
    fs.unlink(scratch)
    fs.write_new(scratch, memoryview(f"{_FORMAT_PREFIX}{format}\n".encode()))
    fs.rename(scratch, path / FORMAT_FILE)


def _upgrade(path: Path, fs: FileSystem) -> None:
    """Upgrade a store; see the module docstring. Does nothing if another process has done so."""
    if not os.access(path, os.W_OK):
        reason = "has an older format and cannot be written: open it once with write permission"
        raise EngineError(str(path), reason)
    lock = WriterLock(path)
    marker = path / _UPGRADE_FILE
    try:
        with file_errors(path):
            if format_of(path) < _NEW_FORMAT:
                with contextlib.suppress(FileExistsError):
                    fs.write_new(marker, memoryview(b""))
                fs.sync_folder(path)
                fail_point("upgrade.before_format")
                _write_format(path, fs, _NEW_FORMAT)
            elif not marker.exists():
                return
            fail_point("upgrade.after_format")
            with contextlib.suppress(FileExistsError):
                fs.write_new(path / READERS_LOCK_FILE, memoryview(b""))
            with contextlib.closing(_open(path, fs)) as manifest:
                _upgrade_database(manifest)
                if (record := inferred_feed(manifest)) is not None:
                    manifest.commit(ManifestChange([record]), manifest.take_token())
            fail_point("upgrade.after_database")
            fs.unlink(marker)
            fs.sync_folder(path)
    finally:
        lock.release()


def _upgrade_database(manifest: Manifest) -> None:
    with manifest.transient_transaction(write=True) as db:
        create_board(db)
        rows = TransientRecords(manifest, db)
        try:
            leases = _format1_leases(db)
        except CodecError as error:
            path = str(manifest.folder / DATABASE)
            raise CorruptionError(path, 0, "a lease of format 1 is malformed") from error
        for latch in leases:
            rows.put(LATCH_KIND, latch.id, latch.to_body())
        db.execute("DROP TABLE IF EXISTS lease")


def _format1_leases(db: sqlite3.Connection) -> list[Latch]:
    """Return the leases of format 1, as read latches. Raises `CodecError`: they have no checksums.

    Each pinned a timestamp and a generation.
    """
    if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'lease'").fetchall():
        return []
    with shaped("lease of format 1"):
        return [
            Latch(
                text(id),
                LatchKind.READ,
                TimeStamp(uint64(int(ts))),
                Generation(uint64(generation)),
                text(boot_id),
                int64(expires_ms),
                None,
            )
            for id, ts, generation, boot_id, expires_ms in db.execute("SELECT * FROM lease")
        ]
