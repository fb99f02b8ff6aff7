"""Driver of the engine *ch*; implements `EngineDriver`. Imports the engine when it is used."""

from collections.abc import Sequence
from pathlib import Path

from pyspark_theflash.base.clock import Clock
from pyspark_theflash.base.fs import FileSystem
from pyspark_theflash.storage.engine.api import Engine, EngineReader, RegionContent
from pyspark_theflash.storage.store.manifest import Guard


def open_reader(path: Path, fs: FileSystem, clock: Clock) -> EngineReader:
    """Open a store for reading."""
    from pyspark_theflash.storage.engine.ch.reader import ClickHouseReader

    return ClickHouseReader(path, fs, clock)


def open_engine(path: Path, fs: FileSystem, clock: Clock, guard: Guard | None) -> Engine:
    """Open a store as its only writer."""
    from pyspark_theflash.storage.engine.ch.engine import ClickHouseEngine

    return ClickHouseEngine(path, fs, clock, guard=guard)


def region_content(texts: Sequence[str]) -> RegionContent:
    """Decode the content of a region."""
    from pyspark_theflash.storage.engine.ch.batch import RegionBatches

    return RegionBatches.from_texts(texts)
