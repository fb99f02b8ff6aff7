"""The manifest: a checksummed, transactional map of records, which describes a store's state.

    record   (kind, key) -> body      "file", "schema", ...; decoded by the module of the kind
    head     generation, token, sums  one row, replaced by every commit
    board    latches and commands     transient records, changed between commits (`transient.py`)

A commit puts and deletes records and increments the generation in one SQLite transaction (WAL,
synchronous=FULL), so all tables, the schema history and the writer's progress change atomically.

Integrity
    SQLite has no checksums. A flipped bit in the database changes a value or hides a row; a flipped
    bit in the WAL ends it early, which silently restores an *older state*. Both are detected:

    - The head has, for each kind, the sum of the hashes of its records modulo 2**128, and a hash of
      itself. A reader compares the sum with the records read, which shows changed, missing and
      extra records. A commit updates the sum by the records that it changes.
    - The file `ack` identifies the newest acknowledged state. A manifest is corrupt if it is older
      than its `ack`, or has the same generation and other sums.

    prepared            SQLite: n      ack: n      ack.new: n + 1   its disk space is allocated
    committed           SQLite: n + 1  ack: n      after a crash, n + 1 is complete and valid
    acknowledged        SQLite: n + 1  ack: n + 1  `commit` returns

Read-only folders and full disks
    SQLite has a WAL and its index beside an open database, and readers write to the index. Without
    space or permission for that, existing files are used (on a read-only mount of a writer's
    folder, say). If there are none, there is no writer, and the database is opened as immutable. A
    writer that starts meanwhile is detected after the read.
"""

import contextlib
import errno
import hashlib
import json
import os
import sqlite3
import struct
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

