"""A store's folder: what is where, how one is made and recognised.

STORE/
  format        "theflash-store 1": checked before anything else is opened, so that a later
                format is refused before a byte changes
  theflash.db   the manifest (SQLite, with -wal and -shm beside it)
  ack           the newest acknowledged manifest
  writer.lock   held by the one process that writes
  data/         the engine's files
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from pyspark_theflash.errors import (
    CorruptionError,
    StoreExistsError,
    StoreFormatError,
    StoreNotFoundError,
)
from pyspark_theflash.fs import FileSystem
from pyspark_theflash.store.manifest import DATABASE, Manifest, Record, View, file_errors

FORMAT: Final = 1
FORMAT_FILE: Final = "format"
DATA_FOLDER: Final = "data"
IDENTITY_KIND: Final = "store"
_FORMAT_PREFIX: Final = "theflash-store "


@dataclass(frozen=True, slots=True)
class StoreIdentity:
    """Which store this is, and which engine keeps its rows."""

    store_id: str
    engine: str

    def to_record(self) -> Record:
        return Record(IDENTITY_KIND, "identity", json.dumps(asdict(self)).encode())

    @classmethod
    def of(cls, view: View) -> "StoreIdentity":
        body = json.loads(view.of_kind(IDENTITY_KIND)["identity"])
        return cls(body["store_id"], body["engine"])


def create_store(path: Path, identity: StoreIdentity, fs: FileSystem) -> None:
    """Make an empty store at `path`, durably.

    The format file comes last: without it there is no store.

    Raises:
        StoreExistsError: there is something at `path` already.
    """
    scratch, text = path / f"{FORMAT_FILE}.new", f"{_FORMAT_PREFIX}{FORMAT}\n"
    with file_errors(path):
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise StoreExistsError(str(path))
        fs.make_folder(path)
        path.chmod(0o700)
        fs.make_folder(path / DATA_FOLDER)
        Manifest.create(path, fs, [identity.to_record()])
        fs.write_new(scratch, memoryview(text.encode()))
        fs.rename(scratch, path / FORMAT_FILE)


def open_manifest(path: Path, fs: FileSystem) -> Manifest:
    """The manifest of the store at `path`.

    Raises:
        StoreNotFoundError: there is no store.
        StoreFormatError: it is of a later format.
        CorruptionError: it is damaged.
    """
    _check_format(path)
    if not (path / DATABASE).is_file():
        raise CorruptionError(str(path / DATABASE), 0, "the manifest is missing")
    return Manifest(path, fs)


def read_identity(path: Path, fs: FileSystem) -> StoreIdentity:
    """Which store is at `path`; raises like `open_manifest`."""
    manifest = open_manifest(path, fs)
    try:
        return StoreIdentity.of(manifest.read([IDENTITY_KIND]))
    finally:
        manifest.close()


def _check_format(path: Path) -> None:
    file = path / FORMAT_FILE
    if not file.is_file():
        raise StoreNotFoundError(str(path))
    with file_errors(file):
        text = file.read_bytes()[:64].decode("ascii", "replace")
    number = text.removeprefix(_FORMAT_PREFIX).strip()
    if not text.startswith(_FORMAT_PREFIX) or not number.isdigit() or int(number) < 1:
        raise CorruptionError(str(file), 0, "not a store's format file")
    if int(number) > FORMAT:
        raise StoreFormatError(str(path), int(number), FORMAT)
