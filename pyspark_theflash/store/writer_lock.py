"""One writer per store (promise P14).

The lock is the operating system's: it goes when its holder dies, however it dies, and nobody can
take it before. The fencing token that comes with it is the second line: the manifest refuses a
commit under any but the newest.
"""

import contextlib
import fcntl
import os
from pathlib import Path
from typing import Final

from pyspark_theflash.errors import StoreInUseError
from pyspark_theflash.store.manifest import file_errors

LOCK_FILE: Final = "writer.lock"


class WriterLock:
    """Held from construction to `release`."""

    def __init__(self, folder: Path) -> None:
        """Take the lock.

        Raises:
            StoreInUseError: another process has it; says which.
        """
        path = folder / LOCK_FILE
        with contextlib.ExitStack() as undo, file_errors(path):
            self._file = undo.enter_context(open(path, "a+b", buffering=0, opener=_open_private))
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._file.seek(0)
                holder = self._file.read(64).decode("ascii", "replace").strip()
                raise StoreInUseError(str(folder), holder or "another process") from None
            self._file.truncate(0)
            self._file.write(f"process {os.getpid()}\n".encode())
            undo.pop_all()

    def release(self) -> None:
        """Let another writer in."""
        self._file.close()


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
