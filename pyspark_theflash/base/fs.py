"""The few file operations a store makes, each with its durability said.

A file is durable when its bytes *and* its folder's entry are synced: `write_new` does the first,
`sync_folder` the second, so that many files can share one sync of their folder. Files are 0600,
folders 0700 (promise S10).
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol


class AppendFile(Protocol):
    """A file that grows at its end."""

    def append(self, data: memoryview) -> None:
        """Write all of `data` behind what is there; part of it may be, if this raises."""

    def sync(self) -> None:
        """Make the file's bytes and its length durable."""

    def truncate(self, size_bytes: int) -> None:
        """Cut off what is behind the first `size_bytes`; durable with the next `sync`."""

    def close(self) -> None:
        """Let go of the file."""


class FileSystem(Protocol):
    """What a store asks of a file system. Passed in, so that tests can fail the Nth call."""

    def make_folder(self, path: Path) -> None:
        """Create one folder where there is none; in any case sync it into its parent.

        Whoever created it may have died before the sync.
        """

    def write_new(self, path: Path, data: memoryview) -> None:
        """Create `path`, write and sync it. Raises `FileExistsError` rather than overwrite."""

    def open_append(self, path: Path) -> AppendFile:
        """Open a file to append to; make an empty one, not yet durable, where there is none."""

    def rename(self, path: Path, target: Path) -> None:
        """Put a synced file in the place of `target` durably: old content or new, nothing between.

        Both are in one folder.
        """

    def link(self, path: Path, target: Path) -> None:
        """Make `path` a symbolic link to `target` durably, in place of a link that is there."""

    def sync_folder(self, path: Path) -> None:
        """Make the entries of a folder durable."""

    def unlink(self, path: Path) -> None:
        """Remove a file if it is there; the removal itself need not be durable."""

    def walk(self, path: Path) -> Iterator[Path]:
        """All files below a folder, in sorted order."""


class LocalAppendFile:
    """A POSIX file opened with `O_APPEND`."""

    def __init__(self, path: Path) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._fd = os.open(path, flags, 0o600)

    def append(self, data: memoryview) -> None:
        _write_all(self._fd, data)

    def sync(self) -> None:
        os.fsync(self._fd)

    def truncate(self, size_bytes: int) -> None:
        os.ftruncate(self._fd, size_bytes)

    def close(self) -> None:
        os.close(self._fd)


class LocalFileSystem:
    """POSIX files."""

    def make_folder(self, path: Path) -> None:
        path.mkdir(mode=0o700, exist_ok=True)
        self.sync_folder(path.parent)

    def write_new(self, path: Path, data: memoryview) -> None:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            _write_all(fd, data)
            os.fsync(fd)
        finally:
            os.close(fd)

    def open_append(self, path: Path) -> AppendFile:
        return LocalAppendFile(path)

    def rename(self, path: Path, target: Path) -> None:
        path.replace(target)
        self.sync_folder(target.parent)

    def link(self, path: Path, target: Path) -> None:
        path.unlink(missing_ok=True)
        path.symlink_to(target)
        self.sync_folder(path.parent)

    def sync_folder(self, path: Path) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def unlink(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def walk(self, path: Path) -> Iterator[Path]:
        return iter(sorted(p for p in path.rglob("*") if p.is_file()))


def _write_all(fd: int, data: memoryview) -> None:
    while data:
        data = data[os.write(fd, data) :]


def file_stamp(path: Path) -> tuple[int, int, int] | None:
    """What tells a file that is never written again from another at its path; None: there is none.

    Its device, its number there and its time of change: a number may be used again.

    Raises:
        OSError: it cannot be told.
    """
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino, found.st_ctime_ns
