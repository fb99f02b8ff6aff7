"""Registry of the installed engines by name.

An engine is an entry point of the group `pyspark_theflash.engines`: its name is the engine's, its
value a module (or an object) that implements `EngineDriver`. A package adds an engine in its
pyproject.toml:

    [project.entry-points."pyspark_theflash.engines"]
    steam = "theflash_steam.driver"

The engines of this package are registered in the same way, but are found without the metadata of
installed packages: reading it takes 50 ms of each command, and Spark can ship the package as an
archive without metadata. Another package cannot replace them.
"""

import uuid
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Final, cast

from pyspark_theflash.base.clock import Clock
from pyspark_theflash.base.errors import OptionError, UnsupportedError
from pyspark_theflash.base.fs import FileSystem
from pyspark_theflash.storage.engine.api import Engine, EngineDriver, EngineReader, RegionContent
from pyspark_theflash.storage.store.folder import StoreIdentity, create_store
from pyspark_theflash.storage.store.manifest import Guard, Record

GROUP: Final = "pyspark_theflash.engines"
MAGIC: Final = "magic"
OWN: Final[Mapping[str, str]] = {
    MAGIC: "pyspark_theflash.storage.engine.magic.driver",
    "ch": "pyspark_theflash.storage.engine.ch.driver",
}
"""The entry points of this package in `GROUP`."""
_FUNCTIONS: Final = ("open_reader", "open_engine", "region_content")


def engines() -> Sequence[str]:
    """Return the names of the installed engines, sorted."""
    from importlib.metadata import entry_points

    return sorted({*OWN, *(each.name for each in entry_points(group=GROUP))})


def create(
    path: Path,
    engine: str,
    fs: FileSystem,
    settings: Iterable[Record] = (),
) -> StoreIdentity:
    """Create an empty store with this engine and these settings.

    Raises:
        OptionError: `engine` is not the name of an installed engine, or it cannot be loaded.
        StoreExistsError: `path` exists already.
    """
    if _driver(engine) is None:
        raise OptionError("engine", f"no engine {engine!r}; installed: {', '.join(engines())}")
    identity = StoreIdentity(uuid.uuid4().hex, engine)
    create_store(path, identity, fs, settings)
    return identity


def open_reader(path: Path, identity: StoreIdentity, fs: FileSystem, clock: Clock) -> EngineReader:
    """Open the store's engine for reading.

    Raises:
        UnsupportedError: The store's engine is not installed.
        OptionError: It cannot be loaded.
    """
    return _required(identity.engine, path).open_reader(path, fs, clock)


def region_content(engine: str, texts: Sequence[str]) -> RegionContent | None:
    """Decode `RegionContent.texts` of an engine; None if there are none. Raises `CodecError`."""
    return _required(engine, "ticket").region_content(texts) if texts else None


def open_engine(
    path: Path,
    identity: StoreIdentity,
    fs: FileSystem,
    clock: Clock,
    guard: Guard | None = None,
) -> Engine:
    """Open the store's engine as its only writer. Otherwise like `open_reader`.

    Args:
        guard: called in the transaction of each commit; raises to reject the commit.

    Raises:
        StoreInUseError: Another process has the store open for writing.
    """
    return _required(identity.engine, path).open_engine(path, fs, clock, guard)


def _required(engine: str, where: object) -> EngineDriver:
    """Return the driver of an engine. Raises what `open_reader` does."""
    if (driver := _driver(engine)) is None:
        installed = ", ".join(engines())
        raise UnsupportedError(f"engine {engine!r} (installed: {installed})", str(where))
    return driver


@lru_cache
def _driver(engine: str) -> EngineDriver | None:
    """Import the driver of an engine; None if it is not installed.

    Raises:
        OptionError: Two packages have an engine of this name, or it cannot be imported.
    """
    if engine in OWN:
        return cast("EngineDriver", import_module(OWN[engine]))
    from importlib.metadata import entry_points

    points = set(entry_points(group=GROUP, name=engine))
    if not points:
        return None
    values = ", ".join(sorted(point.value for point in points))
    if len(points) > 1:
        raise OptionError("engine", f"several packages have an engine {engine!r}: {values}")
    try:
        driver = points.pop().load()
    except (ImportError, AttributeError) as error:
        raise OptionError(
            "engine", f"{engine!r} cannot be loaded from {values}: {error}"
        ) from error
    missing = [name for name in _FUNCTIONS if not callable(getattr(driver, name, None))]
    if missing:
        raise OptionError("engine", f"{values} of engine {engine!r} has no {', '.join(missing)}")
    return cast("EngineDriver", driver)
