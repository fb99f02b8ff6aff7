"""File lock that allows one writer per store.

It is an operating system lock (`flock`), released when its holder ends in any way, and not before.
In addition, the writer takes a fencing token, and the manifest rejects commits with an older one.
"""

import contextlib
import fcntl
import json
import os
from dataclasses import astuple
from pathlib import Path
from typing import Final

from pyspark_theflash.base.clock import Clock, SystemClock
from pyspark_theflash.base.errors import StoreInUseError
from pyspark_theflash.storage.store.latch.holder import Holder
from pyspark_theflash.storage.store.manifest import file_errors
from pyspark_theflash.tidb.codec.document import SHAPE_ERRORS, load

LOCK_FILE: Final = "writer.lock"
_TEXT_BYTES: Final = 4096


class WriterLock:
    """The writer's lock, held from construction to `release`. The file names the holder."""

    def __init__(self, folder: Path, name: str = LOCK_FILE, *, clock: Clock | None = None) -> None:
        """Acquire the lock on the file `name`.

        Raises:
            StoreInUseError: Another process has the lock; the error names it.
        """
        path = folder / name
        with contextlib.ExitStack() as undo, file_errors(path):
            self._file = undo.enter_context(open(path, "a+b", buffering=0, opener=_open_private))
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = _holder_in(path)
                raise StoreInUseError(str(folder), str(holder or "another process")) from None
            self._file.truncate(0)
            holder = Holder.here(clock or SystemClock())
            self._file.write(json.dumps(astuple(holder)).encode())
            undo.pop_all()

    def release(self) -> None:
        """Release the lock; may be called again."""
        if not self._file.closed:
            with contextlib.closing(self._file), contextlib.suppress(OSError):
                self._file.truncate(0)


def current_writer(folder: Path, clock: Clock) -> Holder | None:
    """Return the process that writes the store, for display: read without taking the lock."""
    holder = _holder_in(folder / LOCK_FILE)
    return None if holder is None or holder.is_gone(clock) else holder


def _holder_in(path: Path) -> Holder | None:
    """Read the holder from a lock file; None if unreadable, since it is only for display."""
    try:
        with open(path, "rb") as file:
            return Holder.from_fields(load(file.read(_TEXT_BYTES)))
    except (OSError, *SHAPE_ERRORS):
        return None


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
