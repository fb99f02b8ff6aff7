"""The writer as a job of spark-submit: on a cluster of processes, with its status, and its end."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.errors import UsageError
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.jobs import writer
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.storage.store.writer_lock import current_writer
from tests.support.processes import wait_until
from tests.support.progress import read_progress
from tests.support.workloads import check_answers, workload

BANK = workload("bank")
SUBMIT = Path(sys.executable).parent / "spark-submit"
PACKAGE = Path(__file__).parents[2] / "pyspark_theflash"
LOCAL_CLUSTER = "local-cluster[2,1,1024]"
QUIET = ("--conf", "spark.ui.enabled=false", "--driver-memory", "512m")
SHIPPED = """
import sys
from pyspark_theflash.jobs import writer
assert ".zip" in writer.__file__, writer.__file__
sys.exit(writer.main())
"""


@pytest.fixture
def store(tmp_path: Path) -> Path:
    registry.create(tmp_path / "store", registry.MAGIC, LocalFileSystem())
    return tmp_path / "store"


def submitted(folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    """Submit a job from a working directory that has nothing to do with it."""
    (folder / "elsewhere").mkdir(exist_ok=True)
    variables = {k: v for k, v in os.environ.items() if k not in ("SPARK_HOME", "PYTHONPATH")}
    variables |= {"PYSPARK_PYTHON": sys.executable, "SPARK_LOCAL_IP": "127.0.0.1"}
    return subprocess.Popen(
        [str(SUBMIT), *arguments],
        cwd=folder / "elsewhere",
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def status_and_output(process: "subprocess.Popen[str]") -> tuple[int, str]:
    output, _ = process.communicate(timeout=300)
    return process.returncode, output


def test_client_mode_on_a_cluster_with_the_package_as_an_archive(
    store: Path, tmp_path: Path
) -> None:
    """All answers are TiDB's."""
    archive = shutil.make_archive(str(tmp_path / "package"), "zip", PACKAGE.parent, PACKAGE.name)
    script = tmp_path / "job.py"
    script.write_text(SHIPPED)
    options = ("--master", LOCAL_CLUSTER, "--py-files", archive, *QUIET, str(script))
    job = submitted(tmp_path, *options, *BANK.writer_arguments(store))
    status, output = status_and_output(job)
    assert status == 0, output
    assert f"Submitted application: theflash writer {store}" in output
    assert check_answers(store, BANK.answers()) > 0


def test_the_status_is_that_of_the_command(store: Path, tmp_path: Path) -> None:
    arguments = BANK.writer_arguments(store, tmp_path / "nothing")
    job = submitted(tmp_path, "--master", "local[1]", *QUIET, writer.__file__, *arguments)
    status, output = status_and_output(job)
    assert status == 2, output
    assert "nothing" in output


@pytest.mark.parametrize("of_driver", [True, False])
def test_sigterm_ends_it_after_its_poll(of_driver: bool, store: Path, tmp_path: Path) -> None:
    """Send SIGTERM to the driver's Python or to its JVM: the store's lock is free afterwards."""
    arguments = [word for word in BANK.writer_arguments(store) if word != "--once"]
    arguments[arguments.index("--until-ts") + 1] = str(BANK.end_ts + 1)
    job = submitted(tmp_path, "--master", "local[1]", *QUIET, writer.__file__, *arguments)
    clock = SystemClock()
    wait_until(lambda: read_progress(store) is not None, 120_000)
    holder = current_writer(store, clock)
    assert holder is not None
    os.kill(holder.pid if of_driver else job.pid, signal.SIGTERM)
    status, output = status_and_output(job)
    assert status == (0 if of_driver else 143), output
    wait_until(lambda: current_writer(store, clock) is None, 60_000)
    wait_until(lambda: holder.is_gone(clock), 60_000)


def test_cluster_mode_on_a_standalone_master_is_refused_by_spark(
    store: Path, tmp_path: Path
) -> None:
    options = ("--master", "spark://127.0.0.1:1", "--deploy-mode", "cluster", writer.__file__)
    status, output = status_and_output(submitted(tmp_path, *options, str(store)))
    assert status != 0
    assert "Cluster deploy mode is currently not supported for python applications" in output


def test_a_folder_of_a_cluster_s_driver_is_no_store() -> None:
    with pytest.raises(UsageError, match="relative to the driver's temporary folder"):
        writer._check_place("store", "cluster")
    for store, mode in (
        ("store", "client"),
        ("/data/store", "cluster"),
        ("theflash://h:1", "cluster"),
    ):
        writer._check_place(store, mode)
