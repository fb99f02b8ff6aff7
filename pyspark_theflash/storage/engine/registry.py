"""The engines by name, each imported only when it is used."""

import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from pyspark_theflash.base.clock import Clock
from pyspark_theflash.base.errors import OptionError, UnsupportedError
from pyspark_theflash.base.fs import FileSystem
from pyspark_theflash.storage.engine.api import Engine, EngineReader
from pyspark_theflash.storage.store.folder import StoreIdentity, create_store
from pyspark_theflash.storage.store.manifest import Guard, Record

MAGIC: Final = "magic"
ENGINES: Final = (MAGIC,)
"""The engines that keep a store on disk. `memory` keeps none: it is made directly."""


def create(
    path: Path,
    engine: str,
    fs: FileSystem,
    new_id: Callable[[], str] = lambda: uuid.uuid4().hex,
    settings: Iterable[Record] = (),
) -> StoreIdentity:
    """Make an empty store of an engine, with these settings.

    Raises:
        OptionError: there is no such engine.
        StoreExistsError: there is something at `path`.
    """
    if engine not in ENGINES:
        raise OptionError("engine", f"no engine {engine!r}; there is {', '.join(ENGINES)}")
    identity = StoreIdentity(new_id(), engine)
    create_store(path, identity, fs, settings)
    return identity


def open_reader(path: Path, identity: StoreIdentity, fs: FileSystem, clock: Clock) -> EngineReader:
    """The reading half of the store's engine."""
    _check(path, identity)
    from pyspark_theflash.storage.engine.magic.reader import MagicReader

    return MagicReader(path, fs, clock)


def open_engine(
    path: Path,
    identity: StoreIdentity,
    fs: FileSystem,
    clock: Clock,
    guard: Guard | None = None,
) -> Engine:
    """The store's engine, as its one writer.

    `guard` looks, in the transaction of each publication, whether it may be done.

    Raises:
        StoreInUseError: another process is writing.
    """
    _check(path, identity)
    from pyspark_theflash.storage.engine.magic.engine import MagicEngine

    return MagicEngine(path, fs, clock, guard=guard)


def _check(path: Path, identity: StoreIdentity) -> None:
    if identity.engine not in ENGINES:
        raise UnsupportedError(f"engine {identity.engine!r}", str(path))
