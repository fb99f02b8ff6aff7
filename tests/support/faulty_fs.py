"""A file system whose calls fail as told."""

import errno
import os
from collections.abc import Iterator
from enum import Enum
from pathlib import Path

from pyspark_theflash.fs import LocalFileSystem


class Failure(Enum):
    """How a disk fails from the chosen call on, until it is healed."""

    IO_ERROR = "every call, with EIO"
    TORN = "new files get half of their bytes, then EIO"
    FULL = "what takes room, with ENOSPC; new files get half of their bytes"

    @property
    def calls(self) -> tuple[str, ...]:
        """Which calls fail."""
        if self is Failure.TORN:
            return ("write_new",)
        room = ("make_folder", "write_new", "rename")
        return room if self is Failure.FULL else (*room, "sync_folder", "unlink", "walk")


class FaultyFileSystem(LocalFileSystem):
    """The local file system, of which call number `fail_at` (from 0) and all later ones fail."""

    def __init__(self, failure: Failure, fail_at: int | None = None) -> None:
        self._failure, self._fail_at = failure, fail_at
        self.calls: list[str] = []

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
        self._step("sync_folder")
        super().sync_folder(path)

    def unlink(self, path: Path) -> None:
        self._step("unlink")
        super().unlink(path)

    def walk(self, path: Path) -> Iterator[Path]:
        self._step("walk")
        return super().walk(path)

    def _step(self, name: str) -> None:
        self.calls.append(name)
        if self._fail_at is None or len(self.calls) <= self._fail_at:
            return
        if name in self._failure.calls:
            number = errno.ENOSPC if self._failure is Failure.FULL else errno.EIO
            raise OSError(number, os.strerror(number), name)
