"""Spark for the demonstration: quiet, on this machine only."""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pyspark.sql import SparkSession

from pyspark_theflash.jobs import writer

_FOREIGN = ("SPARK_HOME", "SPARK_CONF_DIR", "SPARK_REMOTE", "PYSPARK_DRIVER_PYTHON")
SPARK_SUBMIT = Path(sys.executable).parent / "spark-submit"
WRITER_JOB = Path(writer.__file__)


def prepare_environment() -> None:
    """Spark's workers run this interpreter, and nothing listens to other machines."""
    for name in _FOREIGN:
        os.environ.pop(name, None)
    os.environ.update(PYSPARK_PYTHON=sys.executable, SPARK_LOCAL_IP="127.0.0.1")


def submit_writer(arguments: Sequence[str], log: Path) -> str:
    """Run the writer as a Spark job; what it printed. Spark's own messages go to `log`."""
    command = [str(SPARK_SUBMIT), "--master", "local[2]", str(WRITER_JOB), *arguments]
    with log.open("ab") as messages:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=messages, text=True)  # noqa: S603
    if done.returncode:
        raise SystemExit(f"the job failed with status {done.returncode}:\n{log.read_text()}")
    return done.stdout.strip()


@contextmanager
def spark_session(folder: Path, log: Path) -> Iterator[SparkSession]:
    """A local session on two cores, in UTC. Spark's own messages go to `log`."""
    builder = (
        SparkSession.builder.master("local[2]")
        .appName("theflash demo")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.local.dir", str(folder / "spark"))
        .config("spark.sql.session.timeZone", "UTC")
        .config("spark.sql.shuffle.partitions", "2")
        .config("spark.sql.warehouse.dir", str(folder / "warehouse"))
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
    )
    with _stderr_to(log):  # the JVM keeps the stderr it was started with
        session = builder.getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    try:
        yield session
    finally:
        session.stop()


@contextmanager
def _stderr_to(file: Path) -> Iterator[None]:
    saved = os.dup(2)
    try:
        with file.open("ab") as target:
            os.dup2(target.fileno(), 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
