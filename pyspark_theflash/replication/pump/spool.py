"""Binlogs on disk, between the network and the writer.

    spool/
      .cluster                   the cluster whose binlogs these are
      .lock                      held by the process that appends
      binlog-0000000000000001    frames, as pump writes them (see `frame`)
      binlog-0000000000000002

What is here was acknowledged to TiDB, which keeps no copy: a file goes when what is in it has been
applied, not before.

Durable
    `append` returns when its payloads are synced. One thread appends at a time; whoever has many
    callers gives it their payloads together (see `replication.pump.group_commit`).

    `position` is behind what is durable, and `source()` reads up to there only: a reader that saw
    more could apply what a crash takes away again.

After a crash
    Only the newest payloads can have been cut off, and it is at the end of the last file: files are
    begun after the sync of what is before them. Opening cuts a torn frame off, which nobody was
    told about. Anything else that is wrong there is corruption, as everywhere.

When the disk fails
    A full disk is not the end: what was half written is cut off, callers get `StoreFullError`, and
    the next append tries again. After any other failed write, and any failed sync, nobody knows
    what is on disk (the kernel has dropped the dirty pages and says so once), so nothing more is
    written until the spool is opened anew.
"""

import itertools
import logging
import re
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from pyspark_theflash.base.errors import (
    ClusterMismatchError,
    CorruptionError,
    EngineError,
    OptionError,
    SpoolFullError,
    StoreFullError,
    TheFlashError,
    invariant,
)
from pyspark_theflash.base.failpoint import fail_point
from pyspark_theflash.base.fs import FileSystem
from pyspark_theflash.replication.source.file import FileSource
from pyspark_theflash.replication.source.frame import (
    FRAME_OVERHEAD_BYTES,
    MAX_FRAME_BYTES,
    encode_frame,
)
from pyspark_theflash.replication.source.position import FilePosition
from pyspark_theflash.storage.store.manifest import file_errors, os_error
from pyspark_theflash.storage.store.writer_lock import WriterLock

_log = logging.getLogger(__name__)
FILE_BYTES: Final = 64 << 20
MAX_BYTES: Final = 16 << 30
_LOCK_FILE: Final = ".lock"
_CLUSTER_FILE: Final = ".cluster"
_NAME: Final = re.compile(r"binlog-(\d{16})", re.ASCII)


