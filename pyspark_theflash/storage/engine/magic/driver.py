"""Driver of the engine *magic*; implements `EngineDriver`. Imports the engine when it is used."""

from collections.abc import Sequence
from pathlib import Path

from pyspark_theflash.base.clock import Clock
from pyspark_theflash.base.fs import FileSystem
from pyspark_theflash.storage.engine.api import Engine, EngineReader, RegionContent
from pyspark_theflash.storage.store.manifest import Guard


def open_reader(path: Path, fs: FileSystem, clock: Clock) -> EngineReader:
    """Open a store for reading."""
    from pyspark_theflash.storage.engine.magic.reader import MagicReader

    return MagicReader(path, fs, clock)


def open_engine(path: Path, fs: FileSystem, clock: Clock, guard: Guard | None) -> Engine:
    """Open a store as its only writer."""
    from pyspark_theflash.storage.engine.magic.engine import MagicEngine

    return MagicEngine(path, fs, clock, guard=guard)


def region_content(texts: Sequence[str]) -> RegionContent:
    """Decode the content of a region."""
    from pyspark_theflash.storage.engine.magic.layout import RegionFiles

    return RegionFiles.from_texts(texts)
