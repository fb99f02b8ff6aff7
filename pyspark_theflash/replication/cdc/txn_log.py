"""A transaction in one region that is too large for memory.

Its events are appended to a temporary file, divided by a hash of the key into parts that fit into
memory one at a time, and matched part by part when the region's resolved_ts has reached the
transaction's commit_ts. The rules are those of `matcher`.

    event   u8 kind | u8 op | u64 generation | u32 key size | u32 value size | key | value
"""

import struct
import zlib
from collections.abc import Iterator
from enum import IntEnum
from typing import Final

from pyspark_theflash.base.errors import ChangeFeedError
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.replication.cdc.wire import DELETE, PUT
from pyspark_theflash.replication.pairing.spill import Spill, SpilledPayload
from pyspark_theflash.tidb.codec.key import RawKey, table_of

_PARTS: Final = 64
_BLOCK_BYTES: Final = 1 << 16
_READ_BYTES: Final = 16 << 20
"""Events whose rows are read at once, or those of one part if it has more."""
_HEADER: Final = struct.Struct("<BBQII")
Row = tuple[bytes, bytes, int]
"""key, value (empty if deleted), op."""


class _LoggedEvent(IntEnum):
    PREWRITE = 1
    EARLY_COMMIT = 2
    """A commit before INITIALIZED; without a prewrite, the scan has sent the version."""
    COMMIT = 3
    ROLLBACK = 4


class TxnLog:
    """The events of a transaction. `commit_ts` is 0 until its first commit."""

    def __init__(self, spill: Spill, start_ts: TimeStamp) -> None:
        self.start_ts, self.commit_ts = start_ts, TimeStamp(0)
        self._spill = spill
        self._blocks: list[list[SpilledPayload]] = [[] for _ in range(_PARTS)]
        self._open = [bytearray() for _ in range(_PARTS)]

    def prewrite(self, key: bytes, value: bytes, generation: int) -> None:
        """Add a prewrite. Raises `StoreFullError`, `EngineError`."""
        self._add(_LoggedEvent.PREWRITE, key, value, generation=generation)

    def commit(self, key: bytes, commit_ts: TimeStamp, op: int, *, is_early: bool) -> None:
        """Add a commit, which `is_early` before INITIALIZED.

        Raises:
            ChangeFeedError: Another key was committed at another timestamp.
            StoreFullError, EngineError: The file could not be written.
        """
        if self.commit_ts not in (0, commit_ts):
            reason = f"start_ts={self.start_ts} was committed at {self.commit_ts} and {commit_ts}"
            raise ChangeFeedError(table_of(RawKey(key)), reason)
        self.commit_ts = commit_ts
        self._add(_LoggedEvent.EARLY_COMMIT if is_early else _LoggedEvent.COMMIT, key, b"", op)

    def roll_back(self, key: bytes) -> None:
        """Add a rollback. Raises `StoreFullError`, `EngineError`."""
        self._add(_LoggedEvent.ROLLBACK, key, b"")

    def parts(self) -> Iterator[list[Row]]:
        """Match the events and yield the committed rows in parts, without duplicates.

        Raises:
            ChangeFeedError: A commit has no prewrite, or a put no value.
            CorruptionError, EngineError: The file could not be read.
        """
        rows, size = list[Row](), 0
        for number in range(_PARTS):
            size += sum(map(len, self._blocks[number])) + len(self._open[number])
            rows += self._matched(number)
            if size >= _READ_BYTES:
                yield rows
                rows, size = [], 0
        yield rows

    def _add(
        self, kind: _LoggedEvent, key: bytes, value: bytes, op: int = 0, generation: int = 0
    ) -> None:
        number = zlib.crc32(key) % _PARTS
        block = self._open[number]
        block += _HEADER.pack(kind, op, generation, len(key), len(value))
        block += key
        block += value
        if len(block) >= _BLOCK_BYTES:
            self._blocks[number].append(self._spill.put(bytes(block)))
            block.clear()

    def _events(self, number: int) -> Iterator[tuple[int, int, int, bytes, bytes]]:
        for block in self._blocks[number]:
            yield from _decoded(block.read())
        yield from _decoded(bytes(self._open[number]))

    def _matched(self, number: int) -> list[Row]:
        values: dict[bytes, tuple[int, bytes]] = {}
        commits: dict[bytes, tuple[int, int]] = {}
        for kind, op, generation, key, value in self._events(number):
            if kind == _LoggedEvent.PREWRITE:
                old = values.get(key)
                if old is None or (value and generation >= old[0]):
                    values[key] = (generation, value)
            elif kind == _LoggedEvent.ROLLBACK:
                values.pop(key, None)
            else:
                commits[key] = (kind, op)
        rows = []
        for key, (kind, op) in commits.items():
            prewrite = values.get(key)
            if prewrite is None or (op == PUT and not prewrite[1]):
                if kind == _LoggedEvent.COMMIT:
                    raise self._error(key, "was committed without a prewrite or a value")
                continue
            if op not in (PUT, DELETE):
                raise self._error(key, "has a change of an unknown type")
            rows.append((key, b"" if op == DELETE else prewrite[1], op))
        return rows

    def _error(self, key: bytes, reason: str) -> ChangeFeedError:
        where = table_of(RawKey(key))
        return ChangeFeedError(where, f"the transaction of start_ts={self.start_ts} {reason}")


def _decoded(block: bytes) -> Iterator[tuple[int, int, int, bytes, bytes]]:
    at = 0
    while at < len(block):
        kind, op, generation, key_size, value_size = _HEADER.unpack_from(block, at)
        key_at = at + _HEADER.size
        value_at = key_at + key_size
        at = value_at + value_size
        yield kind, op, generation, block[key_at:value_at], block[value_at:at]
