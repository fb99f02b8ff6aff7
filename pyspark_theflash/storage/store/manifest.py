"""The manifest: one small, checksummed, transactional map that says what a store holds.

    record   (kind, key) -> body      "file", "schema", ...; what each means is its writer's matter
    head     generation, token, sums  one row, replaced by every commit
    board    latches and commands     transient records, changed between commits (`transient.py`)

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

Folders that cannot be written, and full disks
    SQLite keeps a log and an index of it beside the database while anyone has it open, and a reader
    writes into the index. Where there is no room for that, or no permission, the files are used if
    a writer has made them (a read-only mount of its folder, say); if there are none, nobody writes,
    and the database is read as it stands. Should a writer come meanwhile, that shows afterwards.
"""

import bisect
import contextlib
import errno
import hashlib
import json
import os
import sqlite3
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

from pyspark_theflash.base.errors import (
    CorruptionError,
    EngineError,
    StaleTokenError,
    StoreFullError,
    StoreReplacedError,
    invariant,
)
from pyspark_theflash.base.failpoint import fail_point
from pyspark_theflash.base.fs import FileSystem, file_stamp
from pyspark_theflash.base.types import FencingToken, Generation
from pyspark_theflash.tidb.codec.document import load, shaped, text, uint64

DATABASE: Final = "theflash.db"
ACK: Final = "ack"
SCRATCH_ACK: Final = "ack.new"
_BUSY_MS: Final = 30_000
_MODULUS: Final = 1 << 128
_ACK_BODY: Final = struct.Struct("<Q16s")
_CRC: Final = struct.Struct("<I")
_LENGTHS: Final = struct.Struct("<III")
_FULL_ERRNOS: Final = frozenset({errno.ENOSPC, errno.EDQUOT})

# Python 3.10's sqlite3 has no error codes, only SQLite's fixed messages.
_FULL: Final = "database or disk is full"
_READ_ONLY: Final = "readonly"
_SYSTEM_FAILURES: Final = (
    "disk I/O",
    "locked",
    "locking protocol",
    "unable to open",
    _READ_ONLY,
)

Guard: TypeAlias = Callable[[sqlite3.Connection], None]
"""Looks, within the transaction of a commit, whether that may be done; raises if not."""

_TABLES: Final = (
    "CREATE TABLE record (kind TEXT NOT NULL, key TEXT NOT NULL, body BLOB NOT NULL)",
    "CREATE UNIQUE INDEX record_key ON record (kind, key)",
    "CREATE TABLE head"
    " (id INTEGER PRIMARY KEY CHECK (id = 1), body BLOB NOT NULL, checksum BLOB NOT NULL)",
)


@dataclass(frozen=True, slots=True)
class Record:
    """One entry of the manifest."""

    kind: str
    key: str
    body: bytes

    def hash(self) -> int:
        """128 bits that change when anything in the record does."""
        return record_hash(self.kind, self.key, self.body)


def record_hash(kind: str, key: str, body: bytes) -> int:
    """The hash of the record made of these."""
    kind_bytes, key_bytes = kind.encode(), key.encode()
    lengths = _LENGTHS.pack(len(kind_bytes), len(key_bytes), len(body))
    return int.from_bytes(_hash(lengths + kind_bytes + key_bytes + body), "big")


@dataclass(frozen=True, slots=True)
class ManifestChange:
    """The changes of one commit: records to put (new or replaced) and (kind, key) to delete."""

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
        """Inverse of `to_json`. Raises `CodecError`."""
        with shaped("manifest head"):
            generation, token, sums = load(body)
            return cls(
                Generation(uint64(generation)),
                FencingToken(uint64(token)),
                {text(kind): int(text(total), 16) for kind, total in sums.items()},
            )

    def ack(self) -> bytes:
        """Return the content of `ack` for this state, without the token."""
        digest = _hash(Head(self.generation, FencingToken(0), self.sums).to_json())
        body = _ACK_BODY.pack(self.generation, digest)
        return body + _CRC.pack(zlib.crc32(body))


