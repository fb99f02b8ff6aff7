"""Opening of a store for writing, waiting for another writer to finish."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from pyspark_theflash.base.clock import Clock, Deadline
from pyspark_theflash.base.errors import StoreInUseError
from pyspark_theflash.base.fs import FileSystem
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.storage.engine.api import Engine
from pyspark_theflash.storage.store.feed import Feed, all_guards, feed_guard
from pyspark_theflash.storage.store.folder import read_identity
from pyspark_theflash.storage.store.manifest import Guard

_RETRY_MS: Final = 100


def open_when_free(
    path: Path,
    fs: FileSystem,
    clock: Clock,
    guard: Guard,
    *,
    wait_ms: int,
    check: Callable[[], None] = lambda: None,
) -> Engine:
    """Open the engine of a store that a stream feeds or will feed.

    `check` is called repeatedly while waiting; an error that it raises ends the wait.

    Raises:
        StoreNotFoundError: There is no store at `path`.
        StoreInUseError: Another process is still writing the store after `wait_ms`.
    """
    identity = read_identity(path, fs)
    guards = all_guards(guard, feed_guard(Feed.STREAM))

    def opened() -> Engine:
        check()
        return registry.open_engine(path, identity, fs, clock, guards)

    return Deadline(clock, wait_ms).retried(opened, StoreInUseError, pause_ms=_RETRY_MS)