from pyspark_theflash.base.errors import (
    CorruptionError,
    EngineError,
    StaleTokenError,
    StoreAccessError,
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
"""Called in the transaction of a commit; raises to reject the commit."""

_TABLES: Final = (
    "CREATE TABLE record (kind TEXT NOT NULL, key TEXT NOT NULL, body BLOB NOT NULL)",
    "CREATE UNIQUE INDEX record_key ON record (kind, key)",
    "CREATE TABLE head"
    " (id INTEGER PRIMARY KEY CHECK (id = 1), body BLOB NOT NULL, checksum BLOB NOT NULL)",
)


@dataclass(frozen=True, slots=True)
class Record:
    """An entry of the manifest."""

    kind: str
    key: str
    body: bytes

    def hash(self) -> int:
        """Return the record's 128-bit hash."""
        return record_hash(self.kind, self.key, self.body)


def record_hash(kind: str, key: str, body: bytes) -> int:
    """Return the 128-bit hash of a record."""
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
    """Head of the manifest. `sums`: kind -> sum of its records' hashes."""

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
    """The verified records of the requested kinds in one generation."""

    generation: Generation
    records: Mapping[str, Mapping[str, bytes]] = field(repr=False)

    def of_kind(self, kind: str) -> Mapping[str, bytes]:
        """Return all records of a kind, key -> body, in key order."""
        return self.records.get(kind, {})


class Manifest:
    """An open manifest. Not thread-safe; open one for each thread and process."""

    folder: Final[Path]

    def __init__(
        self,
        folder: Path,
        fs: FileSystem,
        before_commit: Callable[[Collection[str]], None] = lambda kinds: None,
    ) -> None:
        """`before_commit` is called with the kinds of records that the manifest will have had."""
        self._before_commit = before_commit
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
        """Create the manifest of a new store durably; `also` creates further tables."""
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
        """Close the database, then call the functions registered by `at_close`."""
        with self._closing:
            self._db.close()

    def at_close(self, release: Callable[[], None]) -> None:
        """Call `release` when the manifest is closed."""
        self._closing.callback(release)

    @property
    def is_writable(self) -> bool:
        """Whether the manifest can be written; if not, only reads work."""
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
                # An Arrow stream may be consumed in several threads, one after the other.
                check_same_thread=False,
            )

    def _has_log(self) -> bool:
        """Return whether there is a WAL that has not been checkpointed completely."""
        try:
            return self._path.with_name(f"{DATABASE}-wal").stat().st_size > 0
        except OSError:
            return False

    def _opens(self) -> bool:
        """Make commits durable. Returns False if there is no space for the WAL and its index."""
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
        """Read and verify all records of these kinds in the current generation.

        Raises:
            CorruptionError: The manifest does not match its checksums or its `ack`.
            StoreReplacedError: The folder now has another manifest, or an older state of it.
        """
        with self._state("DEFERRED") as head:
            return View(head.generation, self._verified(head, kinds))

    def commit(
        self, change: ManifestChange, token: FencingToken, guard: Guard | None = None
    ) -> Generation:
        """Commit `change` atomically; when this returns, it is durable and acknowledged.

        Raises:
            StaleTokenError: Another writer has taken over the store since `token` was granted.
            TheFlashError: `guard` rejects the commit; nothing has changed.
            StoreFullError: The disk is full; nothing has changed.
            EngineError: An I/O error; whether the change is committed is known after reopening.
        """
        with self._state("IMMEDIATE") as head:
            if token != head.token:
                raise StaleTokenError(token, head.token)
            if guard is not None:
                guard(self._db)
            generation = Generation(head.generation + 1)
            head = Head(generation, token, self._apply(head.sums, change))
            self._before_commit(head.sums.keys())
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
            # No StoreFullError, which means that a retry is possible: the change is committed.
            raise EngineError(str(self._ack), f"committed but not acknowledged: {error}") from error
        return generation

    def take_token(self) -> FencingToken:
        """Return a new fencing token. Commits with older ones are rejected from now on."""
        with self._state("IMMEDIATE") as head:
            token = FencingToken(head.token + 1)
            self._replace_head(Head(head.generation, token, head.sums))
        return token

    @contextlib.contextmanager
    def transient_transaction(self, *, write: bool) -> Iterator[sqlite3.Connection]:
        """Open a transaction on the tables other than the records."""
        with self._unchanged(), self._transaction("IMMEDIATE" if write else "DEFERRED"):
            yield self._db

    @contextlib.contextmanager
    def transient_statement(self) -> Iterator[sqlite3.Connection]:
        """Yield the connection for a single read of the tables other than the records."""
        with self._unchanged(), self._errors():
            yield self._db

    def data_version(self) -> int:
        """Return SQLite's data_version, which changes when another connection commits; cheap."""
        with self._errors():
            (version,) = self._db.execute("PRAGMA data_version").fetchone()
        return int(version)

    def head(self) -> Head:
        """Read the head; in a `transient_transaction` block, within its transaction."""
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
            row = record.kind, record.key, record.body
            self._db.execute("INSERT INTO record VALUES (?, ?, ?)", row)
        return result

    def _remove(self, kind: str, key: str) -> int | None:
        """Delete a record. Returns its hash, or None if there is none."""
        where = "FROM record WHERE kind = ? AND key = ?"
        row = self._db.execute(f"SELECT body {where}", (kind, key)).fetchone()
        if row is None:
            return None
        self._db.execute(f"DELETE {where}", (kind, key))
        if not isinstance(row[0], bytes):
            raise self._corrupt("a record is malformed")
        return record_hash(kind, key, row[0])

    def _replace_head(self, head: Head) -> None:
        body = head.to_json()
        self._db.execute("INSERT OR REPLACE INTO head VALUES (1, ?, ?)", (body, _hash(body)))

    def _verified(self, head: Head, kinds: Sequence[str]) -> dict[str, dict[str, bytes]]:
        """Read the records of some kinds, maybe 100,000, and verify the sum of each kind."""
        records: dict[str, dict[str, bytes]] = {kind: {} for kind in kinds}
        totals = dict.fromkeys(records, 0)
        some = ", ".join("?" * len(records))
        statement = f"SELECT kind, key, body FROM record WHERE kind IN ({some})"  # noqa: S608
        for kind, key, body in self._db.execute(statement, tuple(records)):
            # A damaged row may have values of any type.
            if kind not in records or not (isinstance(key, str) and isinstance(body, bytes)):
                raise self._corrupt("a record is malformed")
            records[kind][key] = body
            totals[kind] += record_hash(kind, key, body)
        for kind, total in totals.items():
            if total % _MODULUS != head.sums.get(kind, 0):
                reason = f"the {kind} records of generation {head.generation} fail their checksum"
                raise self._corrupt(reason)
        return {kind: dict(sorted(bodies.items())) for kind, bodies in records.items()}

    @contextlib.contextmanager
    def _state(self, mode: str) -> Iterator[Head]:
        """Open a transaction, and yield the head after comparing it with `ack`."""
        with self._unchanged():
            # Read before the transaction, since another commit may advance it at any time.
            acknowledged = self._read_ack()
            with self._transaction(mode):
                head = self.head()
                self._check_acknowledged(head, acknowledged)
                if head.generation < self._newest:
                    reason = f"it went back from generation {self._newest} to {head.generation}"
                    raise StoreReplacedError(str(self.folder), reason)
                self._newest = head.generation
                yield head

    @contextlib.contextmanager
    def _unchanged(self) -> Iterator[None]:
        """Check that the manifest is in place, and, if read-only, unchanged during the block."""
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
            # Also after another error, which a concurrent write may have caused.
            if before is not None and self._stamp() != before:
                reason = "was written while it was read without a lock: try again"
                raise EngineError(str(self._path), reason)

    def _stamp(self) -> tuple[int, int] | None:
        """Return the mtime and size of a database without WAL, which a write changes."""
        if self._has_log():
            return None
        with self._errors():
            status = self._path.stat()
        return status.st_mtime_ns, status.st_size

    def _file_id(self) -> tuple[int, ...] | None:
        """Return the identity of the file at the database's path."""
        with file_errors(self._path):
            stamp = file_stamp(self._path)
        return None if stamp is None else stamp[:2]

    def check_in_place(self) -> None:
        """Raise `StoreReplacedError` if the folder's manifest is not the open one any more."""
        if self._file_id() != self._file:
            raise StoreReplacedError(str(self.folder), "its manifest is another file")

    def _check_acknowledged(self, head: Head, acknowledged: bytes) -> None:
        (generation, _) = _ACK_BODY.unpack_from(acknowledged)
        if head.generation < generation:
            reason = f"has generation {head.generation}, but generation {generation}"
            raise self._corrupt(f"{reason} was acknowledged")
        if head.generation == generation and head.ack() != acknowledged:
            raise self._corrupt(f"generation {generation} differs from what was acknowledged")

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
                # After some errors SQLite has rolled back itself. Report the original error.
                with contextlib.suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")
                raise

    def _corrupt(self, reason: str) -> CorruptionError:
        return CorruptionError(str(self._path), 0, reason)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Convert errors of SQLite and the operating system."""
        try:
            with file_errors(self._path):
                yield
        except sqlite3.ProgrammingError:
            raise
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            message = str(error)
            if _FULL in message or (self._is_full and _READ_ONLY in message):
                raise StoreFullError(str(self._path)) from error
            if any(failure in message for failure in _SYSTEM_FAILURES):
                raise EngineError(str(self._path), message + self._advice()) from error
            raise self._corrupt(f"not readable as a manifest ({error})") from error

    def _advice(self) -> str:
        if self._may_write:
            return ""
        return "; its folder cannot be written: open the store once with write permission"


def os_error(error: OSError, path: Path) -> EngineError | StoreFullError:
    """Convert the error of a file operation."""
    if error.errno in _FULL_ERRNOS:
        return StoreFullError(str(path))
    if isinstance(error, PermissionError):
        return StoreAccessError(str(path), f"{error} for user id {os.geteuid()}")
    return EngineError(str(path), str(error))


@contextlib.contextmanager
def file_errors(path: Path) -> Iterator[None]:
    """Convert errors of file operations in the block; they name `path`."""
    try:
        yield
    except OSError as error:
        raise os_error(error, path) from error


def _hash(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()