@dataclass(frozen=True, slots=True)
class View:
    """Records of one generation, verified: all of those kinds that were asked for."""

    generation: Generation
    records: Mapping[str, Mapping[str, bytes]] = field(repr=False)
    _keys: dict[str, list[str]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def of_kind(self, kind: str) -> Mapping[str, bytes]:
        """All records of a kind, key -> body, in key order."""
        return self.records.get(kind, {})

    def starting(self, kind: str, prefix: str) -> list[bytes]:
        """The bodies of a kind whose keys start so, in key order, without looking at the others."""
        found = self.of_kind(kind)
        if kind not in self._keys:
            self._keys[kind] = list(found)
        keys = self._keys[kind]
        first = end = bisect.bisect_left(keys, prefix)
        while end < len(keys) and keys[end].startswith(prefix):
            end += 1
        return [found[key] for key in keys[first:end]]


class Manifest:
    """An open manifest. Not thread-safe; open one for each thread and process."""

    folder: Final[Path]

    def __init__(self, folder: Path, fs: FileSystem) -> None:
        self.folder, self._path, self._ack, self._scratch = (
            folder,
            folder / DATABASE,
            folder / ACK,
            folder / SCRATCH_ACK,
        )
        self._fs = fs
        self._closing = contextlib.ExitStack()
        self._is_full = False
        self._file, self._newest = self._file_id(), Generation(0)
        self._may_write = os.access(folder, os.W_OK) and os.access(self._path, os.W_OK)
        self._db = self._connect()
        if self._may_write and not self._opens():
            self._db.close()
            self._is_full = True
            self._db = self._connect()

    @classmethod
    def create(
        cls,
        folder: Path,
        fs: FileSystem,
        records: Iterable[Record],
        *,
        also: Callable[[sqlite3.Connection], None],
    ) -> None:
        """Make the manifest of a new store, durably; `also` makes what stands beside it."""
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
                also(manifest._db)
            manifest.commit(ManifestChange(tuple(records)), empty.token)

    def close(self) -> None:
        """Let go of the database, then of what `at_close` was told."""
        with self._closing:
            self._db.close()

    def at_close(self, release: Callable[[], None]) -> None:
        """Call `release` when the manifest is closed."""
        self._closing.callback(release)

    @property
    def is_writable(self) -> bool:
        """Whether anything can be written; if not, only what reads works."""
        return self._may_write and not self._is_full

    def _connect(self) -> sqlite3.Connection:
        mode = "mode=rw"
        if not self.is_writable:
            mode = "mode=ro" if self._has_log() else "mode=ro&immutable=1"
        with self._errors():
            return sqlite3.connect(
                f"{self._path.absolute().as_uri()}?{mode}",
                uri=True,
                isolation_level=None,
                timeout=_BUSY_MS / 1000,
                # Rows are taken in one thread after the other: whoever reads an Arrow stream.
                check_same_thread=False,
            )

    def _has_log(self) -> bool:
        """Whether anyone has written, or died, since the log was last brought into the database."""
        try:
            return self._path.with_name(f"{DATABASE}-wal").stat().st_size > 0
        except OSError:
            return False

    def _opens(self) -> bool:
        """Make commits durable; False if there is no room for SQLite's log and index."""
        try:
            with self._errors():
                self._db.execute("PRAGMA synchronous=FULL")
        except EngineError:
            if self._has_log():
                self._db.close()
                raise
            return False
        except BaseException:
            self._db.close()
            raise
        return True

    def read(self, kinds: Sequence[str]) -> View:
        """All records of these kinds, of one generation, verified.

        Raises:
            CorruptionError: the manifest contradicts its checksums or its `ack`.
            StoreReplacedError: the folder has another manifest, or an older state of it.
        """
        with self._state("DEFERRED") as head:
            records = {kind: self._verified(head, kind) for kind in kinds}
        return View(head.generation, records)

    def commit(
        self, change: ManifestChange, token: FencingToken, guard: Guard | None = None
    ) -> Generation:
        """Apply `change` in one step; when this returns, it is durable and acknowledged.

        Raises:
            StaleTokenError: another writer has taken the store since `token` was granted.
            TheFlashError: what `guard` raises, which looks at the transient records within the same
            step; nothing has changed. StoreFullError: no room; nothing has changed. EngineError:
            the disk failed; what is found after opening the manifest anew, holds.
        """
        with self._state("IMMEDIATE") as head:
            if token != head.token:
                raise StaleTokenError(token, head.token)
            if guard is not None:
                guard(self._db)
            generation = Generation(head.generation + 1)
            head = Head(generation, token, self._apply(head.sums, change))
            self._replace_head(head)
            self._fs.unlink(self._scratch)
            self._fs.write_new(self._scratch, memoryview(head.ack()))
            fail_point("manifest.before_commit")
        fail_point("manifest.after_commit")
        self._newest = generation
        self.check_in_place()
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
    def beside(self, *, write: bool) -> Iterator[sqlite3.Connection]:
        """A transaction for the tables that stand beside the map."""
        with self._unchanged(), self._transaction("IMMEDIATE" if write else "DEFERRED"):
            yield self._db

    def others_wrote(self) -> int:
        """A number that changes when another connection has written; asking is cheap."""
        with self._errors():
            (version,) = self._db.execute("PRAGMA data_version").fetchone()
        return int(version)

    def head(self) -> Head:
        """The state as a whole, within a `beside` block that of its transaction."""
        with self._errors():
            row = self._db.execute("SELECT body, checksum FROM head").fetchone()
        if row is None or not isinstance(row[0], bytes) or _hash(row[0]) != row[1]:
            raise self._corrupt("the head is missing or fails its checksum")
        return Head.from_json(row[0])

    def _apply(self, sums: Mapping[str, int], change: ManifestChange) -> dict[str, int]:
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
        if not isinstance(row[0], bytes):
            raise self._corrupt("a record is not one")
        return record_hash(kind, key, row[0])

    def _replace_head(self, head: Head) -> None:
        body = head.to_json()
        self._db.execute("INSERT OR REPLACE INTO head VALUES (1, ?, ?)", (body, _hash(body)))

    def _verified(self, head: Head, kind: str) -> dict[str, bytes]:
        """The records of a kind, if they add up; there may be a hundred thousand of them."""
        found: dict[str, bytes] = {}
        total = 0
        for key, body in self._db.execute("SELECT key, body FROM record WHERE kind = ?", (kind,)):
            # A damaged row may hold values of any type.
            if not (isinstance(key, str) and isinstance(body, bytes)):
                raise self._corrupt("a record is not one")
            found[key] = body
            total += record_hash(kind, key, body)
        if total % _MODULUS != head.sums.get(kind, 0):
            raise self._corrupt(f"the {kind} records of generation {head.generation} do not add up")
        return dict(sorted(found.items()))

    @contextlib.contextmanager
    def _state(self, mode: str) -> Iterator[Head]:
        """A transaction and the state it begins with, which no acknowledged one is newer than."""
        with self._unchanged():
            acknowledged = self._read_ack()  # before the transaction: a commit may move it on
            with self._transaction(mode):
                head = self.head()
                self._check_acknowledged(head, acknowledged)
                if head.generation < self._newest:
                    reason = f"generation {self._newest} was here, {head.generation} is"
                    raise StoreReplacedError(str(self.folder), reason)
                self._newest = head.generation
                yield head

    @contextlib.contextmanager
    def _unchanged(self) -> Iterator[None]:
        """In a folder that cannot be written: what is read stands there from start to end."""
        self.check_in_place()
        if self.is_writable:
            yield
            return
        self._db.close()
        before = self._stamp()
        self._db = self._connect()
        try:
            yield
        finally:
            # Even after an error, which may come of this.
            if before is not None and self._stamp() != before:
                reason = "was written while it was read from a folder that cannot be: try again"
                raise EngineError(str(self._path), reason)

    def _stamp(self) -> tuple[int, int] | None:
        """Return what changes of a database without a log when a writer comes to it."""
        if self._has_log():
            return None
        with self._errors():
            found = self._path.stat()
        return found.st_mtime_ns, found.st_size

    def _file_id(self) -> tuple[int, ...] | None:
        """Return what tells the open database's file from another at its path."""
        with file_errors(self._path):
            stamp = file_stamp(self._path)
        return None if stamp is None else stamp[:2]

    def check_in_place(self) -> None:
        """Return if the manifest is still the folder's. Raises `StoreReplacedError`."""
        if self._file_id() != self._file:
            raise StoreReplacedError(str(self.folder), "the manifest is another file")

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
            if _FULL in message or (self._is_full and _READ_ONLY in message):
                raise StoreFullError(str(self._path)) from error
            if any(known in message for known in _SYSTEM_FAILURES):
                raise EngineError(str(self._path), message + self._advice()) from error
            raise self._corrupt(f"not readable as a manifest ({error})") from error

    def _advice(self) -> str:
        if self._may_write:
            return ""
        return "; its folder cannot be written: open the store once where it can be"


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
