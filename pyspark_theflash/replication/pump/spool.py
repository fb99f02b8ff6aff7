"""Durable queue of binlogs on disk, between the pump's server and the writer.

    spool/
      .cluster                   id of the cluster that the binlogs belong to
      .lock                      held by the process that appends
      binlog-0000000000000001    frames as pump writes them (see `source.frame`)
      binlog-0000000000000002

The contents are acknowledged to TiDB, which keeps no copy: a file is deleted only after all of its
transactions are applied.

Durability
    `append` returns when its payloads are synced. One thread appends at a time; group commit
    (`replication.pump.group_commit`) combines the payloads of concurrent callers.

    `position` is the end of the durable data, and `source()` reads only up to it: a reader of later
    data could apply changes that a crash removes.

Crash recovery
    Only the newest payloads can be truncated, at the end of the last file, since a new file is
    begun after the sync of the previous one. Opening truncates a torn frame, which was never
    acknowledged. Any other damage is corruption.

Disk failures
    When the disk is full, the partial write is truncated, callers get `StoreFullError`, and the
    next append tries again. After any other failed write or sync the contents of the disk are
    unknown (the kernel drops dirty pages and reports the error only once), so the spool accepts no
    more writes until it is reopened.
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
_JOINED_BYTES_MAX: Final = 1 << 20
"""More is written in pieces rather than copied."""
_LOCK_FILE: Final = ".lock"
_CLUSTER_FILE: Final = ".cluster"
_NAME: Final = re.compile(r"binlog-(\d{16})", re.ASCII)


class Spool:
    """Spool folder, open for appending. Thread-safe.

    Invariants: there is at least one file, the files are numbered without gaps, and all but the
    last are complete and durable. `_turn` is held while files change; `_mutex`, acquired after it,
    is held briefly while fields change.
    """

    def __init__(
        self,
        folder: Path,
        fs: FileSystem,
        *,
        file_bytes: int = FILE_BYTES,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        """Open the spool in `folder`, or create it: the parent folder must exist.

        A new file is begun when the last one has `file_bytes`. The total size is limited to
        `max_bytes`.

        Raises:
            StoreInUseError: Another process has it open for appending.
            CorruptionError, BinlogCorruptionError: The folder is damaged, or not a spool.
            EngineError, StoreFullError: The disk failed, or is full.
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
            _log.warning("spool: torn frame truncated: file=%s offset=%d", last, durable_bytes)
            self._file.truncate(durable_bytes)
        # Also if nothing was truncated: the last process may have died before its sync.
        self._file.sync()
        self._fs.sync_folder(self._folder)
        self._durable_bytes = durable_bytes
        older_bytes = sum(size for number, size in sizes.items() if number < self._number)
        self._held_bytes = older_bytes + durable_bytes

    @property
    def position(self) -> str:
        """Position after the durable data."""
        with self._mutex:
            return str(self._end())

    @property
    def size_bytes(self) -> int:
        """Total size of all files."""
        with self._mutex:
            return self._held_bytes

    def cluster_id(self) -> int | None:
        """Return the id of the cluster that the binlogs belong to; None if it is not set yet."""
        path = self._folder / _CLUSTER_FILE
        with file_errors(path):
            text = path.read_bytes()[:32] if path.exists() else None
        if text is not None and not text.isdigit():
            raise CorruptionError(str(path), 0, "not a cluster id")
        return None if text is None else int(text)

    def check_cluster(self, cluster_id: int) -> None:
        """Compare the cluster's id with the spool's; the first call stores it durably.

        Raises:
            ClusterMismatchError: The spool belongs to another cluster.
        """
        path = self._folder / _CLUSTER_FILE
        with self._turn, file_errors(path):
            stored_id = self.cluster_id()
            if stored_id is None:
                scratch = path.with_suffix(".new")
                self._fs.unlink(scratch)
                self._fs.write_new(scratch, memoryview(str(cluster_id).encode()))
                self._fs.rename(scratch, path)
        if stored_id not in (None, cluster_id):
            raise ClusterMismatchError(str(self._folder), cluster_id, stored_id)

    def append(self, payloads: Iterable[bytes], *, spare_bytes: int = 0) -> None:
        """Append messages durably: all of them, or none if it raises.

        Raises:
            SpoolFullError: Less than `spare_bytes` would be left below the size limit.
            StoreFullError: The disk is full.
            EngineError: The disk failed; every later call raises this, too.
        """
        pieces = [piece for payload in payloads for piece in _checked_frame(payload)]
        size_bytes = sum(map(len, pieces))
        if size_bytes <= _JOINED_BYTES_MAX:
            pieces = [b"".join(pieces)]
        with self._turn:
            if self._failure is not None:
                raise self._failure
            if self._held_bytes + size_bytes + spare_bytes > self._max_bytes:
                limit = self._max_bytes - spare_bytes
                raise SpoolFullError(str(self._folder), self._held_bytes, limit)
            try:
                if self._durable_bytes and self._durable_bytes + size_bytes > self._file_bytes:
                    self._begin_next_file()
                self._write_and_sync(pieces, size_bytes)
            except StoreFullError:
                raise
            except OSError as error:
                raise self._failed(error) from error
            except BaseException as error:
                self._failed(error)
                raise

    def _write_and_sync(self, pieces: Iterable[bytes], size_bytes: int) -> None:
        fail_point("spool.write")
        try:
            for piece in pieces:
                self._file.append(memoryview(piece))
        except OSError as error:
            full = _full(error, self._path(self._number))
            self._file.truncate(self._durable_bytes)
            raise full from error
        fail_point("spool.sync")
        self._file.sync()
        with self._mutex:
            self._durable_bytes += size_bytes
            self._held_bytes += size_bytes
            self._mutex.notify_all()

    def _begin_next_file(self) -> None:
        """Create the next file. Raises `StoreFullError` with no change made, or `OSError`."""
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
        """Reject writes from now on: the contents of the disk after `position` are unknown."""
        reason = f"{error!r}; the spool accepts no more writes until it is reopened"
        with self._mutex:
            self._failure = EngineError(str(self._folder), reason)
            return self._failure

    def source(self) -> FileSource:
        """Return a source of the messages that are durable now."""
        with self._mutex:
            end = self._end()
        return FileSource(self._folder, end)

    def wait_beyond(self, position: str | None, timeout_ms: int) -> bool:
        """Wait until the end of the spool is not at `position`; return False on timeout."""
        with self._mutex:
            return self._mutex.wait_for(lambda: str(self._end()) != position, timeout_ms / 1000)

    def position_of(self, number: int, offset: int) -> str:
        """Convert a position of the pump protocol, (file number, offset); (0, 0) is the start."""
        if (number, offset) == (0, 0):
            number = min(number_of(path.name) for path in _files(self._folder))
        return str(FilePosition(_name(number), offset))

    def drop_before(self, position: str) -> None:
        """Delete all files before the one that `position` is in.

        Raises:
            OptionError: The file of `position` is not in this spool.
        """
        keep = FilePosition.parse(position)
        with self._turn, file_errors(self._folder):
            files = {path.name: path for path in _files(self._folder)}
            if keep.name not in files:
                raise OptionError("position", f"{position} is not in {self._folder}")
            for name, path in files.items():
                if name < keep.name:
                    size_bytes = path.stat().st_size
                    # Oldest first, each durably, so that a crash leaves no gap.
                    self._fs.unlink(path)
                    self._fs.sync_folder(self._folder)
                    with self._mutex:
                        self._held_bytes -= size_bytes

    def close(self) -> None:
        """Release the lock and the file. Later appends raise `EngineError`."""
        with self._turn:
            self._file.close()
            self._lock.release()
            with self._mutex:
                self._failure = EngineError(str(self._folder), "the spool is closed")
                self._mutex.notify_all()

    def _end(self) -> FilePosition:
        return FilePosition(_name(self._number), self._durable_bytes)

    def _path(self, number: int) -> Path:
        return self._folder / _name(number)


def number_of(name: str) -> int:
    """Return the number in a file name; raise `CorruptionError` if it is not a spool file's."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise CorruptionError(name, 0, "not a spool file")
    return int(match[1])


def sound_bytes(path: Path) -> int:
    """Read a file and return the length of its complete frames, without a torn tail.

    Raises `BinlogCorruptionError`.
    """
    end = 0
    for frame in FileSource(path).frames():
        end = frame.end.offset
    return end


def _full(error: OSError, path: Path) -> StoreFullError:
    """Convert an error of a full disk to `StoreFullError`; raise any other error."""
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
