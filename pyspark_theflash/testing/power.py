"""The content of a folder after a power cut: only what was synced.

A killed process loses nothing that it has written, so killing shows no missing fsync. Here every
fsync is observed: a file's content is durable as of its last one, a folder's entries likewise.
SQLite syncs by itself; its files are copied in their current state.
"""

import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

from pyspark_theflash.storage.store.manifest import DATABASE

_OWN_SYNC = (DATABASE, f"{DATABASE}-wal")
_NOT_KEPT = f"{DATABASE}-shm"


class Power:
    """Observes all files below `root`, whose state at construction is durable.

    At each `step`th fsync, and by `look`, it copies the durable state into new folders below
    `target` and passes them to `check`.
    """

    def __init__(
        self, root: Path, target: Path, check: Callable[[Path], object], step: int = 1
    ) -> None:
        self._root, self._target, self._check, self._step = root, target, check, step
        self._contents: dict[int, bytes] = {}
        self._entries: dict[int, dict[str, int]] = {}
        self._held: list[int] = []
        self._is_looking = False
        self.syncs = self.cuts = 0
        target.mkdir()
        for path in [root, *root.rglob("*")]:
            self._synced(path)

    @contextmanager
    def watched(self) -> Iterator["Power"]:
        """Observe every fsync of this process within the block."""
        fsync = os.fsync

        def watch(fd: int) -> None:
            if not self._is_looking and self.syncs % self._step == 0:
                self.look()
            fsync(fd)
            if self._is_looking:
                return
            self.syncs += 1
            inode = os.fstat(fd).st_ino
            for path in [self._root, *self._root.rglob("*")]:
                if path.stat().st_ino == inode:
                    self._synced(path)
                    # Held open, so that no other file gets its number.
                    self._held.append(os.dup(fd))

        try:
            with patch.object(os, "fsync", watch):
                yield self
        finally:
            for fd in self._held:
                os.close(fd)

    def look(self) -> None:
        """Check the states that a power cut would leave now.

        Entries of folders that were not synced may have reached the disk all the same, their
        files' contents not; or they may not.
        """
        self._is_looking = True
        for keeps_entries in (False, True):
            image = self._target / f"{self.cuts}"
            self._restore(self._root, image, keeps_entries=keeps_entries)
            self.cuts += 1
            self._check(image)
            shutil.rmtree(image)
        self._is_looking = False

    def _synced(self, path: Path) -> None:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            self._entries[status.st_ino] = {e.name: e.inode() for e in os.scandir(path)}
        else:
            self._contents[status.st_ino] = path.read_bytes()

    def _restore(self, folder: Path, target: Path, *, keeps_entries: bool) -> None:
        target.mkdir()
        entries = dict(self._entries.get(folder.stat().st_ino, {}))
        for path in folder.iterdir():
            if keeps_entries or path.name in _OWN_SYNC:
                entries[path.name] = path.stat().st_ino
        for name, inode in entries.items():
            path = folder / name
            if name in _OWN_SYNC and path.exists():
                (target / name).write_bytes(path.read_bytes())
            elif path.is_dir():
                self._restore(path, target / name, keeps_entries=keeps_entries)
            elif name != _NOT_KEPT:
                (target / name).write_bytes(self._contents.get(inode, b""))
