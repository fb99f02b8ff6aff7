"""A file system whose calls fail as told."""

import errno
import os
from collections.abc import Iterator
from enum import Enum
from pathlib import Path

from pyspark_theflash.fs import LocalFileSystem


class Failure(Enum):
    """How a disk fails from the chosen call on, until it is `healed`."""

    IO_ERROR = "EIO"  # every call
    FULL = "ENOSPC"  # what takes room; a new file gets half of its bytes
    TORN = "torn"  # a new file gets half of its bytes, then EIO

    @property
    def errno(self) -> int:
        return errno.ENOSPC if self is Failure.FULL else errno.EIO


class FaultyFileSystem(LocalFileSystem):
    """The local file system, of which call number `fail_at` (from 0) and all later ones fail."""

    def __init__(self, failure: Failure, fail_at: int | None = None) -> None:
        self._failure, self._fail_at = failure, fail_at
        self.calls = 0
        self.failed: list[str] = []

    def heal(self) -> None:
        """From now on nothing fails."""
        self._fail_at = None

    def make_folder(self, path: Path) -> None:
        self._step("make_folder")
        super().make_folder(path)

    def write_new(self, path: Path, data: memoryview) -> None:
        try:
            self._step("write_new")
        except OSError:
            if self._failure is not Failure.IO_ERROR:
                super().write_new(path, data[: len(data) // 2])
            raise
        super().write_new(path, data)

    def rename(self, path: Path, target: Path) -> None:
        self._step("rename")
        super().rename(path, target)

    def sync_folder(self, path: Path) -> None:
        self._step("sync_folder", takes_room=False)
        super().sync_folder(path)

    def unlink(self, path: Path) -> None:
        self._step("unlink", takes_room=False)
        super().unlink(path)

    def walk(self, path: Path) -> Iterator[Path]:
        self._step("walk", takes_room=False)
        return super().walk(path)

    def _step(self, name: str, *, takes_room: bool = True) -> None:
        number, self.calls = self.calls, self.calls + 1
        if self._fail_at is None or number < self._fail_at:
            return
        if takes_room or self._failure is not Failure.FULL:
            self.failed.append(name)
            raise OSError(self._failure.errno, os.strerror(self._failure.errno), name)