class Spool:
    """The folder, open for appending. Safe to use from many threads.

    Invariants: the files are numbered without a gap, there is at least one, and every one but the
    last is whole and durable. `_turn` is held while files change; `_mutex`, never for long, while
    fields do, and inside `_turn` only.
    """

    def __init__(
        self,
        folder: Path,
        fs: FileSystem,
        *,
        file_bytes: int = FILE_BYTES,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        """Open the spool in `folder`, or make it: the folder above must be there.

        A file is followed by the next when it has `file_bytes`; the spool takes no more than
        `max_bytes` in all.

        Raises:
            StoreInUseError: another process appends to it.
            CorruptionError, BinlogCorruptionError: it is damaged, or not a spool.
            EngineError, StoreFullError: the disk fails.
        """
        self._folder, self._fs = folder, fs
        self._file_bytes, self._max_bytes = file_bytes, max_bytes
        with file_errors(folder):
            fs.make_folder(folder)
        self._lock = WriterLock(folder, _LOCK_FILE)
        self._turn, self._mutex = threading.Lock(), threading.Condition()
        self._failure: TheFlashError | None = None
        try:
            with file_errors(folder):
                self._open()
        except BaseException:
            self._lock.release()
            raise

    def _open(self) -> None:
        sizes = {number_of(path.name): path.stat().st_size for path in _files(self._folder)}
        _check_numbers(self._folder, list(sizes))
        self._number = max(sizes, default=1)
        last = self._path(self._number)
        durable_bytes = sound_bytes(last) if sizes else 0
        self._file = self._fs.open_append(last)
        if durable_bytes < sizes.get(self._number, 0):
            _log.warning("spool: torn frame cut off: file=%s offset=%d", last, durable_bytes)
            self._file.truncate(durable_bytes)
        # Also where nothing was cut: whoever wrote this may have died before the sync.
        self._file.sync()
        self._fs.sync_folder(self._folder)
        self._durable_bytes = durable_bytes
        older_bytes = sum(size for number, size in sizes.items() if number < self._number)
        self._held_bytes = older_bytes + durable_bytes

    @property
    def position(self) -> str:
        """Behind all that is durable."""
        with self._mutex:
            return str(self._end())

    @property
    def size_bytes(self) -> int:
        """How long all files are together."""
        with self._mutex:
            return self._held_bytes

    def cluster_id(self) -> int | None:
        """The cluster whose binlogs these are; None as long as nobody has said."""
        path = self._folder / _CLUSTER_FILE
        with file_errors(path):
            text = path.read_bytes()[:32] if path.exists() else None
        if text is not None and not text.isdigit():
            raise CorruptionError(str(path), 0, "not a cluster's id")
        return None if text is None else int(text)

    def check_cluster(self, cluster_id: int) -> None:
        """Keep whose binlogs these are, durably, the first time.

        Raises:
            ClusterMismatchError: they are another cluster's.
        """
        path = self._folder / _CLUSTER_FILE
        with self._turn, file_errors(path):
            known = self.cluster_id()
            if known is None:
                scratch = path.with_suffix(".new")
                self._fs.unlink(scratch)
                self._fs.write_new(scratch, memoryview(str(cluster_id).encode()))
                self._fs.rename(scratch, path)
        if known not in (None, cluster_id):
            raise ClusterMismatchError(str(self._folder), cluster_id, known)

    def append(self, payloads: Iterable[bytes], *, spare_bytes: int = 0) -> None:
        """Add messages; they are durable when this returns. All of them, or none if it raises.

        Raises:
            SpoolFullError: less than `spare_bytes` below the limit would be left.
            StoreFullError: the disk is full.
            EngineError: the disk fails; from now on every call raises this.
        """
        data = b"".join(piece for payload in payloads for piece in _checked_frame(payload))
        with self._turn:
            if self._failure is not None:
                raise self._failure
            if self._held_bytes + len(data) + spare_bytes > self._max_bytes:
                limit = self._max_bytes - spare_bytes
                raise SpoolFullError(str(self._folder), self._held_bytes, limit)
            try:
                if self._durable_bytes and self._durable_bytes + len(data) > self._file_bytes:
                    self._begin_next_file()
                self._write_and_sync(data)
            except StoreFullError:
                raise
            except OSError as error:
                raise self._failed(error) from error
            except BaseException as error:
                self._failed(error)
                raise

    def _write_and_sync(self, data: bytes) -> None:
        fail_point("spool.write")
        try:
            self._file.append(memoryview(data))
        except OSError as error:
            full = _full(error, self._path(self._number))
            self._file.truncate(self._durable_bytes)
            raise full from error
        fail_point("spool.sync")
        self._file.sync()
        with self._mutex:
            self._durable_bytes += len(data)
            self._held_bytes += len(data)
            self._mutex.notify_all()

    def _begin_next_file(self) -> None:
        """Raises `StoreFullError` and has changed nothing, or `OSError`."""
        path = self._path(self._number + 1)
        try:
            file = self._fs.open_append(path)
        except OSError as error:
            raise _full(error, path) from error
        self._file.close()
        self._file = file
        fail_point("spool.begin_file")
        self._fs.sync_folder(self._folder)
        with self._mutex:
            self._number += 1
            self._durable_bytes = 0

    def _failed(self, error: BaseException) -> TheFlashError:
        """Take no more writes: what is on disk behind `position` is unknown."""
        reason = f"{error!r}; nothing more is written until it is opened anew"
        with self._mutex:
            self._failure = EngineError(str(self._folder), reason)
            return self._failure

    def source(self) -> FileSource:
        """What is durable now, to be read by the writer or whoever pulls."""
        with self._mutex:
            end = self._end()
        return FileSource(self._folder, end)

    def wait_beyond(self, position: str | None, timeout_ms: int) -> bool:
        """Wait until `position` is not the last one; whether it is not."""
        with self._mutex:
            return self._mutex.wait_for(lambda: str(self._end()) != position, timeout_ms / 1000)

    def position_of(self, number: int, offset: int) -> str:
        """The position in file `number`, as pump's protocol names it; the start for 0 and 0."""
        if (number, offset) == (0, 0):
            number = min(number_of(path.name) for path in _files(self._folder))
        return str(FilePosition(_name(number), offset))

    def drop_before(self, position: str) -> None:
        """Delete the files that are behind `position` as a whole. The file it is in stays.

        Raises:
            OptionError: the position is not one of this spool's.
        """
        keep = FilePosition.parse(position)
        with self._turn, file_errors(self._folder):
            files = {path.name: path for path in _files(self._folder)}
            if keep.name not in files:
                raise OptionError("position", f"{position} is not in {self._folder}")
            for name, path in files.items():
                if name < keep.name:
                    size_bytes = path.stat().st_size
                    # Oldest first and each for good, so that a crash leaves no gap.
                    self._fs.unlink(path)
                    self._fs.sync_folder(self._folder)
                    with self._mutex:
                        self._held_bytes -= size_bytes

    def close(self) -> None:
        """Let another process append. What comes later raises `EngineError`."""
        with self._turn:
            self._file.close()
            self._lock.release()
            with self._mutex:
                self._failure = EngineError(str(self._folder), "is closed")
                self._mutex.notify_all()

    def _end(self) -> FilePosition:
        return FilePosition(_name(self._number), self._durable_bytes)

    def _path(self, number: int) -> Path:
        return self._folder / _name(number)


def number_of(name: str) -> int:
    """The number in a file's name. Raises `CorruptionError` for a name that has none."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise CorruptionError(name, 0, "not a file of a spool")
    return int(match[1])


def sound_bytes(path: Path) -> int:
    """How much of a file is whole frames. Raises `BinlogCorruptionError` for what is no torn tail.

    Reads all of it.
    """
    end = 0
    for frame in FileSource(path).frames():
        end = frame.end.offset
    return end


def _full(error: OSError, path: Path) -> StoreFullError:
    """That the disk is full, if this is what `error` says; raises it if it says anything else."""
    typed = os_error(error, path)
    if not isinstance(typed, StoreFullError):
        raise error
    return typed


def _name(number: int) -> str:
    return f"binlog-{number:016d}"


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if not p.name.startswith("."))


def _check_numbers(folder: Path, numbers: list[int]) -> None:
    for number, following in itertools.pairwise(numbers):
        if following != number + 1:
            reason = f"{_name(number + 1)} is missing"
            raise CorruptionError(str(folder), 0, reason)


def _checked_frame(payload: bytes) -> tuple[bytes, bytes, bytes]:
    invariant(len(payload) <= MAX_FRAME_BYTES - FRAME_OVERHEAD_BYTES, "payloads are capped")
    return encode_frame(payload)
