"""Read access to a store's metadata for commands."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.storage.engine.api import EngineReader
from pyspark_theflash.storage.store.folder import StoreIdentity, read_identity


@contextmanager
def opened_reader(path: Path) -> Iterator[tuple[StoreIdentity, EngineReader]]:
    """Open a store; yield its identity and engine reader."""
    fs = LocalFileSystem()
    identity = read_identity(path, fs)
    with closing(registry.open_reader(path, identity, fs, SystemClock())) as engine:
        yield identity, engine
