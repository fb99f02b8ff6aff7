"""The engine *plain* as a package of its own."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import invalidate_caches
from pathlib import Path

import pytest

from pyspark_theflash.storage.engine import registry

PLAIN = Path(__file__).parent / "plain" / "theflash_plain.py"


def install(site: Path, name: str, value: str) -> Path:
    """Add the metadata of a package with an engine, as pip does."""
    info = site / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    entry_points = f"[{registry.GROUP}]\n{name.removeprefix('theflash-')} = {value}\n"
    (info / "entry_points.txt").write_text(entry_points)
    return site


@contextmanager
def plain_installed(site: Path) -> Iterator[Path]:
    """Make a folder of packages with the engine, which other processes find, too."""
    folder = install(site, "theflash-plain", "theflash_plain")
    (folder / PLAIN.name).write_text(PLAIN.read_text())
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]))
        invalidate_caches()
        registry._driver.cache_clear()
        yield folder
    registry._driver.cache_clear()
