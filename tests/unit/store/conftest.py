from pathlib import Path

import pytest

from pyspark_theflash.fs import LocalFileSystem
from pyspark_theflash.store.folder import StoreIdentity, create_store


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A new store, its path full of what an URI would take for something else."""
    path = tmp_path / "a store #1? %41&mode=ro"
    create_store(path, StoreIdentity("some-id", "magic"), LocalFileSystem())
    return path
