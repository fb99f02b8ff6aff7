"""Write latch that a running writer holds on its store.

The writer's lock (`storage/store/writer_lock.py`) excludes other processes; the latch excludes
callers of the API, whose latches in turn exclude a writer. A thread renews it, since a poll may
take longer than its time to live. If it expires nevertheless, as when the machine is suspended, the
thread acquires it again if it is free; until then nothing is published (`guard`), and the writer
retries.
"""

import logging
import sqlite3
import threading
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

from pyspark_theflash.base.clock import Clock
from pyspark_theflash.base.errors import LatchLostError, TheFlashError
from pyspark_theflash.base.fs import FileSystem
from pyspark_theflash.storage.store.folder import open_manifest
from pyspark_theflash.storage.store.latch.holder import Holder
from pyspark_theflash.storage.store.latch.latch import STORE, LatchClaim, LatchKind, LatchRequest
from pyspark_theflash.storage.store.latch.queue import LatchQueue
from pyspark_theflash.storage.store.manifest import Manifest

TTL_MS: Final = 600_000
_LOOK_S: Final = 1.0
_log = logging.getLogger(__name__)


class WriterLatch:
    """Latch that is held and renewed from `take` to `close`."""

    def __init__(self, path: Path, fs: FileSystem, clock: Clock, *, ttl_ms: int = TTL_MS) -> None:
        self._path, self._fs, self._clock = path, fs, clock
        self._holder = Holder.here(clock)
        identity = f"process {self._holder.pid} on {self._holder.host}"
        self._request = LatchRequest(LatchKind.WRITE, STORE, ttl_ms, self._holder.program, identity)
        self._manifest = open_manifest(path, fs)
        self._held = LatchClaim("", 0, identity)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="writer's latch", daemon=True)

    def take(self, wait_ms: int) -> None:
        """Wait for the latch. Raises `LatchHeldError` if a caller of the API holds one."""
        self._acquire(self._manifest, wait_ms)
        self._thread.start()

    def guard(self, db: sqlite3.Connection) -> None:
        """Raise `LatchLostError` if the latch is not held; called in a commit's transaction."""
        LatchQueue(self._manifest, self._clock).guard([self._held])(db)

    def close(self) -> None:
        """Release the latch."""
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join()
        with closing(self._manifest), suppress(TheFlashError):
            LatchQueue(self._manifest, self._clock).release(self._held)

    def _acquire(self, manifest: Manifest, wait_ms: int) -> None:
        queue = LatchQueue(manifest, self._clock)
        self._held = queue.acquire(self._request, wait_ms=wait_ms, holder=self._holder).claim

    def _keep(self) -> None:
        due_ms = self._next_ms()
        while not self._ended.wait(_LOOK_S):
            if self._clock.boottime_ms() < due_ms:
                continue
            try:
                self._renew()
                due_ms = self._next_ms()
            except TheFlashError as error:
                # For example a full disk, or another holder: retried after `_LOOK_S`.
                _log.warning("the writer's latch cannot be renewed: %s", error)

    def _renew(self) -> None:
        with closing(open_manifest(self._path, self._fs)) as manifest:
            try:
                LatchQueue(manifest, self._clock).renew(self._held)
            except LatchLostError:
                self._acquire(manifest, 0)

    def _next_ms(self) -> int:
        return self._clock.boottime_ms() + self._request.ttl_ms // 3
