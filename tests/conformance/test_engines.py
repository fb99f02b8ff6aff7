"""The conformance kit, run on the engines of this package and on the one in memory."""

from pathlib import Path

import pytest

from pyspark_theflash.base.fs import FileSystem
from pyspark_theflash.storage.engine.api import Engine
from pyspark_theflash.storage.engine.magic import file
from pyspark_theflash.storage.engine.magic.compaction import CompactionLimits
from pyspark_theflash.storage.engine.magic.engine import MagicEngine
from pyspark_theflash.storage.store.folder import StoreIdentity
from pyspark_theflash.storage.store.manifest import Guard
from pyspark_theflash.testing import ContractTests, MemoryEngine, StoreTests
from pyspark_theflash.testing.case import CLOCK, LOCAL

EAGER = CompactionLimits(region_rows=4, direct_rows=2, deltas=2, layer_rows=1, layers=2)


class TestMemory(ContractTests):
    engine = "memory"
    is_durable = False

    def create(self, path: Path) -> StoreIdentity:
        return StoreIdentity("", self.engine)

    def open_engine(self, path: Path, fs: FileSystem = LOCAL, guard: Guard | None = None) -> Engine:
        return MemoryEngine()


class TestMagic(ContractTests, StoreTests):
    """The rest of `EngineSuite` is in tests/integration/test_crash.py."""

    engine = "magic"


class TestCompactedMagic(ContractTests):
    """Files are compacted into regions of a few rows after each publication."""

    engine = "magic"
    is_durable = False  # Opened again by TestMagic.
    least_regions = 4

    def open_engine(self, path: Path, fs: FileSystem = LOCAL, guard: Guard | None = None) -> Engine:
        return MagicEngine(path, fs, CLOCK, limits=EAGER, guard=guard)


class TestMagicOfLargeFiles(TestCompactedMagic):
    """All files are read as large ones."""

    @pytest.fixture(autouse=True)
    def large(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(file, "WHOLE_CHECK_BYTES", 0)
