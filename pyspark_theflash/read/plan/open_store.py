"""An open store from which many tasks are read.

Opening a manifest and renewing a latch on disk take longer than reading a small region.
"""

import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pyarrow as pa

from pyspark_theflash.base.budget import DEFAULT_BUDGET, Budget
from pyspark_theflash.base.clock import Clock
from pyspark_theflash.base.errors import CorruptionError, StoreReplacedError, TheFlashError
from pyspark_theflash.base.fs import FileSystem
from pyspark_theflash.base.lru import LeastRecent
from pyspark_theflash.read.plan.read import (
    LeaseKeeper,
    Over,
    as_dictionaries,
    no_more_than_stored,
    read_regions,
    read_task,
)
from pyspark_theflash.read.plan.scan_plan import ScanTask
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.storage.engine.api import EngineReader, RegionScan
from pyspark_theflash.storage.store.folder import IDENTITY_KIND, StoreIdentity, open_manifest
from pyspark_theflash.storage.store.latch.lease import LeaseTable, ReadLease

if TYPE_CHECKING:
    from pyspark_theflash.storage.store.manifest import Manifest

_LEASES_MAX: Final = 4096


class OpenStore:
    """The store at `path`, opened on first use. Thread-safe."""

    def __init__(
        self, path: Path, fs: FileSystem, clock: Clock, over: Over = no_more_than_stored
    ) -> None:
        """Prepare the store. `over` returns the reader of all rows, given that of the files."""
        self._path, self._fs, self._clock, self._over = path, fs, clock, over
        self._mutex = threading.Lock()
        self._manifest: Manifest | None = None
        self._engine: EngineReader | None = None
        self._renewed_ms = LeastRecent[str, int](_LEASES_MAX)

    def read(
        self,
        task: ScanTask,
        regions: Sequence[RegionScan],
        budget: Budget = DEFAULT_BUDGET,
    ) -> Generator[pa.RecordBatch, None, None]:
        """Yield the results of regions of this store in place of the task's; see `read_regions`.

        Raises like `read_task`, but does not check the identity of the store.
        """
        if task.lease.shared:
            # It is pinned by a lock that ends with the manifest that it was renewed in.
            for region in regions:
                one = replace(task, region=region)
                yield from read_task(
                    one, fs=self._fs, clock=self._clock, budget=budget, over=self._over
                )
            return
        self._begin(task.lease)
        keeper = LeaseKeeper(self, task.lease, self._clock, budget)
        yield from read_regions(self._reader(), task, regions, keeper)

    def with_dictionaries(self, task: ScanTask) -> ScanTask:
        """See `as_dictionaries`. Raises `LeaseExpiredError`: Files of the task may be removed."""
        try:
            return as_dictionaries(task, self._reader())
        except CorruptionError:
            # As in `read_regions`: after the lease has expired, files may be removed.
            with closing(open_manifest(self._path, self._fs)) as manifest:
                LeaseTable(manifest, self._clock).renew(task.lease)
            raise

    def note(self, lease: ReadLease) -> None:
        """Record that a lease was acquired or renewed elsewhere, so that it is not renewed here."""
        with self._mutex:
            self._note(lease)

    def renew(self, lease: ReadLease) -> None:
        """Renew a lease. Raises `LeaseExpiredError`."""
        with self._mutex:
            self._with_leases(lambda leases: leases.renew(lease))
            self._note(lease)

    def close(self) -> None:
        """Close the open manifest. Running reads continue."""
        with self._mutex:
            self._close_manifest()

    def __del__(self) -> None:
        if hasattr(self, "_renewed_ms"):
            self._close_manifest()

    def _begin(self, lease: ReadLease) -> None:
        """Renew a lease if it is due, else check that it exists, which does not write."""
        with self._mutex:
            renewed_ms = self._renewed_ms.get(lease.id)
            due_ms = 0 if renewed_ms is None else renewed_ms + lease.ttl_ms // 3
            is_due = self._clock.boottime_ms() >= due_ms
            if not is_due:
                self._with_leases(lambda leases: leases.check(lease))
        if is_due:
            self.renew(lease)

    def _with_leases(self, use: Callable[[LeaseTable], None]) -> None:
        try:
            use(self._leases())
        except StoreReplacedError:
            self._close_manifest()
            use(self._leases())
        except TheFlashError:
            self._close_manifest()
            raise

    def _note(self, lease: ReadLease) -> None:
        self._renewed_ms.remove(lease.id)
        self._renewed_ms.put(lease.id, self._clock.boottime_ms())

    def _leases(self) -> LeaseTable:
        if self._manifest is None:
            self._manifest = open_manifest(self._path, self._fs)
        return LeaseTable(self._manifest, self._clock)

    def _reader(self) -> EngineReader:
        """Return the reader of the data files, which all threads share."""
        with self._mutex:
            if self._engine is None:
                with closing(open_manifest(self._path, self._fs)) as manifest:
                    identity = StoreIdentity.of(manifest.read([IDENTITY_KIND]))
                engine = registry.open_reader(self._path, identity, self._fs, self._clock)
                engine.close()
                self._engine = self._over(engine)
            return self._engine

    def _close_manifest(self) -> None:
        manifest, self._manifest = self._manifest, None
        if manifest is not None:
            with suppress(TheFlashError):
                manifest.close()
