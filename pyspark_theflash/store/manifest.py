"""The manifest: one small, checksummed, transactional map that says what a store holds.

    records   (kind, key) -> body        "file", "schema", "progress", ... ; what each means is its writer's matter
    head      generation, digest, token  one row, replaced by every commit
    lease     who reads or writes now    beside the map: leases come and go between commits

A commit puts and deletes records and raises the generation in one SQLite transaction (WAL, synchronous=FULL), so all
tables, the schema history and the writer's progress move together or not at all.

Integrity
    SQLite has no checksums: a flipped bit in its file is read as a value, and one in its log as the end of the log,
    which silently gives an *older state*. Two things stand against that.

    - Every record carries a hash of itself, and `head.digest` is the sum of all of them modulo 2**128. A reader adds
      them up: a changed, missing or extra record shows. A sum lets a commit add and subtract only what it changes.
    - `ack`, a file of its own, names the newest acknowledged (generation, digest). A manifest that is older than its
      `ack`, or of the same generation and another digest, is corrupt.

    before commit       SQLite: n      ack: n
    after commit        SQLite: n + 1  ack: n      a crash here: state n + 1 is whole, just not acknowledged
    after acknowledge   SQLite: n + 1  ack: n + 1  only now does `commit` return
"""

import contextlib
import hashlib
import os
import sqlite3
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pyspark_theflash.errors import (
    CorruptionError,
    EngineError,
    StaleTokenError,
    StoreFullError,
    invariant,
)
from pyspark_theflash.failpoint import fail_point
from pyspark_theflash.fs import FileSystem
from pyspark_theflash.types import FencingToken, Generation

DATABASE: Final = "theflash.db"
ACK: Final = "ack"
_BUSY_MS: Final = 30_000
_MODULUS: Final = 1 << 128
_ACK_BODY: Final = struct.Struct("<Q16s")
_CRC: Final = struct.Struct("<I")

_SYSTEM_FAILURES: Final = ("disk I/O error", "locked", "unable to open", "readonly")

_TABLES: Final = """
CREATE TABLE record (kind TEXT NOT NULL, key TEXT NOT NULL, checksum BLOB NOT NULL, body BLOB NOT NULL);
CREATE UNIQUE INDEX record_key ON record (kind, key);
CREATE TABLE head (id INTEGER PRIMARY KEY CHECK (id = 1), generation INTEGER NOT NULL, digest BLOB NOT NULL,
                   token INTEGER NOT NULL, checksum BLOB NOT NULL);
CREATE TABLE lease (id TEXT PRIMARY KEY, snapshot_ts TEXT NOT NULL, generation INTEGER NOT NULL,
                    boot_id TEXT NOT NULL, expires_ms INTEGER NOT NULL);
"""


@dataclass(frozen=True, slots=True)
class Record:
    """One entry of the manifest."""

    kind: str
    key: str
    body: bytes

    def checksum(self) -> bytes:
        """16 bytes that change when anything in the record does."""
        lengths = struct.pack("<III", len(self.kind), len(self.key), len(self.body))
        return hashlib.blake2b(
            lengths + self.kind.encode() + self.key.encode() + self.body, digest_size=16
        ).digest()


@dataclass(frozen=True, slots=True)
class Change:
    """What one commit does: records to put (new or replaced) and (kind, key) to delete."""

    puts: Sequence[Record] = ()
    deletes: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True, slots=True)
class Head:
    """The manifest's state as a whole."""

    generation: Generation
    digest: int
    token: FencingToken

    def checksum(self) -> bytes:
        body = struct.pack("<Q16sQ", self.generation, self.digest.to_bytes(16, "big"), self.token)
        return hashlib.blake2b(body, digest_size=16).digest()


@dataclass(frozen=True)
class View:
    """The records of one generation, verified. Bodies of kinds that were not asked for are left out."""

    generation: Generation
    records: Mapping[str, Mapping[str, bytes]] = field(repr=False)

    def of_kind(self, kind: str) -> Mapping[str, bytes]:
        """key -> body of all records of a kind, in key order."""
        return self.records.get(kind, {})


