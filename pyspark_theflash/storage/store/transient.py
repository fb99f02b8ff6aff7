"""The board: small rows beside the manifest's map, for what comes and goes between commits.

    board        kind, key -> body, checksum     a latch, a command, ...
    board_sum    kind -> total, checksum         the sum of the checksums of its rows, mod 2**128

A row's checksum is the hash of the record of the same kind, key and body. It shows a row that was
changed; the sum shows one that is missing or too many. Both are needed by `rows`, which tells
whether something is *not* there; whoever asks for one row needs that row's checksum only, so damage
to one latch stops what would remove files and none of the other readers.

The board has no `ack`: after a damaged log it may stand a moment further back than it did. Latches
that were put on it in that moment end early, and their holders learn so when they renew.
"""

import contextlib
import sqlite3
from collections.abc import Iterator
from typing import Final

from pyspark_theflash.base.errors import CorruptionError
from pyspark_theflash.storage.store.manifest import DATABASE, Manifest, record_hash

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
    """The board within one transaction; see `opened`."""

    def __init__(self, manifest: Manifest, db: sqlite3.Connection) -> None:
        self._path, self._db = str(manifest.folder / DATABASE), db

    def rows(self, kind: str) -> dict[str, bytes]:
        """All rows of a kind, key -> body, by key.

        Raises:
            CorruptionError: one is damaged or missing.
        """
        found: dict[str, bytes] = {}
        total = 0
        statement = "SELECT key, body, checksum FROM board WHERE kind = ? ORDER BY key"
        for key, body, checksum in self._db.execute(statement, (kind,)):
            total += self._checked(kind, key, body, checksum)
            found[key] = body
        if total % _MODULUS != self._total(kind):
            raise CorruptionError(self._path, 0, f"the {kind} rows of the board do not add up")
        return found

    def row(self, kind: str, key: str) -> bytes | None:
        """One row's body; None if there is none. Raises `CorruptionError`."""
        found = self._row(kind, key)
        return None if found is None else found[0]

    def put(self, kind: str, key: str, body: bytes) -> None:
        """Add a row, or replace the one of this key."""
        old = self._row(kind, key)
        new = record_hash(kind, key, body)
        self._db.execute(
            "INSERT OR REPLACE INTO board VALUES (?, ?, ?, ?)", (kind, key, body, _bytes(new))
        )
        self._add(kind, new - (old[1] if old else 0))

    def remove(self, kind: str, key: str) -> bool:
        """Take a row away; whether there was one."""
        old = self._row(kind, key)
        if old is None:
            return False
        self._db.execute("DELETE FROM board WHERE kind = ? AND key = ?", (kind, key))
        self._add(kind, -old[1])
        return True

    def _row(self, kind: str, key: str) -> tuple[bytes, int] | None:
        statement = "SELECT body, checksum FROM board WHERE kind = ? AND key = ?"
        row = self._db.execute(statement, (kind, key)).fetchone()
        return None if row is None else (row[0], self._checked(kind, key, *row))

    def _checked(self, kind: str, key: object, body: object, checksum: object) -> int:
        if isinstance(key, str) and isinstance(body, bytes):
            found = record_hash(kind, key, body)
            if checksum == _bytes(found):
                return found
        raise CorruptionError(self._path, 0, f"a {kind} row of the board fails its checksum")

    def _total(self, kind: str) -> int:
        statement = "SELECT total, checksum FROM board_sum WHERE kind = ?"
        row = self._db.execute(statement, (kind,)).fetchone()
        if row is None or not isinstance(row[0], bytes) or row[1] != _sum_check(kind, row[0]):
            raise CorruptionError(self._path, 0, f"the sum of the {kind} rows is damaged")
        return int.from_bytes(row[0], "big")

    def _add(self, kind: str, change: int) -> None:
        total = _bytes((self._total(kind) + change) % _MODULUS)
        self._db.execute(
            "UPDATE board_sum SET total = ?, checksum = ? WHERE kind = ?",
            (total, _sum_check(kind, total), kind),
        )


@contextlib.contextmanager
def opened(manifest: Manifest, *, write: bool) -> Iterator[TransientRecords]:
    """The board of a store, in a transaction of its own."""
    with manifest.beside(write=write) as db:
        yield TransientRecords(manifest, db)


def create_board(db: sqlite3.Connection) -> None:
    """Make the board where it is missing; what is there stays."""
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
