"""A store's folder: what is where, how one is made, recognised and brought up to date.

STORE/
  format        "theflash-store 4": checked before anything else is opened, so that a later
                format is refused before a byte changes
  theflash.db   the manifest (SQLite, with -wal and -shm beside it)
  ack           the newest acknowledged manifest
  writer.lock   held by the one process that writes
  readers.lock  held by readers that cannot write (`readers_lock.py`)
  data/         the engine's files
  upgrade       there while a store of an older format is brought up to date

Making one
    The format file comes last: without it there is no store. What a crash leaves before is files of
    our names and no data, which the next attempt clears away.

Bringing one up to date
    Whoever opens it first does it, holding the writer's lock:

    upgrade       is made: from now on, it is not done before it is done
    format        says 4: from now on, versions of older formats refuse the store
    readers.lock  is made
    theflash.db   gets the tables of transient records, or the kinds that format 2 lacks (tickets
                  and fences); the latches of format 1 are copied and their table is dropped;
                  then the record of the main feed, which format 3 lacks
    upgrade       is removed

    Each step may be done again, so a crash anywhere costs nothing but another attempt.
"""

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterable
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
from pyspark_theflash.storage.store.transient import LATCH_KIND, TransientRecords, create_board
from pyspark_theflash.storage.store.writer_lock import LOCK_FILE, WriterLock
from pyspark_theflash.tidb.codec.document import int64, load, shaped, text, uint64

FORMAT: Final = 4
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
"""The files that `create_store` makes first, apart from the lock and the data folder."""


@dataclass(frozen=True, slots=True)
class StoreIdentity:
    """Which store this is, and which engine keeps its rows."""

    store_id: str
    engine: str

    def to_record(self) -> Record:
        return Record(IDENTITY_KIND, "identity", json.dumps(asdict(self)).encode())

    @classmethod
    def of(cls, view: View) -> "StoreIdentity":
        """Raises `CodecError`."""
        with shaped(f"{IDENTITY_KIND} record"):
            body = load(view.of_kind(IDENTITY_KIND)["identity"])
            return cls(text(body["store_id"]), text(body["engine"]))


def create_store(
    path: Path, identity: StoreIdentity, fs: FileSystem, settings: Iterable[Record] = ()
) -> None:
    """Make an empty store at `path`, durably, with these settings.

    Raises:
        StoreExistsError: there is something at `path` already.
        StoreInUseError: another process is making a store there.
    """
    with file_errors(path):
        if not _may_become_a_store(path):
            raise StoreExistsError(str(path))
        fs.make_folder(path)
        path.chmod(0o700)
        lock = WriterLock(path)
        try:
            if not _may_become_a_store(path):
                raise StoreExistsError(str(path))
            for name in _HALF_MADE:
                fs.unlink(path / name)
            fs.make_folder(path / DATA_FOLDER)
            fs.write_new(path / READERS_LOCK_FILE, memoryview(b""))
            Manifest.create(path, fs, [identity.to_record(), *settings], also=create_board)
            _write_format(path, fs)
        finally:
            lock.release()


def _may_become_a_store(path: Path) -> bool:
    """Whether there is nothing, an empty folder, or what an interrupted attempt has left."""
    if not path.exists():
        return True
    if not path.is_dir() or any((path / DATA_FOLDER).glob("*")):
        return False
    return {p.name for p in path.iterdir()} <= {*_HALF_MADE, LOCK_FILE, DATA_FOLDER}


def open_manifest(path: Path, fs: FileSystem) -> Manifest:
    """The manifest of the store at `path`, which is brought up to date if it is of an older format.

    Raises:
        StoreNotFoundError: there is no store.
        StoreFormatError: it is of a later format.
        StoreInUseError: it is of an older format, and another process is writing it.
        CorruptionError: it is damaged.
    """
    if _format_of(path) < FORMAT or (path / _UPGRADE_FILE).exists():
        _upgrade(path, fs)
    return _open(path, fs)


def read_identity(path: Path, fs: FileSystem) -> StoreIdentity:
    """Which store is at `path`; raises like `open_manifest`."""
    with contextlib.closing(open_manifest(path, fs)) as manifest:
        return StoreIdentity.of(manifest.read([IDENTITY_KIND]))


class CurrentIdentity:
    """Which store is at `path`, looked at anew when another has come there. Thread-safe."""

    def __init__(self, path: Path, fs: FileSystem) -> None:
        self._path, self._fs = path, fs
        self._known: tuple[object, StoreIdentity] | None = None

    def get(self) -> StoreIdentity:
        """Raises like `open_manifest`."""
        with file_errors(self._path):
            stamp = file_stamp(self._path / FORMAT_FILE)
        known = self._known
        if known is None or known[0] != stamp:
            known = self._known = stamp, read_identity(self._path, self._fs)
        return known[1]


def _open(path: Path, fs: FileSystem) -> Manifest:
    if not (path / DATABASE).is_file():
        raise CorruptionError(str(path / DATABASE), 0, "the manifest is missing")
    return Manifest(path, fs)


def _format_of(path: Path) -> int:
    file = path / FORMAT_FILE
    if not file.is_file():
        raise StoreNotFoundError(str(path))
    with file_errors(file):
        content = file.read_bytes()[:64].decode("ascii", "replace")
    number = content.removeprefix(_FORMAT_PREFIX).strip()
    if not content.startswith(_FORMAT_PREFIX) or not number.isdigit() or int(number) < 1:
        raise CorruptionError(str(file), 0, "not a store's format file")
    if int(number) > FORMAT:
        raise StoreFormatError(str(path), int(number), FORMAT)
    return int(number)


def _write_format(path: Path, fs: FileSystem) -> None:
    scratch = path / _SCRATCH_FORMAT
    fs.unlink(scratch)
    fs.write_new(scratch, memoryview(f"{_FORMAT_PREFIX}{FORMAT}\n".encode()))
    fs.rename(scratch, path / FORMAT_FILE)


def _upgrade(path: Path, fs: FileSystem) -> None:
    """See the module. A second process finds nothing left to do."""
    if not os.access(path, os.W_OK):
        reason = "is of an older format, and its folder cannot be written: open it where it can be"
        raise EngineError(str(path), reason)
    lock = WriterLock(path)
    marker = path / _UPGRADE_FILE
    try:
        with file_errors(path):
            if _format_of(path) < FORMAT:
                with contextlib.suppress(FileExistsError):
                    fs.write_new(marker, memoryview(b""))
                fs.sync_folder(path)
                fail_point("upgrade.before_format")
                _write_format(path, fs)
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
    with manifest.beside(write=True) as db:
        create_board(db)
        rows = TransientRecords(manifest, db)
        try:
            leases = _format1_leases(db)
        except CodecError as error:
            path = str(manifest.folder / DATABASE)
            raise CorruptionError(path, 0, "a lease of format 1 is not one") from error
        for latch in leases:
            rows.put(LATCH_KIND, latch.id, latch.to_body())
        db.execute("DROP TABLE IF EXISTS lease")


def _format1_leases(db: sqlite3.Connection) -> list[Latch]:
    """Return what is left of the leases of a store's last users; they pinned both, as readers.

    Raises `CodecError`: these rows have no checksums.
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
