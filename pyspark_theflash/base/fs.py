"""File operations of a store, with their durability.

A file is durable when its bytes *and* its folder entry are synced. `write_new` syncs the bytes,
`sync_folder` the entries, so that many files can share one sync of their folder. Files have mode
0600, folders 0700 (promise S10).
"""

import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Protocol


class AppendFile(Protocol):
    """File opened for appending."""

    def append(self, data: memoryview) -> None:
        """Append all of `data`; if this raises, part of it may be written."""

    def sync(self) -> None:
        """Make the file's content and size durable."""

    def truncate(self, size_bytes: int) -> None:
        """Truncate to `size_bytes`; durable after the next `sync`."""

    def close(self) -> None:
        """Close the file."""


class FileSystem(Protocol):
    """File system of a store, passed in so that tests can make the Nth call fail."""

    def make_folder(self, path: Path) -> None:
        """Create a folder if it does not exist, and sync its parent in any case.

        An earlier process may have created it and stopped before the sync.
        """

    def write_new(self, path: Path, data: memoryview) -> None:
        """Create `path`, write and sync it. Raises `FileExistsError` if it exists."""

    def open_append(self, path: Path) -> AppendFile:
        """Open a file for appending; create it, not yet durable, if it does not exist."""

    def rename(self, path: Path, target: Path) -> None:
        """Replace `target` by a synced file of the same folder, atomically and durably."""

    def link(self, path: Path, target: Path) -> None:
        """Durably make `path` a symbolic link to `target`, replacing an existing link."""

    def sync_folder(self, path: Path) -> None:
        """Make the entries of a folder durable."""

    def unlink(self, path: Path) -> None:
        """Remove a file if it exists; the removal need not be durable."""

    def walk(self, path: Path) -> Iterator[Path]:
        """Return all files below a folder, sorted."""

    def kind(self, path: Path) -> str:
        """Return the type of the file system of an existing path, such as nfs4; "" if unknown."""


class LocalAppendFile:
    """POSIX file opened with `O_APPEND`."""

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
    """POSIX file system."""

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

    def kind(self, path: Path) -> str:
        return _kind_of(path.stat().st_dev)


@lru_cache(maxsize=64)
def _kind_of(device: int) -> str:
    """Return the type of a mounted file system. Linux only; elsewhere, "" for all."""
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        lines = Path("/proc/self/mountinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        return ""
    for mount, _, system in (line.partition(" - ") for line in lines):
        if mount.split()[2] == number:
            return system.split()[0]
    return ""


def _write_all(fd: int, data: memoryview) -> None:
    while data:
        data = data[os.write(fd, data) :]


def file_stamp(path: Path) -> tuple[int, int, int] | None:
    """Return (device, inode, change time), or None if the file does not exist.

    It identifies a file that is never modified; the change time is included because inode numbers
    are reused.

    Raises:
        OSError: The file's status cannot be read.
    """
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_dev, status.st_ino, status.st_ctime_ns
