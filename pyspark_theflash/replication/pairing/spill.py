"""Payloads that wait on disk, where too many wait for their commit to be held in memory.

A file without a name in some folder: it is gone with its process, and nothing in it has to last,
for what waits is read again from the source or is among the store's pending transactions. It
starts over from its beginning whenever nobody needs anything in it any more. What is read is what
was written: its checksum stays in memory.
"""

import os
import tempfile
import weakref
import zlib
from pathlib import Path
from typing import IO, Final, TypeAlias

from pyspark_theflash.base.errors import CorruptionError
from pyspark_theflash.storage.store.manifest import file_errors

BUDGET_BYTES: Final = 64 << 20
"""What may wait in memory."""
WORTH_BYTES: Final = 1 << 16
"""Smaller payloads stay in memory: they cost little, and the file more."""


class SpilledPayload:
    """A payload in the file, of which only the length is at hand."""

    __slots__ = ("__weakref__", "_crc", "_offset", "_size", "_spill")

    def __init__(self, spill: "Spill", offset: int, size: int, crc: int) -> None:
        self._spill, self._offset, self._size, self._crc = spill, offset, size, crc

    def __len__(self) -> int:
        return self._size

    def read(self) -> bytes:
        """The payload itself.

        Raises:
            CorruptionError: it is not what was written.
            EngineError: the disk failed.
        """
        return self._spill.read(self._offset, self._size, self._crc)


Payload: TypeAlias = bytes | SpilledPayload


def payload_bytes(payload: Payload) -> bytes:
    """A payload in memory, wherever it is."""
    return payload.read() if isinstance(payload, SpilledPayload) else payload


def memory_bytes(payload: Payload | None) -> int:
    """How much memory a payload takes."""
    return len(payload) if isinstance(payload, bytes) else 0


class Spill:
    """The file; made with the first payload."""

    def __init__(self, folder: Path | None = None) -> None:
        """`folder`: where there is room; None for the system's folder of temporary files."""
        self._folder = folder or Path(tempfile.gettempdir())
        self._file: IO[bytes] | None = None
        self._end = self._live = 0

    def put(self, payload: bytes) -> SpilledPayload:
        """Write a payload.

        Raises:
            StoreFullError, EngineError: the disk is full, or failed.
        """
        with file_errors(self._folder):
            fd = self._opened()
            written = 0
            while written < len(payload):
                part = memoryview(payload)[written:]
                written += os.pwrite(fd, part, self._end + written)
        spilled = SpilledPayload(self, self._end, len(payload), zlib.crc32(payload))
        self._end += len(payload)
        self._live += 1
        weakref.finalize(spilled, self._gone)
        return spilled

    def read(self, offset: int, size: int, crc: int) -> bytes:
        """What was written there; raises as `SpilledPayload.read`."""
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
            # Closed by the finalizer, for it lives as long as what is in it.
            self._file = tempfile.TemporaryFile(dir=self._folder, buffering=0)  # noqa: SIM115
            weakref.finalize(self, self._file.close)
        return self._file.fileno()

    def _gone(self) -> None:
        self._live -= 1
        if not self._live and self._file is not None:
            self._end = 0
            self._file.truncate(0)
