"""Spill file for payloads of pending transactions that do not fit in memory.

The file is unnamed and disappears with its process. Its contents need not be durable: pending
transactions are read again from the source, or are in the manifest. The file is truncated whenever
no payload in it is in use. Checksums in memory verify what is read back.
"""

import os
import tempfile
import weakref
import zlib
from pathlib import Path
from typing import IO, Final, TypeAlias

from pyspark_theflash.base.errors import CorruptionError
from pyspark_theflash.base.memory import return_freed_memory
from pyspark_theflash.storage.store.manifest import file_errors

BUDGET_BYTES: Final = 64 << 20
"""Memory budget of pending payloads."""
WORTH_BYTES: Final = 1 << 16
"""Minimum size of a spilled payload: smaller ones save too little memory for the I/O."""

_LARGE_BYTES: Final = 1 << 24


class SpilledPayload:
    """Payload in the spill file; memory has its length and checksum."""

    __slots__ = ("__weakref__", "_crc", "_offset", "_size", "_spill")

    def __init__(self, spill: "Spill", offset: int, size: int, crc: int) -> None:
        self._spill, self._offset, self._size, self._crc = spill, offset, size, crc

    def __len__(self) -> int:
        return self._size

    def read(self) -> bytes:
        """Read the payload.

        Raises:
            CorruptionError: The checksum does not match.
            EngineError: The disk failed.
        """
        return self._spill.read(self._offset, self._size, self._crc)


Payload: TypeAlias = bytes | SpilledPayload


def payload_bytes(payload: Payload) -> bytes:
    """Return a payload's bytes, from memory or from the spill file."""
    return payload.read() if isinstance(payload, SpilledPayload) else payload


def memory_bytes(payload: Payload | None) -> int:
    """Return the memory that a payload takes, in bytes."""
    return len(payload) if isinstance(payload, bytes) else 0


class Spill:
    """Spill file, created with the first payload."""

    def __init__(self, folder: Path | None = None) -> None:
        """Create the file in `folder` when needed; None is the system's temporary folder."""
        self._folder = folder or Path(tempfile.gettempdir())
        self._file: IO[bytes] | None = None
        self._end = self._live = 0

    @property
    def size_bytes(self) -> int:
        """The size of the file."""
        return self._end

    def put(self, payload: bytes) -> SpilledPayload:
        """Write a payload.

        Raises:
            StoreFullError, EngineError: The disk is full, or failed.
        """
        with file_errors(self._folder):
            fd = self._opened()
            written = 0
            while written < len(payload):
                part = memoryview(payload)[written:]
                written += os.pwrite(fd, part, self._end + written)
        if len(payload) >= _LARGE_BYTES:
            return_freed_memory()  # that of the message, which was parsed in pieces
        spilled = SpilledPayload(self, self._end, len(payload), zlib.crc32(payload))
        self._end += len(payload)
        self._live += 1
        weakref.finalize(spilled, self._gone)
        return spilled

    def read(self, offset: int, size: int, crc: int) -> bytes:
        """Read a payload; raises the errors of `SpilledPayload.read`."""
        parts, at, end = [], offset, offset + size
        with file_errors(self._folder):
            while at < end and (part := os.pread(self._opened(), end - at, at)):
                parts.append(part)
                at += len(part)
        payload = b"".join(parts)
        if len(payload) != size or zlib.crc32(payload) != crc:
            raise CorruptionError(str(self._folder), offset, "a spilled payload is damaged")
        return payload

    def _opened(self) -> int:
        if self._file is None:
            # Not a `with` block: the finalizer closes it when no payload refers to it any more.
            self._file = tempfile.TemporaryFile(dir=self._folder, buffering=0)  # noqa: SIM115
            weakref.finalize(self, self._file.close)
        return self._file.fileno()

    def _gone(self) -> None:
        self._live -= 1
        if not self._live and self._file is not None:
            self._end = 0
            self._file.truncate(0)
