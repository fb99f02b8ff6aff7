"""The manifest: one small, checksummed, transactional map that says what a store holds.

    record   (kind, key) -> body      "file", "schema", ...; what each means is its writer's matter
    head     generation, token, sums  one row, replaced by every commit
    lease    who reads now            beside the map: leases come and go between commits

A commit puts and deletes records and raises the generation in one SQLite transaction (WAL,
synchronous=FULL), so all tables, the schema history and the writer's progress move together or not
at all.

Integrity
    SQLite has no checksums: a flipped bit in its file is read as a value or hides a row, and one in
    its log is taken for the end of the log, which silently gives an *older state*. Two things stand
    against that.

    - The head holds, for each kind, the sum of the hashes of its records modulo 2**128, and a hash
      of itself. A reader adds up what it found: a changed, missing or extra record shows. A sum
      lets a commit add and subtract only what it changes.
    - `ack`, a file of its own, names the newest acknowledged state. A manifest that is older than
      its `ack`, or of the same generation and with other sums, is corrupt.

    prepared            SQLite: n      ack: n      ack.new: n + 1   the room that n + 1 needs is had
    after commit        SQLite: n + 1  ack: n      a crash here: n + 1 is whole, not acknowledged
    after acknowledge   SQLite: n + 1  ack: n + 1  only now does `commit` return
"""

import contextlib
import errno
import hashlib
import json
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
_SCRATCH_ACK: Final = "ack.new"
_BUSY_MS: Final = 30_000
_MODULUS: Final = 1 << 128
_ACK_BODY: Final = struct.Struct("<Q16s")
_CRC: Final = struct.Struct("<I")
_FULL_ERRNOS: Final = frozenset({errno.ENOSPC, errno.EDQUOT})

# Python 3.10's sqlite3 has no error codes, only SQLite's fixed messages.
_FULL: Final = "database or disk is full"
_SYSTEM_FAILURES: Final = ("disk I/O", "locked", "locking protocol", "unable to open", "readonly")

_TABLES: Final = (
    "CREATE TABLE record (kind TEXT NOT NULL, key TEXT NOT NULL, body BLOB NOT NULL)",
    "CREATE UNIQUE INDEX record_key ON record (kind, key)",
    "CREATE TABLE head"
    " (id INTEGER PRIMARY KEY CHECK (id = 1), body BLOB NOT NULL, checksum BLOB NOT NULL)",
    "CREATE TABLE lease (id TEXT PRIMARY KEY, snapshot_ts TEXT NOT NULL,"
    " generation INTEGER NOT NULL, boot_id TEXT NOT NULL, expires_ms INTEGER NOT NULL)",
)


@dataclass(frozen=True, slots=True)
class Record:
    """One entry of the manifest."""

    kind: str
    key: str
    body: bytes

    def hash(self) -> int:
        """128 bits that change when anything in the record does."""
        kind, key = self.kind.encode(), self.key.encode()
        lengths = struct.pack("<III", len(kind), len(key), len(self.body))
        return int.from_bytes(_hash(lengths + kind + key + self.body), "big")


@dataclass(frozen=True, slots=True)
class Change:
    """What one commit does: records to put (new or replaced) and (kind, key) to delete."""

    puts: Sequence[Record] = ()
    deletes: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True, slots=True)
class Head:
    """The manifest's state as a whole. `sums`: kind -> sum of its records' hashes."""

    generation: Generation
    token: FencingToken
    sums: Mapping[str, int]

    def to_json(self) -> bytes:
        sums = {kind: f"{total:032x}" for kind, total in sorted(self.sums.items())}
        return json.dumps([self.generation, self.token, sums]).encode()

    @classmethod
    def from_json(cls, body: bytes) -> "Head":
        generation, token, sums = json.loads(body)
        return cls(generation, token, {kind: int(total, 16) for kind, total in sums.items()})

    def ack(self) -> bytes:
        """What `ack` says of this state; the token is none of its business."""
        digest = _hash(Head(self.generation, FencingToken(0), self.sums).to_json())
        body = _ACK_BODY.pack(self.generation, digest)
        return body + _CRC.pack(zlib.crc32(body))


@dataclass(frozen=True, slots=True)
class View:
    """Records of one generation, verified: all of those kinds that were asked for."""

    generation: Generation
    records: Mapping[str, Mapping[str, bytes]] = field(repr=False)

    def of_kind(self, kind: str) -> Mapping[str, bytes]:
        """All records of a kind, key -> body, in key order."""
        return self.records.get(kind, {})


