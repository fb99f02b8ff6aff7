"""Transient records: rows in the manifest's database that change without a manifest commit.

    board        kind, key -> body, checksum     a latch, a command, ...
    board_sum    kind -> total, checksum         the sum of the checksums of its rows, mod 2**128

A row's checksum is the hash of the record with the same kind, key and body, and shows changed rows.
The sum shows missing and extra rows. `rows` verifies both, since its callers rely on the absence of
rows. `row` verifies only the row's checksum. So damage to one latch prevents the removal of files,
but does not affect other readers.

There is no `ack`: after damage to SQLite's WAL, the latest changes may be lost. Latches granted by
them end early, and their holders get an error when they renew them.
"""

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from typing import Final, TypeVar

from pyspark_theflash.base.errors import CodecError, CorruptionError
from pyspark_theflash.storage.store.manifest import DATABASE, Manifest, record_hash

_Parsed = TypeVar("_Parsed")
LATCH_KIND: Final = "latch"
COMMAND_KIND: Final = "command"
FLOOR_KIND: Final = "floor"
TICKET_KIND: Final = "ticket"
FENCE_KIND: Final = "fence"
KINDS: Final = (LATCH_KIND, COMMAND_KIND, FLOOR_KIND, TICKET_KIND, FENCE_KIND)
_MODULUS: Final = 1 << 128
_TABLES: Final = (
    "CREATE TABLE IF NOT EXISTS board (kind TEXT NOT NULL, key TEXT NOT NULL,"
    " body BLOB NOT NULL, checksum BLOB NOT NULL, PRIMARY KEY (kind, key))",
    "CREATE TABLE IF NOT EXISTS board_sum"
    " (kind TEXT PRIMARY KEY, total BLOB NOT NULL, checksum BLOB NOT NULL)",
)


class TransientRecords:
    """Transient records in one transaction; see `opened`."""

    def __init__(self, manifest: Manifest, db: sqlite3.Connection) -> None:
        self._path, self._db = str(manifest.folder / DATABASE), db

    def rows(self, kind: str) -> dict[str, bytes]:
        """Return all rows of a kind, key -> body, in key order. Raises `CorruptionError`."""
        bodies: dict[str, bytes] = {}
        total = 0
        statement = "SELECT key, body, checksum FROM board WHERE kind = ? ORDER BY key"
        for key, body, checksum in self._db.execute(statement, (kind,)):
            total += self._checked(kind, key, body, checksum)
            bodies[key] = body
        if total % _MODULUS != self._total(kind):
            raise CorruptionError(self._path, 0, f"the {kind} rows fail their checksum")
        return bodies

    def row(self, kind: str, key: str) -> bytes | None:
        """Return a row's body; None if there is none. Raises `CorruptionError`."""
        row = self._row(kind, key)
        return None if row is None else row[0]

    def load(self, kind: str, key: str, parse: Callable[[str, bytes], _Parsed]) -> _Parsed | None:
        """Return a row, parsed from its key and body; None if there is none.

        Raises `CorruptionError`, also if `parse` raises `CodecError`.
        """
        body = self.row(kind, key)
        return None if body is None else self._parsed(kind, key, body, parse)

    def load_all(self, kind: str, parse: Callable[[str, bytes], _Parsed]) -> list[_Parsed]:
        """Return all rows of a kind, parsed; see `rows` and `load`."""
        return [self._parsed(kind, *row, parse) for row in self.rows(kind).items()]

    def keys(self, kind: str, prefix: str) -> list[str]:
        """Return the keys that begin with `prefix`, without verifying their rows."""
        statement = "SELECT key FROM board WHERE kind = ? AND key >= ? AND key < ?"
        end = prefix + chr(0x10FFFF)
        return [str(key) for (key,) in self._db.execute(statement, (kind, prefix, end))]

    def put(self, kind: str, key: str, body: bytes) -> None:
        """Insert or replace a row."""
        old = self._row(kind, key)
        new = record_hash(kind, key, body)
        self._db.execute(
            "INSERT OR REPLACE INTO board VALUES (?, ?, ?, ?)", (kind, key, body, _bytes(new))
        )
        self._add(kind, new - (old[1] if old else 0))

    def remove(self, kind: str, key: str) -> bool:
        """Delete a row. Returns whether there was one."""
        old = self._row(kind, key)
        if old is None:
            return False
        self._db.execute("DELETE FROM board WHERE kind = ? AND key = ?", (kind, key))
        self._add(kind, -old[1])
        return True

    def _parsed(
        self, kind: str, key: str, body: bytes, parse: Callable[[str, bytes], _Parsed]
    ) -> _Parsed:
        try:
            return parse(key, body)
        except CodecError as error:
            raise CorruptionError(self._path, 0, f"{kind} {key} is malformed") from error

    def _row(self, kind: str, key: str) -> tuple[bytes, int] | None:
        statement = "SELECT body, checksum FROM board WHERE kind = ? AND key = ?"
        row = self._db.execute(statement, (kind, key)).fetchone()
        return None if row is None else (row[0], self._checked(kind, key, *row))

    def _checked(self, kind: str, key: object, body: object, checksum: object) -> int:
        if isinstance(key, str) and isinstance(body, bytes):
            row_hash = record_hash(kind, key, body)
            if checksum == _bytes(row_hash):
                return row_hash
        raise CorruptionError(self._path, 0, f"a {kind} row fails its checksum")

    def _total(self, kind: str) -> int:
        statement = "SELECT total, checksum FROM board_sum WHERE kind = ?"
        row = self._db.execute(statement, (kind,)).fetchone()
        if row is None or not isinstance(row[0], bytes) or row[1] != _sum_check(kind, row[0]):
            raise CorruptionError(self._path, 0, f"the checksum of the {kind} rows is damaged")
        return int.from_bytes(row[0], "big")

    def _add(self, kind: str, change: int) -> None:
        total = _bytes((self._total(kind) + change) % _MODULUS)
        self._db.execute(
            "UPDATE board_sum SET total = ?, checksum = ? WHERE kind = ?",
            (total, _sum_check(kind, total), kind),
        )


@contextlib.contextmanager
def opened(manifest: Manifest, *, write: bool) -> Iterator[TransientRecords]:
    """Open a transaction on a store's transient records."""
    with manifest.transient_transaction(write=write) as db:
        yield TransientRecords(manifest, db)


def load_one(
    manifest: Manifest, kind: str, key: str, parse: Callable[[str, bytes], _Parsed]
) -> _Parsed | None:
    """Return a row, without the cost of a transaction; see `TransientRecords.load`."""
    with manifest.transient_statement() as db:
        return TransientRecords(manifest, db).load(kind, key, parse)


def create_board(db: sqlite3.Connection) -> None:
    """Create the tables of transient records if they do not exist."""
    for statement in _TABLES:
        db.execute(statement)
    zero = bytes(16)
    for kind in KINDS:
        db.execute(
            "INSERT OR IGNORE INTO board_sum VALUES (?, ?, ?)", (kind, zero, _sum_check(kind, zero))
        )


def _bytes(number: int) -> bytes:
    return number.to_bytes(16, "big")


def _sum_check(kind: str, total: bytes) -> bytes:
    return _bytes(record_hash("sum", kind, total))
