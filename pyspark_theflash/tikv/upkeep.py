"""Maintenance of a store fed by TiKV, in the engine's thread.

It differs from that of other stores (`maintenance`) in two ways. The cache is published before
regions are split or garbage is collected. And the GC bound is PD's safe point, which is at or below
every service safe point, because versions above it may still be read.
"""

from collections.abc import Callable
from concurrent.futures import Executor

from pyspark_theflash.base.clock import Clock
from pyspark_theflash.base.errors import UnsupportedError
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.replication.upkeep.collection import CollectionReport
from pyspark_theflash.replication.upkeep.maintenance import Maintenance
from pyspark_theflash.replication.upkeep.work_queue import Pieces
from pyspark_theflash.storage.engine.api import CompactionReport, Engine
from pyspark_theflash.storage.store.command import PurgeOrder
from pyspark_theflash.storage.store.manifest import Manifest
from pyspark_theflash.storage.store.progress import Progress
from pyspark_theflash.tikv.flush import Flusher


class RaftFedMaintenance(Maintenance):
    """Maintenance of a store fed by TiKV."""

    def __init__(
        self,
        engine: Engine,
        manifest: Manifest,
        clock: Clock,
        *,
        flusher: Flusher,
        safe_point: Callable[[], TimeStamp],
        thread: Executor | None = None,
    ) -> None:
        """`safe_point` returns PD's GC safe point, below which TiKV may have removed versions."""
        super().__init__(engine, manifest, clock, thread=thread)
        self._flusher, self._learned_ts = flusher, safe_point

    def set_interval(self, interval_ms: int) -> None:
        """Raise `UnsupportedError`: TiKV pushes commands, so there is no polling."""
        raise UnsupportedError("a polling interval", "a store that TiKV feeds")

    def purge(self, order: PurgeOrder) -> str:
        """Raise `UnsupportedError`: rows without a region are purged automatically."""
        raise UnsupportedError("purging by hand", "a store that TiKV feeds")

    def compacting(self) -> Pieces[CompactionReport]:
        self._flusher.flush(self._engine)
        return (yield from super().compacting())

    def flush(self) -> CompactionReport:
        self._flusher.flush(self._engine)
        return super().flush()

    def collecting(
        self, requested: TimeStamp | None = None, *, dry_run: bool = False
    ) -> Pieces[CollectionReport | None]:
        if not dry_run:
            self._flusher.flush(self._engine)
        return (yield from super().collecting(requested, dry_run=dry_run))

    def _newest_ts(self, progress: Progress) -> TimeStamp:
        return max(progress.resolved_ts, self._learned_ts())

    def compact_published(self) -> None:
        """Compact the tables with newly published rows, where it is worthwhile."""
        touched, self._flusher.touched = self._flusher.touched, set()
        self.touched(touched)
