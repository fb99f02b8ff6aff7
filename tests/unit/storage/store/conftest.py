import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.storage.store.folder import StoreIdentity, create_store


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A new store whose path contains characters with a meaning in URIs."""
    path = tmp_path / "a store #1? %41&mode=ro"
    create_store(path, StoreIdentity("some-id", "magic"), LocalFileSystem())
    return path


@pytest.fixture
def read_only(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Make folders read-only for `os.access`, also if root runs the tests."""
    access = os.access

    def deny(folder: Path) -> None:
        def denied(path: Path, mode: int) -> bool:
            if mode & os.W_OK and (path == folder or folder in Path(path).parents):
                return False
            return access(path, mode)

        monkeypatch.setattr(os, "access", denied)

    return deny
