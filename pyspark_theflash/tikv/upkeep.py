"""Upkeep of a store that TiKV feeds, in the thread of its engine.

As for any store (`maintenance`), with two differences. What waits in memory is written out before
anything is split or collected. And no garbage is collected that TiKV may still be asked for: the
bound is PD's safe point, which no reader's service safe point is above.
"""

from collections.abc import Callable, Generator
from concurrent.futures import Executor

from pyspark_theflash.base.clock import Clock
from pyspark_theflash.base.errors import UnsupportedError
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.replication.upkeep.collection import CollectionReport
from pyspark_theflash.replication.upkeep.maintenance import Maintenance
from pyspark_theflash.storage.engine.api import CompactionReport, Engine, Piece
from pyspark_theflash.storage.store.command import PurgeOrder
from pyspark_theflash.storage.store.manifest import Manifest
from pyspark_theflash.storage.store.progress import Progress
from pyspark_theflash.tikv.flush import Flusher


class RaftFedMaintenance(Maintenance):
    """See the module."""

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
        """`safe_point` asks PD up to where TiKV may have dropped old versions."""
        super().__init__(engine, manifest, clock, thread=thread)
        self._flusher, self._learned_ts = flusher, safe_point

    def set_interval(self, interval_ms: int) -> None:
        """Raises `UnsupportedError`: commands come when TiKV sends them."""
        raise UnsupportedError("an interval of polls", "a store that TiKV feeds")

    def purge(self, order: PurgeOrder) -> str:
        """Raises `UnsupportedError`: what no region of TiKV covers goes by itself."""
        raise UnsupportedError("purging by hand", "a store that TiKV feeds")

    def _compacting(self) -> Generator[Piece, CompactionReport, CompactionReport]:
        self._flusher.flush(self._engine)
        return (yield from super()._compacting())

    def flush(self) -> CompactionReport:
        self._flusher.flush(self._engine)
        return super().flush()

    def _collecting(
        self, wanted: TimeStamp | None, *, dry_run: bool
    ) -> Generator[Piece, CompactionReport, CollectionReport | None]:
        if not dry_run:
            self._flusher.flush(self._engine)
        return (yield from super()._collecting(wanted, dry_run=dry_run))

    def _newest_ts(self, progress: Progress) -> TimeStamp:
        return max(progress.resolved_ts, self._learned_ts())

    def compact_published(self) -> None:
        """Compact what pays by now of the tables that rows were published of."""
        touched, self._flusher.touched = self._flusher.touched, set()
        self.touched(touched)
