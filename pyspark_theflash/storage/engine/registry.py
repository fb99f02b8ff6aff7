"""Registry of the on-disk engines by name; each is imported when it is first used."""

import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from pyspark_theflash.base.clock import Clock
from pyspark_theflash.base.errors import OptionError, UnsupportedError
from pyspark_theflash.base.fs import FileSystem
from pyspark_theflash.storage.engine.api import Engine, EngineReader, RegionContent
from pyspark_theflash.storage.store.folder import StoreIdentity, create_store
from pyspark_theflash.storage.store.manifest import Guard, Record

MAGIC: Final = "magic"
ENGINES: Final = (MAGIC,)


def create(
    path: Path,
    engine: str,
    fs: FileSystem,
    settings: Iterable[Record] = (),
) -> StoreIdentity:
    """Create an empty store with this engine and these settings.

    Raises:
        OptionError: `engine` is not the name of an engine.
        StoreExistsError: `path` exists already.
    """
    if engine not in ENGINES:
        raise OptionError("engine", f"no engine {engine!r}; there is {', '.join(ENGINES)}")
    identity = StoreIdentity(uuid.uuid4().hex, engine)
    create_store(path, identity, fs, settings)
    return identity


def open_reader(path: Path, identity: StoreIdentity, fs: FileSystem, clock: Clock) -> EngineReader:
    """Open the store's engine for reading."""
    _check(path, identity)
    from pyspark_theflash.storage.engine.magic.reader import MagicReader

    return MagicReader(path, fs, clock)


def region_content(texts: Sequence[str]) -> RegionContent | None:
    """Decode `RegionContent.texts`; None if there are none. Raises `CodecError`."""
    from pyspark_theflash.storage.engine.magic.layout import RegionFiles

    return RegionFiles.from_texts(texts) if texts else None


def open_engine(
    path: Path,
    identity: StoreIdentity,
    fs: FileSystem,
    clock: Clock,
    guard: Guard | None = None,
) -> Engine:
    """Open the store's engine as its only writer.

    Args:
        guard: called in the transaction of each commit; raises to reject the commit.

    Raises:
        StoreInUseError: Another process has the store open for writing.
    """
    _check(path, identity)
    from pyspark_theflash.storage.engine.magic.engine import MagicEngine

    return MagicEngine(path, fs, clock, guard=guard)


def _check(path: Path, identity: StoreIdentity) -> None:
    if identity.engine not in ENGINES:
        raise UnsupportedError(f"engine {identity.engine!r}", str(path))
