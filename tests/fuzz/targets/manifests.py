"""The manifest of a store: SQLite's file, its log, the other files; and its rows."""

import json
import shutil
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.storage.store import transient
from pyspark_theflash.storage.store.command import Mailbox, Verb
from pyspark_theflash.storage.store.folder import (
    FORMAT_FILE,
    StoreIdentity,
    create_store,
    open_manifest,
    read_identity,
)
from pyspark_theflash.storage.store.latch.latch import LatchKind
from pyspark_theflash.storage.store.latch.lease import LeaseTable
from pyspark_theflash.storage.store.manifest import ACK, DATABASE, ManifestChange, Record
from pyspark_theflash.testing.stores import StoreBuilder, column, id_column, table_info
from pyspark_theflash.tidb.codec.field_type import MySQLType
from pyspark_theflash.tidb.schema.model import TableInfo
from tests.fuzz.mutate import bytes_like, json_like, patch_like, patched
from tests.fuzz.run import Target
from tests.support.archives import unpack
from tests.support.workloads import FIXTURES

_FS, _CLOCK = LocalFileSystem(), SystemClock()
_LOG, _LOG_INDEX = f"{DATABASE}-wal", f"{DATABASE}-shm"
_TTL_MS = 1 << 40
_TABLES = ("record", "head", "board", "board_sum")


def small_files(folder: Path) -> Target:
    """Of a store: `ack` in front, then `format`."""
    store = folder / "store"
    create_store(store, StoreIdentity("some-id", "magic"), _FS)
    ack = (store / ACK).read_bytes()
    seeds = [ack + (store / FORMAT_FILE).read_bytes()]

    def parse(data: bytes) -> None:
        (store / ACK).write_bytes(data[: len(ack)])
        (store / FORMAT_FILE).write_bytes(data[len(ack) :])
        read_identity(store, _FS)

    words = (b"1", b"2", b"3", b"\xb2", b"9" * 5000, b"theflash-store ", b" ")
    return Target(seeds, bytes_like(seeds, words), parse)


def database_file(folder: Path) -> Target:
    """Without a log."""
    store = _store(folder / "store")
    content = (store / DATABASE).read_bytes()

    def parse(data: bytes) -> None:
        _put(store, patched(content, data))
        _read_all(store)

    return Target([b""], patch_like(content), parse)


def database_log(folder: Path) -> Target:
    """A log that has not been applied to the database."""
    store = _store(folder / "store")
    content = (store / DATABASE).read_bytes()
    with closing(open_manifest(store, _FS)) as manifest:
        token = manifest.take_token()
        for n in range(3):
            LeaseTable(manifest, _CLOCK, lambda: "later").take(TimeStamp(n), _TTL_MS)
            manifest.commit(ManifestChange([Record("other", "key", bytes([n]))]), token)
        log = (store / _LOG).read_bytes()

    def parse(data: bytes) -> None:
        _put(store, content, patched(log, data))
        _read_all(store)

    return Target([b""], patch_like(log), parse)


def database_row(folder: Path) -> Target:
    """u8 table | u8 row | u8 column | u8 what stands there instead | of what it is made."""
    store = _store(folder / "store")
    content = (store / DATABASE).read_bytes()
    seeds = [
        bytes([table, row, at, what]) + b"\x01\x00\x00\x00x"
        for table in range(len(_TABLES))
        for row in range(9)
        for at in range(4)
        for what in range(len(_VALUES))
    ]

    def parse(data: bytes) -> None:
        _put(store, content)
        with closing(sqlite3.connect(store / DATABASE)) as db, db, suppress(sqlite3.IntegrityError):
            _damage_row(db, data.ljust(4, b"\0"))
        _read_all(store)

    return Target([], bytes_like(seeds), parse)


def lease_of_format_1(folder: Path) -> Target:
    """A JSON array: the row that a store of format 1 has in its table of leases."""
    unpack(FIXTURES / "stores" / "format1.tar.gz", folder)
    store = folder / "format1"
    shutil.rmtree(store / "data")
    format_1 = (store / FORMAT_FILE).read_bytes()
    content = (store / DATABASE).read_bytes()
    documents = [["some-id", "470619616527253505", 7, _CLOCK.boot_id(), _TTL_MS]]

    def parse(data: bytes) -> None:
        (store / FORMAT_FILE).write_bytes(format_1)
        _put(store, content)
        with closing(sqlite3.connect(store / DATABASE)) as db, db:
            _insert_row(db, "lease", data)
        with closing(open_manifest(store, _FS)) as manifest:
            LeaseTable(manifest, _CLOCK).living()

    return Target(_texts(documents), json_like(documents), parse)


def _store(path: Path) -> Path:
    """One that has something of everything."""
    tables = [_table(n) for n in range(3)]
    versions = {table: [(n, 150, [n, "a"]) for n in range(9)] for table in tables}
    StoreBuilder(path, *tables).publish(300, versions)
    with closing(open_manifest(path, _FS)) as manifest:
        for kind in LatchKind:
            LeaseTable(manifest, _CLOCK).take(TimeStamp(200), _TTL_MS, kind)
        Mailbox(manifest, _CLOCK).ask(Verb.GC, 5, _TTL_MS)
    return path


def _table(number: int) -> TableInfo:
    return table_info(number + 7, f"d.t{number}", [id_column(), column("a", MySQLType.VARCHAR)])


def _put(store: Path, database: bytes, log: bytes = b"") -> None:
    (store / DATABASE).write_bytes(database)
    (store / _LOG_INDEX).unlink(missing_ok=True)
    (store / _LOG).write_bytes(log)


def _read_all(store: Path) -> None:
    """Read what readers, writers and fsck read of a manifest."""
    with closing(open_manifest(store, _FS)) as manifest:
        manifest.read(tuple(manifest.head().sums))
        LeaseTable(manifest, _CLOCK).living()
        with transient.opened(manifest, write=False) as rows:
            for kind in transient.KINDS:
                rows.rows(kind)


_VALUES: Final[Sequence[Callable[[bytes, bytes], object]]] = (
    lambda old, data: None,
    lambda old, data: int.from_bytes(data[:8], "little", signed=True),
    lambda old, data: data.decode("utf-8", "replace"),
    lambda old, data: data,
    lambda old, data: patched(old, data),
    lambda old, data: patched(old, data).decode("utf-8", "replace"),
)


def _damage_row(db: sqlite3.Connection, data: bytes) -> None:
    table = _TABLES[data[0] % len(_TABLES)]
    names = [name for _, name, *_ in db.execute(f"PRAGMA table_info({table})")]
    name = names[data[2] % len(names)]
    ((count,),) = db.execute(f"SELECT count(*) FROM {table}")
    row = f"rowid = (SELECT rowid FROM {table} LIMIT 1 OFFSET {data[1]} % {count})"
    ((old,),) = db.execute(f"SELECT CAST({name} AS BLOB) FROM {table} WHERE {row}")
    value = _VALUES[data[3] % len(_VALUES)](old, data[4:])
    db.execute(f"UPDATE {table} SET {name} = ? WHERE {row}", (value,))


def _insert_row(db: sqlite3.Connection, table: str, data: bytes) -> None:
    """Does nothing where the input is no row."""
    try:
        values = json.loads(data)
        marks = ", ".join("?" * len(values))
        db.execute(f"INSERT INTO {table} VALUES ({marks})", values)
    except (ValueError, TypeError, RecursionError, OverflowError, sqlite3.Error):
        return


def _texts(documents: Sequence[object]) -> list[bytes]:
    return [json.dumps(document).encode() for document in documents]
