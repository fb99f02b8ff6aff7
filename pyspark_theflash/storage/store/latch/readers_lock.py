"""Read latch for readers that cannot write: on a full disk or in a read-only folder.

A latch is a row in the manifest's database, which must be written. A reader that cannot write it
takes a shared lock on `readers.lock` instead (`flock`, which works on any file that can be opened),
and so pins *everything* as long as it holds the lock. A process that is about to remove files first
takes the exclusive lock while it reads the latches; if it cannot, it removes nothing.

Unlike a row, the lock ends with its process. Between the end of a planner and the start of its
first task, nothing is pinned. So a task takes the lock and then checks the *floor*, the generation
up to which files may have been removed (`lease.py`).
"""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

from pyspark_theflash.base.clock import Clock, Deadline
from pyspark_theflash.base.errors import StoreInUseError
from pyspark_theflash.storage.store.manifest import file_errors

READERS_LOCK_FILE: Final = "readers.lock"
_PATIENCE_MS: Final = 2_000
_STEP_MS: Final = 10


class ReadersLock:
    """The shared lock, held from construction to `release`."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        """Acquire the lock.

        Raises:
            StoreInUseError: Another process has held the exclusive lock for `_PATIENCE_MS`.
            EngineError: The file cannot be opened.
        """
        path = folder / READERS_LOCK_FILE
        deadline = Deadline(clock, _PATIENCE_MS)
        with contextlib.ExitStack() as undo, file_errors(path):
            self._file = undo.enter_context(open(path, "rb"))
            while not _lock(self._file, fcntl.LOCK_SH):
                if not deadline.left_ms():
                    raise StoreInUseError(str(folder), "a process that removes old files")
                deadline.sleep_ms(_STEP_MS)
            undo.pop_all()

    def release(self) -> None:
        """Release the lock."""
        self._file.close()


@contextlib.contextmanager
def exclusive_readers_lock(folder: Path) -> Iterator[bool]:
    """Try to take the exclusive lock for the block; yield whether it was acquired."""
    path = folder / READERS_LOCK_FILE
    with contextlib.ExitStack() as undo:
        with file_errors(path):
            file = undo.enter_context(open(path, "rb"))
            is_locked = _lock(file, fcntl.LOCK_EX)
        yield is_locked


def _lock(file: IO[bytes], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
