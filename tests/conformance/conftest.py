"""A new store, for tests of the engine on disk."""

from pathlib import Path

import pytest

from pyspark_theflash.storage.engine import registry
from tests.support.regions import LOCAL


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """An empty store of the engine *magic*."""
    registry.create(tmp_path / "store", registry.MAGIC, LOCAL)
    return tmp_path / "store"
