"""The engine *ch*: the conformance kit, and a captured workload with TiDB's answers."""

from pathlib import Path

from pyspark_theflash.base.fs import FileSystem
from pyspark_theflash.cli.main import main
from pyspark_theflash.storage.engine.api import Engine
from pyspark_theflash.storage.engine.ch.engine import ClickHouseEngine, MergeLimits
from pyspark_theflash.storage.store.folder import read_identity
from pyspark_theflash.storage.store.manifest import Guard
from pyspark_theflash.testing import ContractTests, EngineSuite
from pyspark_theflash.testing.case import CLOCK, LOCAL
from tests.support.workloads import check_answers, workload


class TestClickHouse(EngineSuite):
    engine = "ch"


class TestMergedClickHouse(ContractTests):
    """Any two batches are merged after each publication."""

    engine = "ch"
    is_durable = False  # Opened again by TestClickHouse.

    def open_engine(self, path: Path, fs: FileSystem = LOCAL, guard: Guard | None = None) -> Engine:
        return ClickHouseEngine(path, fs, CLOCK, guard=guard, limits=MergeLimits(batches=2))


def test_all_answers_of_a_workload(tmp_path: Path) -> None:
    """The command line replicates a captured workload; the answers are TiDB's."""
    store, chosen = tmp_path / "store", workload("bank")
    assert main(["init", str(store), "--engine", "ch"]) == 0
    assert read_identity(store, LOCAL).engine == "ch"
    assert main(["writer", *chosen.writer_arguments(store)]) == 0
    assert check_answers(store, chosen.answers()) > 0
    assert main(["fsck", str(store)]) == 0
