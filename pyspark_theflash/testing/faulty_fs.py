"""A file system whose calls fail as configured."""

import errno
import os
from collections.abc import Iterator
from enum import Enum
from pathlib import Path

from pyspark_theflash.base.fs import AppendFile, LocalAppendFile, LocalFileSystem


class Failure(Enum):
    """Kinds of failures of a disk, from the chosen call on until `heal`."""

    IO_ERROR = "every call, with EIO"
    TORN = "what is written gets half of its bytes, then EIO"
    FULL = "what takes room, with ENOSPC; what is written gets half of its bytes"

    @property
    def calls(self) -> tuple[str, ...]:
        """The names of the calls that fail."""
        if self is Failure.TORN:
            return ("write_new", "append")
        room = ("make_folder", "write_new", "rename", "open_append", "append")
        if self is Failure.FULL:
            return room
        return (*room, "sync_folder", "sync", "truncate", "unlink", "walk")


class FaultyFileSystem(LocalFileSystem):
    """The local file system, whose call number `fail_at` (from 0) and all later ones fail.

    Without `lasting`, only the first call of a failing kind fails.
    """

    def __init__(
        self, failure: Failure, fail_at: int | None = None, *, lasting: bool = True
    ) -> None:
        self._failure, self._fail_at, self._lasting = failure, fail_at, lasting
        self.calls: list[str] = []
        self.failed = 0

    def fail_from_now(self) -> None:
        """Let the next call be the first that fails."""
        self._fail_at = len(self.calls)

    def heal(self) -> None:
        """End the failure."""
        self._fail_at = None

    def make_folder(self, path: Path) -> None:
        self.step("make_folder")
        super().make_folder(path)

    def write_new(self, path: Path, data: memoryview) -> None:
        try:
            self.step("write_new")
        except OSError:
            if self.tears_writes:
                super().write_new(path, data[: len(data) // 2])
            raise
        super().write_new(path, data)

    def open_append(self, path: Path) -> AppendFile:
        self.step("open_append")
        return FaultyAppendFile(path, self)

    def rename(self, path: Path, target: Path) -> None:
        self.step("rename")
        super().rename(path, target)

    def sync_folder(self, path: Path) -> None:
        self.step("sync_folder")
        super().sync_folder(path)

    def unlink(self, path: Path) -> None:
        self.step("unlink")
        super().unlink(path)

    def walk(self, path: Path) -> Iterator[Path]:
        self.step("walk")
        return super().walk(path)

    @property
    def tears_writes(self) -> bool:
        """Whether a write that fails leaves half of its bytes."""
        return self._failure is not Failure.IO_ERROR

    def step(self, name: str) -> None:
        """Count a call, and raise the error if it is to fail."""
        self.calls.append(name)
        if self._fail_at is None or len(self.calls) <= self._fail_at:
            return
        if name in self._failure.calls and (self._lasting or not self.failed):
            self.failed += 1
            number = errno.ENOSPC if self._failure is Failure.FULL else errno.EIO
            raise OSError(number, os.strerror(number), name)


class FaultyAppendFile(LocalAppendFile):
    """A file to append to, whose calls count as its file system's."""

    def __init__(self, path: Path, fs: FaultyFileSystem) -> None:
        super().__init__(path)
        self._fs = fs

    def append(self, data: memoryview) -> None:
        try:
            self._fs.step("append")
        except OSError:
            if self._fs.tears_writes:
                super().append(data[: len(data) // 2])
            raise
        super().append(data)

    def sync(self) -> None:
        self._fs.step("sync")
        super().sync()

    def truncate(self, size_bytes: int) -> None:
        self._fs.step("truncate")
        super().truncate(size_bytes)