class Manifest:
    """An open manifest. Not thread-safe; open one for each thread and process."""

    def __init__(self, folder: Path, fs: FileSystem) -> None:
        self.folder = folder
        self._fs = fs
        with self._errors():
            self._db = sqlite3.connect(
                f"file:{folder / DATABASE}?mode=rw", uri=True, isolation_level=None, timeout=_BUSY_MS / 1000
            )
            self._db.execute("PRAGMA synchronous=FULL")

    @classmethod
    def create(cls, folder: Path, fs: FileSystem, records: Iterable[Record]) -> None:
        """Make the manifest of a new store, durably."""
        path = folder / DATABASE
        fs.write_new(path, memoryview(b""))
        db = sqlite3.connect(path, isolation_level=None)
        try:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=FULL")
            db.executescript(f"BEGIN; {_TABLES} COMMIT;")
            _replace_head(db, Head(Generation(0), 0, FencingToken(0)))
        finally:
            db.close()
        manifest = cls(folder, fs)
        try:
            manifest._acknowledge(Head(Generation(0), 0, FencingToken(0)))
            manifest.commit(Change(tuple(records)), FencingToken(0))
        finally:
            manifest.close()

    def close(self) -> None:
        """Let go of the database."""
        self._db.close()

    def read(self, kinds: Sequence[str]) -> View:
        """All records of these kinds, of one generation, with the integrity of the whole manifest verified.

        Raises:
            CorruptionError: the manifest contradicts its checksums or its `ack`.
        """
        acknowledged = self._read_ack()
        with self._errors(), self._transaction("DEFERRED"):
            head = self._read_head()
            checksums = self._db.execute("SELECT checksum FROM record").fetchall()
            marks = ",".join("?" * len(kinds))
            rows = self._db.execute(
                f"SELECT kind, key, checksum, body FROM record WHERE kind IN ({marks}) ORDER BY kind, key",  # noqa: S608
                tuple(kinds),
            ).fetchall()
        self._verify(head, acknowledged, (c for (c,) in checksums))
        return View(head.generation, self._verified(rows))

    def commit(self, change: Change, token: FencingToken) -> Generation:
        """Apply `change` in one step; when this returns, it is durable and acknowledged.

        Raises:
            StaleTokenError: another writer has taken the store since `token` was granted.
        """
        with self._errors(), self._transaction("IMMEDIATE"):
            head = self._read_head()
            if token != head.token:
                raise StaleTokenError(token, head.token)
            head = Head(Generation(head.generation + 1), self._apply(head.digest, change), token)
            _replace_head(self._db, head)
            fail_point("manifest.before_commit")
        fail_point("manifest.after_commit")
        self._acknowledge(head)
        return head.generation

    def take_token(self) -> FencingToken:
        """A new fencing token; every older one is refused from now on."""
        with self._errors(), self._transaction("IMMEDIATE"):
            head = self._read_head()
            head = Head(head.generation, head.digest, FencingToken(head.token + 1))
            _replace_head(self._db, head)
        return head.token

    @contextlib.contextmanager
    def leases(self) -> Iterator[sqlite3.Connection]:
        """A write transaction for the lease table."""
        with self._errors(), self._transaction("IMMEDIATE"):
            yield self._db

    def _apply(self, digest: int, change: Change) -> int:
        for kind, key in change.deletes:
            digest -= self._remove(kind, key, must_exist=True)
        for record in change.puts:
            checksum = record.checksum()
            digest += int.from_bytes(checksum, "big") - self._remove(record.kind, record.key)
            self._db.execute(
                "INSERT INTO record VALUES (?, ?, ?, ?)", (record.kind, record.key, checksum, record.body)
            )
        return digest % _MODULUS

    def _remove(self, kind: str, key: str, *, must_exist: bool = False) -> int:
        where = "WHERE kind = ? AND key = ?"
        row = self._db.execute(f"SELECT checksum FROM record {where}", (kind, key)).fetchone()  # noqa: S608
        invariant(row is not None or not must_exist, f"no record {kind} {key} to delete")
        if row is None:
            return 0
        self._db.execute(f"DELETE FROM record {where}", (kind, key))  # noqa: S608
        return int.from_bytes(row[0], "big")

    def _read_head(self) -> Head:
        row = self._db.execute("SELECT generation, digest, token, checksum FROM head").fetchone()
        if row is None:
            raise self._corrupt("the head is missing")
        try:
            head = Head(Generation(row[0]), int.from_bytes(row[1], "big"), FencingToken(row[2]))
            intact = head.checksum() == row[3]
        except (TypeError, ValueError, struct.error):
            intact = False
        if not intact:
            raise self._corrupt("the head fails its checksum")
        return head

    def _verify(self, head: Head, acknowledged: tuple[int, bytes], checksums: Iterable[bytes]) -> None:
        if sum(int.from_bytes(c, "big") for c in checksums) % _MODULUS != head.digest:
            raise self._corrupt(f"the records do not add up to generation {head.generation}")
        generation, digest = acknowledged
        if head.generation < generation:
            raise self._corrupt(f"generation {generation} was acknowledged, {head.generation} is here")
        if head.generation == generation and head.digest.to_bytes(16, "big") != digest:
            raise self._corrupt(f"generation {generation} is not the one that was acknowledged")

    def _verified(self, rows: Iterable[tuple[str, str, bytes, bytes]]) -> dict[str, dict[str, bytes]]:
        records: dict[str, dict[str, bytes]] = {}
        for kind, key, checksum, body in rows:
            if Record(kind, key, body).checksum() != checksum:
                raise self._corrupt(f"record {kind} {key} fails its checksum")
            records.setdefault(kind, {})[key] = body
        return records

    def _acknowledge(self, head: Head) -> None:
        body = _ACK_BODY.pack(head.generation, head.digest.to_bytes(16, "big"))
        with self._errors():
            self._fs.replace(self.folder / ACK, memoryview(body + _CRC.pack(zlib.crc32(body))))

    def _read_ack(self) -> tuple[int, bytes]:
        path = self.folder / ACK
        try:
            data = path.read_bytes()
        except OSError as error:
            raise CorruptionError(str(path), 0, f"cannot be read ({error.strerror})") from error
        body = data[: _ACK_BODY.size]
        if len(data) != _ACK_BODY.size + _CRC.size or _CRC.pack(zlib.crc32(body)) != data[len(body) :]:
            raise CorruptionError(str(path), 0, "fails its checksum")
        generation, digest = _ACK_BODY.unpack(body)
        return generation, digest

    @contextlib.contextmanager
    def _transaction(self, mode: str) -> Iterator[None]:
        self._db.execute(f"BEGIN {mode}")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def _corrupt(self, reason: str) -> CorruptionError:
        return CorruptionError(str(self.folder / DATABASE), 0, reason)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """SQLite's and the system's errors as ours."""
        path = str(self.folder / DATABASE)
        try:
            yield
        except sqlite3.OperationalError as error:
            # Python 3.10's sqlite3 has no error codes, only SQLite's fixed messages.
            message = str(error)
            if "disk is full" in message:
                raise StoreFullError(path) from error
            if any(text in message for text in _SYSTEM_FAILURES):
                raise EngineError(path, message) from error
            raise self._corrupt(f"not readable as a manifest ({error})") from error
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            raise self._corrupt(f"not readable as a manifest ({error})") from error
        except OSError as error:
            raise os_error(error, path) from error


def os_error(error: OSError, path: str) -> EngineError | StoreFullError:
    """A failed file operation as one of our errors."""
    if error.errno in {28, 122}:  # ENOSPC, EDQUOT
        return StoreFullError(path)
    return EngineError(path, os.strerror(error.errno) if error.errno else str(error))


def _replace_head(db: sqlite3.Connection, head: Head) -> None:
    db.execute(
        "INSERT OR REPLACE INTO head VALUES (1, ?, ?, ?, ?)",
        (head.generation, head.digest.to_bytes(16, "big"), head.token, head.checksum()),
    )
