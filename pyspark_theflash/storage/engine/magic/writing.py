"""Write path of the magic engine: data files, manifest commits, error handling, file removal.

    write      a file gets a number, is written and synced; it is not committed yet
    commit     folders are synced; one manifest transaction adds the files and all other records;
               then the state in memory is updated
    error      the state in memory is read again from the manifest and uncommitted files are
               removed, or the engine rejects further writes: `MagicStore._writing`
    retire     a replaced file remains on disk until no reader's lease needs it

Files may be written in any thread. A mutex serializes everything else.
"""

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import pyarrow as pa

from pyspark_theflash.base.clock import Clock
from pyspark_theflash.base.errors import EngineError, InternalError, StaleTokenError, TheFlashError
from pyspark_theflash.base.failpoint import fail_point
from pyspark_theflash.base.fs import FileSystem
from pyspark_theflash.base.types import Generation, PhysicalTableID
from pyspark_theflash.storage.engine.magic.encode import FileEncoder
from pyspark_theflash.storage.engine.magic.file import DataFile, number_of
from pyspark_theflash.storage.engine.magic.layout import RETIRED_KIND, Layout, LayoutChange, Layouts
from pyspark_theflash.storage.engine.magic.lookup import HandleLookup
from pyspark_theflash.storage.engine.magic.numbers import FileNumbers
from pyspark_theflash.storage.engine.magic.reader import MagicReader
from pyspark_theflash.storage.store.latch.lease import LeaseTable
from pyspark_theflash.storage.store.manifest import Guard, ManifestChange, View, file_errors
from pyspark_theflash.storage.store.partition import Partitions, PartitionTable, name_of
from pyspark_theflash.storage.store.writer_lock import WriterLock

_P = ParamSpec("_P")
_R = TypeVar("_R")
_Store = TypeVar("_Store", bound="MagicStore")


@dataclass(eq=False, slots=True)
class Merge:
    """A compaction step in progress.

    `planned`: the table's layout when the step was planned. `numbers`: numbers for the files that
    it writes. `paths`: those files, which are not committed yet.
    """

    planned: Layout
    numbers: Iterator[int]
    paths: set[str] = field(default_factory=set)