class Manifest:
    """An open manifest. Not thread-safe; open one for each thread and process."""

    def __init__(self, folder: Path, fs: FileSystem) -> None:
        self._path, self._ack, self._scratch = (
            folder / DATABASE,
            folder / ACK,
            folder / _SCRATCH_ACK,
        )
        self._fs = fs
        with self._errors():
            self._db = sqlite3.connect(
                f"{self._path.absolute().as_uri()}?mode=rw",
                uri=True,
                isolation_level=None,
                timeout=_BUSY_MS / 1000,
            )
            try:
                self._db.execute("PRAGMA synchronous=FULL")
            except BaseException:
                self._db.close()
                raise

    @classmethod
    def create(cls, folder: Path, fs: FileSystem, records: Iterable[Record]) -> None:
        """Make the manifest of a new store, durably."""
        empty = Head(Generation(0), FencingToken(0), {})
        fs.write_new(folder / DATABASE, memoryview(b""))
        fs.write_new(folder / ACK, memoryview(empty.ack()))
        with contextlib.closing(cls(folder, fs)) as manifest:
            with manifest._errors():
                manifest._db.execute("PRAGMA journal_mode=WAL")
            with manifest._transaction("IMMEDIATE"):
                for statement in _TABLES:
                    manifest._db.execute(statement)
                manifest._replace_head(empty)
            manifest.commit(Change(tuple(records)), empty.token)

    def close(self) -> None:
        """Let go of the database."""
        self._db.close()

    def read(self, kinds: Sequence[str]) -> View:
        """All records of these kinds, of one generation, verified.

        Raises:
            CorruptionError: the manifest contradicts its checksums or its `ack`.
        """
        with self._state("DEFERRED") as head:
            marks = ",".join("?" * len(kinds))
            rows = self._db.execute(
                f"SELECT kind, key, body FROM record WHERE kind IN ({marks})",  # noqa: S608
                tuple(kinds),
            ).fetchall()
        return View(head.generation, self._verified(head, kinds, rows))

    def commit(self, change: Change, token: FencingToken) -> Generation:
        """Apply `change` in one step; when this returns, it is durable and acknowledged.

        Raises:
            StaleTokenError: another writer has taken the store since `token` was granted.
            StoreFullError: no room; nothing has changed.
            EngineError: the disk failed; what is found after opening the manifest anew, holds.
        """
        with self._state("IMMEDIATE") as head:
            if token != head.token:
                raise StaleTokenError(token, head.token)
            generation = Generation(head.generation + 1)
            head = Head(generation, token, self._apply(head.sums, change))
            self._replace_head(head)
            self._fs.unlink(self._scratch)
            self._fs.write_new(self._scratch, memoryview(head.ack()))
            fail_point("manifest.before_commit")
        fail_point("manifest.after_commit")
        try:
            self._fs.rename(self._scratch, self._ack)
        except OSError as error:
            # Even if the disk is full: the change stands, so it must not be tried again.
            raise EngineError(str(self._ack), f"committed but not acknowledged: {error}") from error
        return generation

    def take_token(self) -> FencingToken:
        """A new fencing token; every older one is refused from now on."""
        with self._state("IMMEDIATE") as head:
            token = FencingToken(head.token + 1)
            self._replace_head(Head(head.generation, token, head.sums))
        return token

    @contextlib.contextmanager
    def leases(self) -> Iterator[sqlite3.Connection]:
        """A write transaction for the lease table."""
        with self._transaction("IMMEDIATE"):
            yield self._db

    def head(self) -> Head:
        """The state as a whole, within a `leases` block that of its transaction."""
        row = self._db.execute("SELECT body, checksum FROM head").fetchone()
        if row is None or not isinstance(row[0], bytes) or _hash(row[0]) != row[1]:
            raise self._corrupt("the head is missing or fails its checksum")
        return Head.from_json(row[0])

    def _apply(self, sums: Mapping[str, int], change: Change) -> dict[str, int]:
        result = dict(sums)
        for kind, key in change.deletes:
            removed = self._remove(kind, key)
            invariant(removed is not None, f"no record {kind} {key} to delete")
            result[kind] = (result[kind] - (removed or 0)) % _MODULUS
        for record in change.puts:
            added = record.hash() - (self._remove(record.kind, record.key) or 0)
            result[record.kind] = (result.get(record.kind, 0) + added) % _MODULUS
            self._db.execute(
                "INSERT INTO record VALUES (?, ?, ?)", (record.kind, record.key, record.body)
            )
        return result

    def _remove(self, kind: str, key: str) -> int | None:
        """Delete a record; returns its hash, or None if there is none."""
        where = "FROM record WHERE kind = ? AND key = ?"
        row = self._db.execute(f"SELECT body {where}", (kind, key)).fetchone()
        if row is None:
            return None
        self._db.execute(f"DELETE {where}", (kind, key))
        return self._record(kind, key, row[0]).hash()

    def _replace_head(self, head: Head) -> None:
        body = head.to_json()
        self._db.execute("INSERT OR REPLACE INTO head VALUES (1, ?, ?)", (body, _hash(body)))

    def _verified(
        self, head: Head, kinds: Iterable[str], rows: Iterable[tuple[object, object, object]]
    ) -> dict[str, dict[str, bytes]]:
        records: dict[str, dict[str, bytes]] = {kind: {} for kind in kinds}
        sums = dict.fromkeys(kinds, 0)
        for row in rows:
            record = self._record(*row)
            # A damaged row may say that it is of another kind than the index found it under.
            records.setdefault(record.kind, {})[record.key] = record.body
            sums[record.kind] = sums.get(record.kind, 0) + record.hash()
        for kind, total in sums.items():
            if total % _MODULUS != head.sums.get(kind, 0):
                raise self._corrupt(
                    f"the {kind} records of generation {head.generation} do not add up"
                )
        return {kind: dict(sorted(found.items())) for kind, found in records.items()}

    def _record(self, kind: object, key: object, body: object) -> Record:
        """A damaged row may hold values of any type."""
        if not (isinstance(kind, str) and isinstance(key, str) and isinstance(body, bytes)):
            raise self._corrupt("a record is not one")
        return Record(kind, key, body)

    @contextlib.contextmanager
    def _state(self, mode: str) -> Iterator[Head]:
        """A transaction and the state it begins with, which no acknowledged one is newer than."""
        acknowledged = self._read_ack()  # before the transaction: another's commit may move it on
        with self._transaction(mode):
            head = self.head()
            self._check_acknowledged(head, acknowledged)
            yield head

    def _check_acknowledged(self, head: Head, acknowledged: bytes) -> None:
        (generation, _) = _ACK_BODY.unpack_from(acknowledged)
        if head.generation < generation:
            raise self._corrupt(
                f"generation {generation} was acknowledged, {head.generation} is here"
            )
        if head.generation == generation and head.ack() != acknowledged:
            raise self._corrupt(f"generation {generation} is not the one that was acknowledged")

    def _read_ack(self) -> bytes:
        try:
            data = self._ack.read_bytes()
        except FileNotFoundError as error:
            raise CorruptionError(str(self._ack), 0, "is missing") from error
        except OSError as error:
            raise os_error(error, self._ack) from error
        body = data[: _ACK_BODY.size]
        if data != body + _CRC.pack(zlib.crc32(body)) or len(body) != _ACK_BODY.size:
            raise CorruptionError(str(self._ack), 0, "fails its checksum")
        return data

    @contextlib.contextmanager
    def _transaction(self, mode: str) -> Iterator[None]:
        with self._errors():
            self._db.execute(f"BEGIN {mode}")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                # After some failures SQLite has rolled back by itself; the first error is the one
                # to tell.
                with contextlib.suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")
                raise

    def _corrupt(self, reason: str) -> CorruptionError:
        return CorruptionError(str(self._path), 0, reason)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """SQLite's and the system's errors as ours."""
        try:
            with file_errors(self._path):
                yield
        except sqlite3.ProgrammingError:
            raise
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            message = str(error)
            if _FULL in message:
                raise StoreFullError(str(self._path)) from error
            if any(text in message for text in _SYSTEM_FAILURES):
                raise EngineError(str(self._path), message) from error
            raise self._corrupt(f"not readable as a manifest ({error})") from error


def os_error(error: OSError, path: Path) -> EngineError | StoreFullError:
    """A failed file operation as one of our errors."""
    if error.errno in _FULL_ERRNOS:
        return StoreFullError(str(path))
    return EngineError(str(path), str(error))


@contextlib.contextmanager
def file_errors(path: Path) -> Iterator[None]:
    """Failed file operations of the block as our errors, named by `path`."""
    try:
        yield
    except OSError as error:
        raise os_error(error, path) from error


def _hash(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()
