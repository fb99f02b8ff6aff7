"""A read latch shared by several readers, in any thread.

A snapshot holds its latch until it is closed, but a stream begun from it may be read later, by
another library in its own threads. Each stream therefore holds the latch too; the last holder
releases it.
"""

import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pyarrow as pa

from pyspark_theflash.base.clock import Clock
from pyspark_theflash.base.errors import LeaseExpiredError, TheFlashError
from pyspark_theflash.base.fs import FileSystem
from pyspark_theflash.read.plan.read import LeaseKeeper
from pyspark_theflash.storage.store.folder import open_manifest
from pyspark_theflash.storage.store.latch.lease import LeaseTable, ReadLease
from pyspark_theflash.storage.store.latch.readers_lock import ReadersLock


class LeaseHold:
    """A lease with a count of holders, initially one. Thread-safe.

    The last holder releases the lease unless it is borrowed. The manifest is opened for each
    operation because an open one must not be used by two threads at once.
    """

    def __init__(
        self,
        path: Path,
        lease: ReadLease,
        fs: FileSystem,
        clock: Clock,
        *,
        is_borrowed: bool = False,
    ) -> None:
        self._path, self._lease, self._fs, self._clock = path, lease, fs, clock
        self._is_borrowed = is_borrowed
        self._mutex = threading.Lock()
        self._holders = 1
        self._lock: ReadersLock | None = None
        self.keeper = LeaseKeeper(self, lease, clock)
        """Renews the lease for all holders."""

    def acquire(self) -> None:
        """Add a holder. Raises `LeaseExpiredError`: The last holder has released the lease."""
        with self._mutex:
            if not self._holders:
                raise LeaseExpiredError(self._lease.id, self._lease.snapshot_ts)
            if self._lease.shared and self._lock is None:
                # The snapshot's own lock ends when it closes its manifest.
                self._lock = ReadersLock(self._path, self._clock)
            self._holders += 1

    def release(self) -> None:
        """Remove a holder; the last one releases the lease."""
        with self._mutex:
            self._holders -= 1
            if self._holders:
                return
            if self._lock is not None:
                self._lock.release()
            elif not self._is_borrowed:
                with closing(open_manifest(self._path, self._fs)) as manifest:
                    LeaseTable(manifest, self._clock).release(self._lease)

    def lend(self) -> None:
        """Mark the lease as borrowed: the last holder does not release it."""
        with self._mutex:
            self._is_borrowed = True

    def renew(self, lease: ReadLease) -> None:
        """Renew the lease now. Raises `LeaseExpiredError`."""
        with self._mutex, closing(open_manifest(self._path, self._fs)) as manifest:
            LeaseTable(manifest, self._clock).renew(lease)


class HeldBatches:
    """Batches that hold the latch until they end, fail, or are closed."""

    def __init__(self, hold: LeaseHold, batches: Iterator[pa.RecordBatch]) -> None:
        hold.acquire()
        self._hold: LeaseHold | None = hold
        self._batches = batches

    def __iter__(self) -> "HeldBatches":
        return self

    def __next__(self) -> pa.RecordBatch:
        try:
            return next(self._batches)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Release the latch. Repeated calls have no effect."""
        hold, self._hold = self._hold, None
        if hold is not None:
            # A lease that cannot be released expires; the rows read so far are correct.
            with suppress(TheFlashError):
                hold.release()

    def __del__(self) -> None:
        if getattr(self, "_hold", None) is not None:
            self.close()
