"""Shared by all tests: Hypothesis profiles, marks, the fixtures' folder and one Spark session.

Hypothesis runs the same examples each time (`ci`, the default) and keeps no database, so that a
failure is reproducible; `pytest --hypothesis-profile=explore` looks further.
"""

import gc
import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadScopeScheduling

from tests.peer.build import is_built

if TYPE_CHECKING:
    from pyspark.sql import SparkSession
    from xdist.remote import Producer

ROOT = Path(__file__).parents[1]
LISTED = ("long", "processes")
"""Marks of the tests that `tests/MARK.txt` lists."""
SPARK = "test_spark_"
"""Prefix of the names of files or functions of tests that use Spark's session."""

DELTA = "test_spark_delta"
"""Start of the names of files of tests that need Delta Lake."""

# Almost nothing of what is imported and collected is garbage.
gc.disable()

# Spark reads these when its JVM starts; `make` sets them too, a plain `pytest` does not.
os.environ["PYSPARK_PYTHON"] = sys.executable
os.environ["SPARK_LOCAL_IP"] = "127.0.0.1"
# PySpark forks to start its JVM. If gRPC is in use, it restarts in the child, finds its files
# closed and ends the child: one time in forty, and then no test of Spark runs.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
# Queries of tests are short: what a better compiler of the JVM would save, compiling costs thrice.
os.environ["SPARK_SUBMIT_OPTS"] = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"

# No deadline: a busy machine is not a failure.
settings.register_profile(
    "ci",
    deadline=None,
    derandomize=True,
    max_examples=50,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("explore", deadline=None, max_examples=1000, print_blob=True)
settings.load_profile("ci")


class FileScheduling(LoadScopeScheduling):
    """Distributes the tests of Spark as one group, then the others file by file.

    A file's tests run in one process, which creates their fixtures and caches once.
    """

    def _split_scope(self, nodeid: str) -> str:
        return SPARK if SPARK in nodeid else nodeid.partition("::")[0]


def pytest_xdist_make_scheduler(
    config: pytest.Config, log: "Producer"
) -> LoadScopeScheduling | None:
    return FileScheduling(config, log) if config.getoption("dist") == "loadfile" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    no_peer = pytest.mark.skip(reason="needs a TiDB: run `make peer`, for which Go is needed")
    lists = {mark: listed(mark) for mark in LISTED}
    for item in items:
        # A line of a list is a test, with or without its parameters, a class, a file or a folder.
        name = item.nodeid.partition("[")[0]
        folder = name.partition("::")[0].rpartition("/")[0]
        places = {item.nodeid, folder, *accumulate(name.split("::"), "{}::{}".format)}
        for mark, lines in lists.items():
            if not lines.isdisjoint(places):
                item.add_marker(getattr(pytest.mark, mark))
        if SPARK in name:
            item.add_marker(pytest.mark.spark)
        elif "spark" in getattr(item, "fixturenames", ()):
            raise pytest.UsageError(f"{name} uses Spark: name it or its file {SPARK}...")
        if item.get_closest_marker("peer") and not is_built():
            item.add_marker(no_peer)
    # The largest group first, so that the process that does not run it runs most of the others.
    items.sort(key=lambda item: SPARK not in item.nodeid)


def listed(mark: str) -> set[str]:
    """Return the lines of the list of a mark, without comments."""
    path = Path(__file__).with_name(f"{mark}.txt")
    return {line for line in path.read_text().splitlines() if line and not line.startswith("#")}


def pytest_collection_finish() -> None:
    """Leave modules and tests, which live as long as the process, out of garbage collections."""
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    """Let the interpreter free them at its end; DuckDB prints what is left."""
    gc.unfreeze()


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """The folder of captured histories: `bank`, `tpcc`, `tpch`."""
    return Path(__file__).parent / "fixtures"


def delta_jars() -> str:
    """The jars of Delta Lake, for `spark.jars`."""
    return ",".join(map(str, sorted((ROOT / "build" / "jars").glob("delta-*.jar"))))


@pytest.fixture(scope="session")
def spark(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator["SparkSession"]:
    """A local Spark on two cores, in UTC, with the jar, that opens no port to other machines.

    It has Delta Lake only if a test of the engine delta is run.
    """
    from pyspark.sql import SparkSession

    from pyspark_theflash import configure_spark

    needs_delta = any(item.path.name.startswith(DELTA) for item in request.session.items)
    for script in ("build.py", "delta.py") if needs_delta else ("build.py",):
        subprocess.run([sys.executable, ROOT / "jvm-shim" / script], check=True)
    folder = tmp_path_factory.mktemp("spark")
    session = (
        configure_spark(
            SparkSession.builder, delta=needs_delta, jars=delta_jars() if needs_delta else ""
        )
        .master("local[2]")
        # Engine processes end this many seconds after the last connection. On a busy machine, the
        # connection to a new one can take two.
        .config("spark.theflash.idle", "5")
        .appName("pyspark_theflash tests")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.local.dir", str(folder))
        .config("spark.sql.session.timeZone", "UTC")
        .config("spark.sql.shuffle.partitions", "2")
        .config("spark.databricks.delta.snapshotPartitions", "1")
        .config("spark.sql.warehouse.dir", str(folder / "warehouse"))
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .getOrCreate()
    )
    session.sparkContext.setLogLevel("ERROR")
    yield session
    session.stop()
