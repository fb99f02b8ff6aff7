"""One writer per store (promise P14).

The lock is the operating system's: it goes when its holder dies, however it dies, and nobody can take it before. The
fencing token that comes with it is the second line: the manifest refuses a commit under any but the newest.
"""

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Final

from pyspark_theflash.errors import StoreInUseError

LOCK_FILE: Final = "writer.lock"


class WriterLock:
    """Held from construction to `release`."""

    def __init__(self, folder: Path) -> None:
        """Take the lock.

        Raises:
            StoreInUseError: another process has it; says which.
        """
        path = folder / LOCK_FILE
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(self._fd, 64).decode("ascii", "replace").strip() or "another process"
            os.close(self._fd)
            raise StoreInUseError(str(folder), holder) from None
        os.ftruncate(self._fd, 0)
        os.write(self._fd, f"process {os.getpid()}\n".encode())

    def release(self) -> None:
        """Let another writer in."""
        os.close(self._fd)

    def __enter__(self) -> "WriterLock":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
