"""Publish the cache of applied data to the engine.

One publication contains the rows of all regions at one point of the apply order, together with the
regions' apply states, and is atomic. So the durable state is always a prefix of the applied
commands. Rows are decoded when they are published.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from pyspark_theflash.base.errors import OptionError
from pyspark_theflash.base.failpoint import fail_point
from pyspark_theflash.base.types import PhysicalTableID, TimeStamp
from pyspark_theflash.replication.apply.rows import by_table, version_batches
from pyspark_theflash.replication.apply.tables import SchemaAt
from pyspark_theflash.storage.engine.api import Engine, Publication, VersionBatch
from pyspark_theflash.storage.store.manifest import ManifestChange
from pyspark_theflash.tikv.region_store import Frozen, RegionStore

T = TypeVar("T")
MEMORY_BYTES_MAX: Final = 1 << 30
"""The rows of a table become one Arrow array, which is limited to 2 GiB."""
ExtraRecords = Callable[[], ManifestChange]
"""Returns records to publish with the rows: the schema history used to decode them."""


@dataclass(frozen=True, slots=True)
class FlushLimits:
    """Thresholds for publishing the cache.

    A publication starts when `rows_bytes` of committed rows are cached, or after `delay_ms`. If the
    cache exceeds `memory_bytes`, commands are applied only after a publication.

    Raises:
        OptionError: `memory_bytes` is not between 1 and `MEMORY_BYTES_MAX`.
    """

    rows_bytes: int = 32 << 20
    delay_ms: int = 1000
    memory_bytes: int = 256 << 20

    def __post_init__(self) -> None:
        if not 0 < self.memory_bytes <= MEMORY_BYTES_MAX:
            raise OptionError("memory_bytes", f"is not between 1 and {MEMORY_BYTES_MAX}")


class Flusher:
    """Publishes the applied data of a `RegionStore`. Not thread-safe."""

    def __init__(
        self,
        store: RegionStore,
        schema: SchemaAt,
        extra: ExtraRecords = ManifestChange,
        on_published: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_published` is called when the records last returned by `extra` are durable."""
        self._store, self._schema = store, schema
        self._extra, self._on_published = extra, on_published
        self._frozen: Frozen | None = None
        self.touched: set[PhysicalTableID] = set()
        """Physical tables with published rows that have not been compacted since."""
        self.rows = 0

    def flush(self, engine: Engine) -> bool:
        """Publish everything applied before the call; return whether there was anything.

        Raises:
            SchemaOutdatedError: The schema history ends before some of the rows.
            StoreFullError: The disk is full. After both errors the rows are kept for a retry.
        """
        is_published = False
        while True:
            # State frozen by a failed call is published first, then the state applied since.
            is_left_over = self._frozen is not None
            frozen = self._frozen or self._store.freeze()
            if not frozen.is_empty:
                self._frozen = frozen
                self._publish(engine, frozen)
                self._frozen = None
                is_published = True
            if not is_left_over:
                return is_published

    def _publish(self, engine: Engine, frozen: Frozen) -> None:
        versions = list(self._batches(frozen))
        extra = self._extra()
        change = ManifestChange(
            [*frozen.change.puts, *extra.puts], [*frozen.change.deletes, *extra.deletes]
        )
        fail_point("tikv.before_publish")
        engine.publish(Publication(versions, change))
        fail_point("tikv.after_publish")
        self._store.published(frozen)
        self._on_published()
        self.touched.update(v.physical_id for v in versions)
        self.rows += sum(v.batch.num_rows for v in versions)

    def _batches(self, frozen: Frozen) -> Iterator[VersionBatch]:
        newest = max((int(v.commit_ts.max()) for v in frozen.versions), default=0)
        if not newest:
            return
        tables = self._schema(TimeStamp(newest))
        for physical_id, versions in by_table(frozen.versions, tables):
            yield from version_batches(physical_id, versions, tables)


class EngineThread(Protocol):
    """Executes all work on the engine in one thread."""

    def run(self, work: Callable[[Engine], T]) -> "Future[T]":
        """Schedule work after all work scheduled before."""

    def close(self) -> None:
        """Finish the scheduled work, then release the engine."""


class OwnThread:
    """A thread that opens the engine, executes work, and closes the engine."""

    def __init__(self, open_engine: Callable[[], Engine]) -> None:
        """Start the thread. Raises the errors of `open_engine`."""
        self._thread: Final = ThreadPoolExecutor(1, thread_name_prefix="tikv-engine")
        try:
            self._engine = self._thread.submit(open_engine).result()
        except BaseException:
            self._thread.shutdown(wait=False)
            raise

    def run(self, work: Callable[[Engine], T]) -> "Future[T]":
        return self._thread.submit(work, self._engine)

    def close(self) -> None:
        with self._thread:
            self.run(lambda engine: engine.close()).result()
