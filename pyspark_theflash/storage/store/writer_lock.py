"""One writer per store (promise P14).

The lock is the operating system's: it goes when its holder dies, however it dies, and nobody can
take it before. The fencing token that comes with it is the second line: the manifest refuses a
commit under any but the newest.
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
    """Held from construction to `release`. The file's text says by whom."""

    def __init__(self, folder: Path, name: str = LOCK_FILE, *, clock: Clock | None = None) -> None:
        """Take the lock, which is the file `name`.

        Raises:
            StoreInUseError: another process has it; says which.
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
        """Let another writer in; harmless the second time."""
        if not self._file.closed:
            with contextlib.closing(self._file), contextlib.suppress(OSError):
                self._file.truncate(0)


def current_writer(folder: Path, clock: Clock) -> Holder | None:
    """Tell who writes the store, as far as can be seen without the lock: for people."""
    holder = _holder_in(folder / LOCK_FILE)
    return None if holder is None or holder.is_gone(clock) else holder


def _holder_in(path: Path) -> Holder | None:
    """The text is a courtesy, so one that cannot be read is as good as none."""
    try:
        with open(path, "rb") as file:
            return Holder.from_fields(load(file.read(_TEXT_BYTES)))
    except (OSError, *SHAPE_ERRORS):
        return None


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