def exclusive(
    method: Callable[Concatenate[_Store, _P], _R],
) -> Callable[Concatenate[_Store, _P], _R]:
    """Decorate a method to run with the store's mutex held."""

    @functools.wraps(method)
    def locked(self: _Store, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        with self._mutex:
            return method(self, *args, **kwargs)

    return locked


class MagicStore(MagicReader):
    """A store open for writing; holds the writer lock."""

    def __init__(
        self, path: Path, fs: FileSystem, clock: Clock, lookup_bytes: int, guard: Guard | None
    ) -> None:
        super().__init__(path, fs, clock)
        self._guard = guard
        self._lookup_bytes = lookup_bytes
        self._folders: set[Path] = set()
        self._broken: str | None = None
        self._mutex, self._numbers = threading.RLock(), FileNumbers()
        self._merges: list[Merge] = []
        self._has_retired = False
        with contextlib.ExitStack() as undo, file_errors(path):
            undo.callback(self._manifest.close)
            self._lock = WriterLock(path)
            undo.callback(self._lock.release)
            self._token = self._manifest.take_token()
            self._load()
            paths = self._committed_paths()
            self._numbers.above(max(map(number_of, paths), default=0))
            self._partitions.claim(fs)
            self._remove_uncommitted(paths)
            self._remove_retired()
            undo.pop_all()

    @exclusive
    def close(self) -> None:
        super().close()
        self._lock.release()

    @exclusive
    def read(self, kinds: Sequence[str]) -> View:
        return super().read(kinds)

    # -- writing

    def _replace(self, physical_id: PhysicalTableID, change: LayoutChange, step: str) -> None:
        fail_point(f"magic.before_{step}_commit")
        self._commit({physical_id: change})
        fail_point(f"magic.after_{step}_commit")

    def _write(
        self, physical_id: PhysicalTableID, file: FileEncoder, partitions: Partitions
    ) -> DataFile:
        return self._write_numbered(self._numbers.take(), physical_id, file, partitions, set())

    def _write_merged(self, merge: Merge, file: FileEncoder, partitions: Partitions) -> DataFile:
        number, physical_id = next(merge.numbers), merge.planned.physical_id
        return self._write_numbered(number, physical_id, file, partitions, merge.paths)

    def _write_rebased(self, merge: Merge, file: FileEncoder, partitions: Partitions) -> DataFile:
        number, physical_id = self._numbers.take(), merge.planned.physical_id
        return self._write_numbered(number, physical_id, file, partitions, merge.paths)

    def _write_numbered(
        self,
        number: int,
        physical_id: PhysicalTableID,
        file: FileEncoder,
        partitions: Partitions,
        paths: set[str],
    ) -> DataFile:
        encoded = file.finish(number=number, physical_id=physical_id)
        info = encoded.info.within(partitions)
        paths.update(info.paths)
        for path in info.paths:
            self._write_bytes(path, encoded.data)
        return info

    def _write_bytes(self, path: str, data: bytes | pa.Buffer) -> None:
        """Write and sync a new file; `_commit` syncs its folder."""
        folder = (self._data / path).parent
        if folder not in self._folders:
            self._fs.make_folder(folder)
            self._folders.add(folder)
        fail_point("magic.before_file")
        self._fs.write_new(self._data / path, memoryview(data))
        fail_point("magic.after_file")

    def _commit(
        self, changes: Mapping[PhysicalTableID, LayoutChange], others: ManifestChange | None = None
    ) -> Generation:
        """Commit layout changes of tables together with other records."""
        written = [p for change in changes.values() for f in change.files for p in f.paths]
        for folder in sorted({(self._data / path).parent for path in written}):
            self._fs.sync_folder(folder)
        fail_point("magic.before_commit")
        others = others or ManifestChange()
        puts, deletes = list(others.puts), list(others.deletes)
        for change in changes.values():
            records, deleted = change.records(self._generation)
            puts += records
            deletes += deleted
        self._advance(
            self._manifest.commit(ManifestChange(puts, deletes), self._token, self._guard)
        )
        for physical_id, change in changes.items():
            self._layouts.replace(change.apply(self._layouts[physical_id]))
            self._lookup.forget(f.number for f in change.replaced)
        return self._generation

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Hold the mutex for a write, and discard the state in memory if the write fails.

        After a failed write or sync, an unexpected exception, or when another writer has taken
        over, the state on disk is unknown and the engine rejects further writes. After any other
        error (disk full, latch expired, unreadable file) the disk matches the manifest, so the
        state is loaded from there and the engine remains usable.
        """
        with self._mutex:
            try:
                with self._breaking():
                    yield
            except TheFlashError as error:
                if self._broken is None:
                    # Reject writes if loading the state fails.
                    self._broken = str(error) or repr(error)
                    with file_errors(self._path):
                        self._load()
                        self._remove_uncommitted(self._committed_paths())
                    self._broken = None
                raise

    @contextlib.contextmanager
    def _breaking(self) -> Iterator[None]:
        """Reject further writes after the block fails with the state on disk unknown."""
        self._check_sound()
        try:
            with file_errors(self._path):
                yield
        except BaseException as error:
            is_final = isinstance(error, EngineError | InternalError | StaleTokenError)
            if is_final or not isinstance(error, TheFlashError):
                with self._mutex:
                    self._broken = str(error) or repr(error)
            raise

    @exclusive
    def _check_sound(self) -> None:
        if self._broken is not None:
            reason = f"rejects writes after an error, open it again: {self._broken}"
            raise EngineError(str(self._path), reason)

    def _load(self) -> None:
        """Load the state in memory from the manifest."""
        self._layouts = Layouts(self.read([]))
        self._partitions = PartitionTable(self._data, self._layouts.view)
        self._lookup = HandleLookup(self._data, self._lookup_bytes)
        self._folders.clear()
        self._advance(self._layouts.view.generation)

    def _advance(self, generation: Generation) -> None:
        self._generation = generation
        self._numbers.advance(generation)

    # -- removing files

    def _remove_uncommitted(self, committed: set[str]) -> None:
        """Remove files that were written but never committed.

        A concurrent merge adds each path to `Merge.paths` before creating the file. So the folders
        are listed first, and `Merge.paths` is read afterwards.
        """
        existing = list(self._partitions.files(self._fs))
        in_use = committed.union(*(merge.paths for merge in self._merges))
        for path in existing:
            if path not in in_use:
                self._fs.unlink(self._data / path)

    def _committed_paths(self) -> set[str]:
        """Return the paths of all current and retired files in the manifest."""
        return {*self._layouts.paths(), *self._retired()}

    def _retired(self) -> Mapping[str, bytes]:
        """Return the retired paths, each with the last generation that names it."""
        return self._manifest.read([RETIRED_KIND]).of_kind(RETIRED_KIND)

    def _remove_retired(self) -> None:
        """Remove retired files that no lease and no running merge needs."""
        pinned = LeaseTable(self._manifest, self._clock).oldest_generation()
        retired, self._has_retired = self._retired(), False
        merging = tuple(f"{merge.planned.physical_id}/" for merge in self._merges)
        free = [
            path
            for path, last in retired.items()
            if (pinned is None or pinned > int(last)) and not name_of(path).startswith(merging)
        ]
        if not free:
            return
        change = ManifestChange(deletes=[(RETIRED_KIND, path) for path in free])
        self._advance(self._manifest.commit(change, self._token))
        fail_point("magic.before_unlink")
        for path in free:
            self._fs.unlink(self._data / path)

    @exclusive
    def _discard(self, merge: Merge) -> None:
        """Remove the files of a failed or discarded merge, unless the engine rejects writes."""
        if self._broken is not None:
            return
        # If the folder was replaced by another store, the paths belong to that store.
        self._manifest.check_in_place()
        with file_errors(self._path):
            for path in merge.paths:
                self._fs.unlink(self._data / path)
