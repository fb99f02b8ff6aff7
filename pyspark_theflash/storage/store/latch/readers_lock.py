"""A read latch that needs no room: for readers of a full disk and of a folder nobody may write.

A latch is a row in the manifest's database, and a row needs a disk that takes it. Where it does
not, a reader locks `readers.lock` for sharing instead (`flock`, which works on any file that can be
opened) and so pins *everything* for as long as it lives. Whoever is about to remove something
locks the file for itself first, for the moment in which it looks at the rows; if it cannot, it
removes nothing.

Unlike a row, this lock does not outlive its process. Between the end of a planner and the first of
its tasks nothing is pinned; a task therefore takes the lock and then looks at the *floor*, the
generation up to which something may have been removed (`lease.py`).
"""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

from pyspark_theflash.base.clock import Clock
from pyspark_theflash.base.errors import StoreInUseError
from pyspark_theflash.storage.store.manifest import file_errors

READERS_LOCK_FILE: Final = "readers.lock"
_PATIENCE_MS: Final = 2_000
_STEP_MS: Final = 10


class ReadersLock:
    """The shared lock, held from construction to `release`."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        """Take the lock.

        Raises:
            StoreInUseError: someone has been about to remove files for seconds.
            EngineError: the file cannot be opened.
        """
        path = folder / READERS_LOCK_FILE
        deadline_ms = clock.boottime_ms() + _PATIENCE_MS
        with contextlib.ExitStack() as undo, file_errors(path):
            self._file = undo.enter_context(open(path, "rb"))
            while not _lock(self._file, fcntl.LOCK_SH):
                if clock.boottime_ms() >= deadline_ms:
                    raise StoreInUseError(str(folder), "a process that removes old files")
                clock.sleep_ms(_STEP_MS)
            undo.pop_all()

    def release(self) -> None:
        """Stop pinning."""
        self._file.close()


@contextlib.contextmanager
def readers_shut_out(folder: Path) -> Iterator[bool]:
    """Whether nobody holds the shared lock; if so, nobody gets it within the block."""
    path = folder / READERS_LOCK_FILE
    with contextlib.ExitStack() as undo:
        with file_errors(path):
            file = undo.enter_context(open(path, "rb"))
            alone = _lock(file, fcntl.LOCK_EX)
        yield alone


def _lock(file: IO[bytes], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
