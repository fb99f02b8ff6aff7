"""From the cache into the engine: frozen state -> one publication.

A publication has the rows of all regions up to one moment and how far the regions were then, in one
step, so what a crash leaves is a prefix of what was applied. The rows are decoded on the way.
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from threading import Condition, Thread
from typing import Final, Protocol, TypeVar

from pyspark_theflash.base.errors import OptionError
from pyspark_theflash.base.failpoint import fail_point
from pyspark_theflash.base.types import PhysicalTableID, TimeStamp
from pyspark_theflash.storage.engine.api import Engine, Publication, VersionBatch
from pyspark_theflash.storage.store.manifest import ManifestChange
from pyspark_theflash.tikv.region_store import Frozen, RegionStore
from pyspark_theflash.tikv.rows import by_table, version_batches
from pyspark_theflash.tikv.tables import SchemaAt

T = TypeVar("T")
MEMORY_BYTES_MAX: Final = 1 << 30
"""The rows of a table are put into one Arrow array, which ends at 2 GiB."""
Also = Callable[[], ManifestChange]
"""The records to be published with the next rows: the schema history they were decoded under."""


@dataclass(frozen=True, slots=True)
class FlushLimits:
    """When the cache is written out.

    `rows_bytes` of committed rows are worth a publication; none waits longer than `delay_ms`. With
    more than `memory_bytes` in all nothing more is applied until the engine has taken some.

    Raises:
        OptionError: more than `MEMORY_BYTES_MAX`.
    """

    rows_bytes: int = 32 << 20
    delay_ms: int = 1000
    memory_bytes: int = 256 << 20

    def __post_init__(self) -> None:
        if not 0 < self.memory_bytes <= MEMORY_BYTES_MAX:
            raise OptionError("memory_bytes", f"is not between 1 and {MEMORY_BYTES_MAX}")


class Flusher:
    """Publishes what a store has applied. One thread at a time."""

    def __init__(
        self,
        store: RegionStore,
        schema: SchemaAt,
        also: Also = ManifestChange,
        published: Callable[[], None] = lambda: None,
    ) -> None:
        """`published` is called when what `also` said last is durable."""
        self._store, self._schema = store, schema
        self._also, self._published = also, published
        self._frozen: Frozen | None = None
        self.touched: set[PhysicalTableID] = set()
        """Physical tables that rows were published of; whoever compacts empties it."""
        self.rows = 0

    def flush(self, engine: Engine) -> bool:
        """Publish all that was applied when this was called; whether there was anything.

        Raises:
            SchemaOutdatedError: the schema history ends before some of the rows; they stay, and it
                may be tried again. `StoreFullError` likewise.
        """
        done = False
        while True:
            # What could not be published the last time comes first, and is not all there is.
            is_left_over = self._frozen is not None
            frozen = self._frozen or self._store.freeze()
            if not frozen.is_empty:
                self._frozen = frozen
                self._publish(engine, frozen)
                self._frozen = None
                done = True
            if not is_left_over:
                return done

    def _publish(self, engine: Engine, frozen: Frozen) -> None:
        versions = list(self._batches(frozen))
        also = self._also()
        change = ManifestChange(
            [*frozen.change.puts, *also.puts], [*frozen.change.deletes, *also.deletes]
        )
        fail_point("tikv.before_publish")
        engine.publish(Publication(versions, change))
        fail_point("tikv.after_publish")
        self._store.published(frozen)
        self._published()
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
    """Where the engine lives: all that is done to it is done in one thread."""

    def run(self, work: Callable[[Engine], T]) -> "Future[T]":
        """Do this as soon as what was asked for before is done."""

    def close(self) -> None:
        """Finish what was asked for, then let go of the engine."""


class SameThread:
    """The engine of the caller's own thread; `run` is done when it returns."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def run(self, work: Callable[[Engine], T]) -> "Future[T]":
        done: Future[T] = Future()
        try:
            done.set_result(work(self._engine))
        except BaseException as error:
            done.set_exception(error)
            if not isinstance(error, Exception):
                raise
        return done

    def close(self) -> None:
        """The engine stays its owner's."""


class OwnThread:
    """A thread that opens the engine, and closes it at the end."""

    def __init__(self, open_engine: Callable[[], Engine]) -> None:
        """Raises what `open_engine` raises."""
        self._waiting: deque[Callable[[], None]] = deque()
        self._wake = Condition()
        self._is_closing = False
        opened: Future[None] = Future()
        self._thread: Final = Thread(
            target=self._serve, args=(open_engine, opened), name="tikv-engine", daemon=True
        )
        self._thread.start()
        opened.result()

    def run(self, work: Callable[[Engine], T]) -> "Future[T]":
        done: Future[T] = Future()

        def task() -> None:
            try:
                done.set_result(work(self._engine))
            except BaseException as error:  # noqa: BLE001 (the caller's thread raises it)
                done.set_exception(error)

        with self._wake:
            self._waiting.append(task)
            self._wake.notify()
        return done

    def close(self) -> None:
        with self._wake:
            self._is_closing = True
            self._wake.notify()
        self._thread.join()

    def _serve(self, open_engine: Callable[[], Engine], opened: "Future[None]") -> None:
        try:
            self._engine = open_engine()
        except BaseException as error:  # noqa: BLE001 (the caller's thread raises it)
            opened.set_exception(error)
            return
        opened.set_result(None)
        try:
            while (task := self._next()) is not None:
                task()
        finally:
            self._engine.close()

    def _next(self) -> Callable[[], None] | None:
        with self._wake:
            while not self._waiting and not self._is_closing:
                self._wake.wait()
            return self._waiting.popleft() if self._waiting else None
