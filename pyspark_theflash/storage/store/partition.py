"""Partitions: the folders of a store's data files, on several disks if desired.

    data/             partition 0, which every store has
    data/@1 -> DIR    partition 1: a symbolic link to a folder, usually on another disk

A file has the same name in every partition: `<physical table id>/<number>.parquet`.

A partition has a manifest record of kind `partition`. The file `theflash-partition` in its folder
has the same content as the record's body. If the disk is not mounted, or another one is mounted
there, the two differ: the partition is *missing*, and no file in it is written or removed.

The file `theflash-owner` in its folder has the path of the store's folder. A copy of the store's
folder would use the same partitions as the original, and each would remove the files that only the
other one has in its manifest. So a writer rejects a partition owned by another existing store.
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
"""Partitions of a region that was neither moved nor copied."""
LINK_MARK: Final = "@"
_MARKER: Final = "theflash-partition"
_OWNER: Final = "theflash-owner"


def path_in(partition: int, name: str) -> str:
    """Return the path of a file in a partition, relative to the store's data folder."""
    return f"{LINK_MARK}{partition}/{name}" if partition else name


def partition_of(path: str) -> int:
    """Return the partition of a path."""
    if not path.startswith(LINK_MARK):
        return 0
    return int(path[1 : path.index("/")])


def name_of(path: str) -> str:
    """Return the part of a path that is the same in every partition."""
    return path.split("/", 1)[1] if path.startswith(LINK_MARK) else path


def is_missing(data: Path, path: str) -> bool:
    """Return whether a path is in a partition whose folder does not exist."""
    partition = partition_of(path)
    return bool(partition) and not (data / path_in(partition, _MARKER)).exists()


class PartitionTable:
    """The partitions of a store in one generation of its manifest."""

    def __init__(self, data: Path, view: View) -> None:
        self._data = data
        self._bodies: Mapping[int, bytes] = {
            int(key): body for key, body in view.of_kind(PARTITION_KIND).items()
        }

    def numbers(self) -> list[int]:
        """Return all partitions, including 0."""
        return [0, *self._bodies]

    def folder(self, partition: int) -> Path:
        """Return a partition's path in the data folder."""
        return self._data / path_in(partition, "") if partition else self._data

    def target(self, partition: int) -> str:
        """Return the target of a partition's link; for partition 0, the data folder."""
        folder = self.folder(partition)
        return os.readlink(folder) if folder.is_symlink() else str(folder.absolute())

    def fault(self, partition: int) -> str | None:
        """Return why a partition cannot be used; None if it can."""
        if not partition:
            return None
        if partition not in self._bodies:
            return f"the store has no partition {partition}"
        try:
            marker = (self.folder(partition) / _MARKER).read_bytes()
        except OSError as error:
            return f"partition {partition} is missing, is its disk mounted? ({error})"
        if marker != self._bodies[partition]:
            return f"partition {partition} is missing, {_MARKER} in its folder is of another one"
        return None

    @property
    def is_whole(self) -> bool:
        """Whether no partition is missing."""
        return all(self.fault(partition) is None for partition in self._bodies)

    def files(self, fs: FileSystem) -> Iterator[str]:
        """Yield the paths of all data files in partitions that are not missing."""
        markers = {path_in(n, name) for n in self._bodies for name in (_MARKER, _OWNER)}
        for partition in self.numbers():
            if self.fault(partition) is None:
                for path in fs.walk(self.folder(partition)):
                    name = path.relative_to(self._data).as_posix()
                    if name not in markers:
                        yield name

    def claim(self, fs: FileSystem) -> None:
        """Write this store's folder to the owner file of every partition that is not missing.

        Raises:
            StoreMismatchError: A copy of this store owns a partition.
        """
        here = str(self._data.parent.absolute())
        for partition in self._bodies:
            if self.fault(partition) is not None:
                continue
            owner = self.folder(partition) / _OWNER
            current = owner.read_text() if owner.exists() else ""
            if current == here:
                continue
            other = Path(current) / DATABASE
            if current and other.exists() and not other.samefile(self._data.parent / DATABASE):
                reason = f"the store in {current} uses it, too, of which this one is a copy"
                raise StoreMismatchError(f"partition {partition}, {self.target(partition)}", reason)
            fs.unlink(owner)
            fs.write_new(owner, memoryview(here.encode()))

    def at(self, folder: Path) -> int | None:
        """Return the partition in a folder, or None."""
        return next((n for n in self._bodies if _is_same(self.folder(n), folder)), None)

    def prepare(self, folder: Path, fs: FileSystem) -> Record:
        """Write the markers and the link of a new partition, and return the record to commit.

        Raises:
            OptionError: `folder` is not an empty folder, or is inside the store.
        """
        if not folder.is_absolute() or not folder.is_dir():
            raise OptionError("folder", f"{folder} is not the absolute path of a folder")
        if _is_inside(folder, self._data.parent):
            raise OptionError("folder", f"{folder} is inside the store's own folder")
        # An interrupted attempt may have left the markers.
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
        """Remove the markers and the link of a partition, after its record was deleted."""
        folder = self.folder(partition)
        with suppress(OSError):  # The disk may have been removed.
            for name in (_MARKER, _OWNER):
                fs.unlink(folder / name)
        fs.unlink(self._data / f"{LINK_MARK}{partition}")


def partition_key(partition: int) -> tuple[str, str]:
    """Return the kind and key of a partition's record."""
    return PARTITION_KIND, f"{partition:04d}"


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False


def _is_inside(folder: Path, store: Path) -> bool:
    return folder.resolve().is_relative_to(store.resolve())
