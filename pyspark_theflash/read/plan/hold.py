"""A read latch that several readers share, in whatever threads they are.

A snapshot holds its latch until it is left, but a stream begun from it may be read later, by
another library, in that library's threads. So each stream holds the latch, too: it ends with the
last of them.
"""

import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pyarrow as pa

from pyspark_theflash.base.clock import Clock
from pyspark_theflash.base.errors import LeaseExpiredError, TheFlashError
from pyspark_theflash.base.fs import FileSystem
from pyspark_theflash.storage.store.folder import open_manifest
from pyspark_theflash.storage.store.latch.lease import LeaseTable, ReadLease
from pyspark_theflash.storage.store.latch.readers_lock import ReadersLock


class LeaseHold:
    """A lease with the number of its holders, one at first. Thread-safe.

    The last one ends it, unless it is borrowed from somebody who will.
    The manifest is opened anew where it is needed: an open one is not for two threads at once.
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
        self._due_ms = self._next_ms()

    def acquire(self) -> None:
        """One holder more.

        Raises:
            LeaseExpiredError: the last one has left.
        """
        with self._mutex:
            if not self._holders:
                raise LeaseExpiredError(self._lease.id, self._lease.snapshot_ts)
            if self._lease.shared and self._lock is None:
                # The snapshot's own lock goes when it closes its manifest.
                self._lock = ReadersLock(self._path, self._clock)
            self._holders += 1

    def release(self) -> None:
        """One holder less; the last one ends the lease."""
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
        """Let it last its time from now on, for others, whoever holds it here."""
        with self._mutex:
            self._is_borrowed = True

    def let_go(self) -> None:
        """Hold it no more, without ending it: others do."""
        with self._mutex:
            if self._lock is not None:
                self._lock.release()

    def keep(self) -> None:
        """Renew the lease if a third of its time is gone; call it often.

        Raises:
            LeaseExpiredError: it has run out, so files may be gone.
        """
        with self._mutex:
            is_due = self._clock.boottime_ms() >= self._due_ms
        if is_due:
            self.renew()

    def renew(self) -> None:
        """Renew the lease now. Raises `LeaseExpiredError`."""
        with self._mutex:
            with closing(open_manifest(self._path, self._fs)) as manifest:
                LeaseTable(manifest, self._clock).renew(self._lease)
            self._due_ms = self._next_ms()

    def _next_ms(self) -> int:
        return self._clock.boottime_ms() + self._lease.ttl_ms // 3


class HeldBatches:
    """Batches that hold the latch from now until they end, fail, or are let go of."""

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
        """Let go of the latch. More than once is harmless."""
        hold, self._hold = self._hold, None
        if hold is not None:
            # A lease that cannot be ended runs out; the rows that were read are right.
            with suppress(TheFlashError):
                hold.release()

    def __del__(self) -> None:
        if getattr(self, "_hold", None) is not None:
            self.close()
