"""Partitions: the folders that hold a store's data files, so that a store can use several disks.

    data/             partition 0, which every store has
    data/@1 -> DIR    partition 1: a symbolic link to a folder, usually on another disk

A file keeps its name in every partition: `<physical table id>/<number>.parquet`.

A partition has a record in the manifest, of kind `partition`. Its body is repeated in the file
`theflash-partition` in the partition's folder. If the disk is not mounted, or another one is
mounted in its place, the two differ: the partition is then *missing*, nothing is written to it,
and nothing in it is swept.

The file `theflash-owner` in the folder names the store's folder. A copy of the store's folder uses
the same partitions as the original, and each would delete the files that only the other one
names. So a writer refuses a partition whose owner is another folder in which there is a store.
"""

import json
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeAlias

from pyspark_theflash.base.errors import OptionError, StoreMismatchError
from pyspark_theflash.base.failpoint import fail_point
from pyspark_theflash.base.fs import FileSystem
from pyspark_theflash.storage.store.manifest import DATABASE, Record, View

PARTITION_KIND: Final = "partition"
Partitions: TypeAlias = tuple[int, ...]
HOME: Final[Partitions] = (0,)
"""Where a region's files are unless somebody has moved or copied it."""
LINK_MARK: Final = "@"
_MARKER: Final = "theflash-partition"
_OWNER: Final = "theflash-owner"


def path_in(partition: int, name: str) -> str:
    """The path of a file in a partition, relative to the store's data folder."""
    return f"{LINK_MARK}{partition}/{name}" if partition else name


def partition_of(path: str) -> int:
    """Inverse of `path_in`, without the name."""
    if not path.startswith(LINK_MARK):
        return 0
    return int(path[1 : path.index("/")])


def name_of(path: str) -> str:
    """The name that a file has in every partition."""
    return path.split("/", 1)[1] if path.startswith(LINK_MARK) else path


def is_missing(data: Path, path: str) -> bool:
    """Whether a file's path leads to a partition whose folder is not there."""
    partition = partition_of(path)
    return bool(partition) and not (data / path_in(partition, _MARKER)).exists()


class PartitionTable:
    """The partitions of one store, as one generation of its manifest has them."""

    def __init__(self, data: Path, view: View) -> None:
        self._data = data
        self._known: Mapping[int, bytes] = {
            int(key): body for key, body in view.of_kind(PARTITION_KIND).items()
        }

    def numbers(self) -> list[int]:
        """All partitions, with 0."""
        return [0, *self._known]

    def folder(self, partition: int) -> Path:
        """Where a partition is."""
        return self._data / path_in(partition, "") if partition else self._data

    def target(self, partition: int) -> str:
        """The folder that a partition's link leads to; of partition 0 the data folder."""
        folder = self.folder(partition)
        return os.readlink(folder) if folder.is_symlink() else str(folder.absolute())

    def fault(self, partition: int) -> str | None:
        """Why a partition cannot be used; None if it can."""
        if not partition:
            return None
        if partition not in self._known:
            return f"the store has no partition {partition}"
        try:
            found = (self.folder(partition) / _MARKER).read_bytes()
        except OSError as error:
            return f"partition {partition} is missing, is its disk mounted? ({error})"
        if found != self._known[partition]:
            return f"partition {partition} is missing, {_MARKER} in its folder is of another one"
        return None

    @property
    def is_whole(self) -> bool:
        """Whether no partition is missing."""
        return all(self.fault(partition) is None for partition in self._known)

    def files(self, fs: FileSystem) -> Iterator[str]:
        """The paths of all files in all partitions that are not missing, but for their markers."""
        markers = {path_in(n, name) for n in self._known for name in (_MARKER, _OWNER)}
        for partition in self.numbers():
            if self.fault(partition) is None:
                for path in fs.walk(self.folder(partition)):
                    name = path.relative_to(self._data).as_posix()
                    if name not in markers:
                        yield name

    def claim(self, fs: FileSystem) -> None:
        """Have every partition name this store's folder as its owner, for a writer.

        Raises:
            StoreMismatchError: a copy of this store uses it.
        """
        here = str(self._data.parent.absolute())
        for partition in self._known:
            if self.fault(partition) is not None:
                continue
            owner = self.folder(partition) / _OWNER
            found = owner.read_text() if owner.exists() else ""
            if found == here:
                continue
            other = Path(found) / DATABASE
            if found and other.exists() and not other.samefile(self._data.parent / DATABASE):
                reason = f"the store in {found} uses it, too, of which this one is a copy"
                raise StoreMismatchError(f"partition {partition}, {self.target(partition)}", reason)
            fs.unlink(owner)
            fs.write_new(owner, memoryview(here.encode()))

    def at(self, folder: Path) -> int | None:
        """The partition that is in a folder, if there is one."""
        return next((n for n in self._known if _is_same(self.folder(n), folder)), None)

    def prepare(self, folder: Path, fs: FileSystem) -> Record:
        """Make an empty folder the next partition's, durably; the record makes it one.

        Raises:
            OptionError: it is no empty folder, or part of the store.
        """
        if not folder.is_absolute() or not folder.is_dir():
            raise OptionError("folder", f"{folder} is not the absolute path of a folder")
        if _is_inside(folder, self._data.parent):
            raise OptionError("folder", f"{folder} is inside the store's own folder")
        # An attempt that was interrupted has left no more than these.
        if {path.name for path in folder.rglob("*") if not path.is_dir()} - {_MARKER, _OWNER}:
            raise OptionError("folder", f"{folder} is not empty")
        number = max(self.numbers()) + 1
        body = json.dumps([number, uuid.uuid4().hex]).encode()
        for name, content in ((_MARKER, body), (_OWNER, str(self._data.parent.absolute()))):
            fs.unlink(folder / name)
            data = content if isinstance(content, bytes) else content.encode()
            fs.write_new(folder / name, memoryview(data))
        fs.sync_folder(folder)
        fail_point("partition.before_link")
        fs.link(self._data / f"{LINK_MARK}{number}", folder)
        fail_point("partition.after_link")
        return Record(PARTITION_KIND, f"{number:04d}", body)

    def forget(self, partition: int, fs: FileSystem) -> None:
        """Remove what `prepare` has made of a folder, after its record is gone."""
        folder = self.folder(partition)
        with suppress(OSError):  # The disk may be gone for good.
            for name in (_MARKER, _OWNER):
                fs.unlink(folder / name)
        fs.unlink(self._data / f"{LINK_MARK}{partition}")


def partition_key(partition: int) -> tuple[str, str]:
    """The kind and key of a partition's record."""
    return PARTITION_KIND, f"{partition:04d}"


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False


def _is_inside(folder: Path, store: Path) -> bool:
    return folder.resolve().is_relative_to(store.resolve())
