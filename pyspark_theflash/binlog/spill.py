"""Payloads that wait on disk, where too many wait for their commit to be held in memory.

A file without a name in some folder: it is gone with its process, and nothing in it has to last,
for what waits is read again from the source or is among the store's pending transactions. It
starts over from its beginning whenever nobody needs anything in it any more.
"""

import errno
import os
import tempfile
import weakref
from pathlib import Path
from typing import Final, TypeAlias

from pyspark_theflash.errors import EngineError, StoreFullError, invariant

BUDGET_BYTES: Final = 64 << 20
"""What may wait in memory."""
WORTH_BYTES: Final = 1 << 16
"""Smaller payloads stay in memory: they cost little, and the file more."""


class SpilledPayload:
    """A payload in the file, of which only the length is at hand."""

    __slots__ = ("__weakref__", "_offset", "_size", "_spill")

    def __init__(self, spill: "Spill", offset: int, size: int) -> None:
        self._spill, self._offset, self._size = spill, offset, size

    def __len__(self) -> int:
        return self._size

    def read(self) -> bytes:
        """The payload itself."""
        return self._spill.read(self._offset, self._size)


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
        self._folder = folder
        self._fd: int | None = None
        self._end = self._live = 0

    def put(self, payload: bytes) -> SpilledPayload:
        """Write a payload.

        Raises:
            StoreFullError, EngineError: the disk is full, or failed.
        """
        try:
            fd = self._opened()
            written = 0
            while written < len(payload):
                part = memoryview(payload)[written:]
                written += os.pwrite(fd, part, self._end + written)
        except OSError as error:
            where = str(self._folder or tempfile.gettempdir())
            if error.errno == errno.ENOSPC:
                raise StoreFullError(where) from error
            raise EngineError(where, f"cannot keep what waits for its commit: {error}") from error
        spilled = SpilledPayload(self, self._end, len(payload))
        self._end += len(payload)
        self._live += 1
        weakref.finalize(spilled, self._gone)
        return spilled

    def read(self, offset: int, size: int) -> bytes:
        """What was written there."""
        fd = self._opened()
        parts = []
        while size and (part := os.pread(fd, size, offset)):
            parts.append(part)
            offset, size = offset + len(part), size - len(part)
        invariant(not size, "a spilled payload is whole")
        return b"".join(parts)

    def _opened(self) -> int:
        if self._fd is None:
            self._fd, name = tempfile.mkstemp(prefix=".spill-", dir=self._folder)
            weakref.finalize(self, os.close, self._fd)
            os.unlink(name)
        return self._fd

    def _gone(self) -> None:
        self._live -= 1
        if not self._live and self._fd is not None:
            self._end = 0
            os.ftruncate(self._fd, 0)
