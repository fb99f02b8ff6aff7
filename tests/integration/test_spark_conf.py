"""Sessions that Python does not start, with the configuration that `theflash spark-conf` prints."""

import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pyspark_theflash.testing.stores import StoreBuilder, column, id_column, table_info
from pyspark_theflash.tidb.codec.field_type import MySQLType

BIN = Path(sys.executable).parent
PACKAGE = Path(__file__).parents[2] / "pyspark_theflash"
T = table_info(1, "d.t", [id_column(), column("name", MySQLType.VARCHAR)])
ROWS = [(n, 150, (n, f"name {n}")) for n in range(1, 101)]
LOCAL = ("--master", "local[1]", "--driver-memory", "512m", "--conf", "spark.ui.enabled=false")
QUERY = "SELECT concat('rows: ', count(*)) FROM theflash.d.t WHERE name LIKE 'name 1%'"
ANSWER = "rows: 12"
JOB = f"""
from pyspark.sql import SparkSession
spark = SparkSession.builder.getOrCreate()
print(spark.sql("{QUERY}").head()[0])
"""
LATE_JOB = """
import sys
from pyspark.sql import SparkSession
import pyspark_theflash
from pyspark_theflash.errors import OptionError, SparkStartedError

assert ".zip" in pyspark_theflash.__file__, pyspark_theflash.__file__
try:
    pyspark_theflash.configure_spark(SparkSession.builder)
except OptionError as error:
    print(error)
spark = SparkSession.builder.getOrCreate()
try:
    pyspark_theflash.configure_spark(SparkSession.builder)
except SparkStartedError as error:
    print(error)
rows = spark.read.format("theflash").option("store", sys.argv[1]).load("d.t")
print(f"rows: {rows.where('id < 13').count()}")
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = StoreBuilder(tmp_path_factory.mktemp("conf") / "store", T)
    return made.publish(200, {T: ROWS}).path


def printed(store: Path, form: str) -> str:
    command = [BIN / "theflash", "spark-conf", "--store", store, "--format", form]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def arguments(store: Path) -> list[str]:
    return shlex.split(printed(store, "arguments"))


def environment() -> dict[str, str]:
    variables = {k: v for k, v in os.environ.items() if k not in ("SPARK_HOME", "PYTHONPATH")}
    return variables | {"PYSPARK_PYTHON": sys.executable, "SPARK_LOCAL_IP": "127.0.0.1"}


def output_of(folder: Path, command: str, *words: object, given: str = "") -> str:
    """Run a command of Spark in an empty folder, with a text for its standard input."""
    done = subprocess.run(
        [str(BIN / command), *map(str, words)],
        cwd=folder,
        env=environment(),
        input=given,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_spark_submit(store: Path, tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text(JOB)
    output = output_of(tmp_path, "spark-submit", *LOCAL, *arguments(store), "job.py")
    assert ANSWER in output.splitlines()


def test_spark_sql_with_a_file_of_defaults(store: Path, tmp_path: Path) -> None:
    (tmp_path / "defaults").write_text(printed(store, "defaults"))
    options = (*LOCAL, "--properties-file", "defaults")
    assert ANSWER in output_of(tmp_path, "spark-sql", *options, "-e", QUERY).splitlines()


def test_pyspark_s_shell(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = f'print(spark.sql("{QUERY}").head()[0])\n'
    monkeypatch.setenv("PYSPARK_DRIVER_PYTHON_OPTS", "-i")  # as on a terminal
    output = output_of(tmp_path, "pyspark", *LOCAL, *arguments(store), given=job)
    assert ANSWER in output


def test_a_session_without_the_jar_says_so_and_an_archive_has_the_python_source(
    store: Path, tmp_path: Path
) -> None:
    archive = shutil.make_archive(str(tmp_path / "package"), "zip", PACKAGE.parent, PACKAGE.name)
    (tmp_path / "job.py").write_text(LATE_JOB)
    output = output_of(tmp_path, "spark-submit", *LOCAL, "--py-files", archive, "job.py", store)
    assert "Spark cannot load the jar from the archive" in output
    assert "already runs without the jar; start it with the configuration" in output
    assert ANSWER in output.splitlines()


def test_beeline_at_the_thrift_server(store: Path, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [BIN / "spark-submit", *LOCAL, *arguments(store)]
    command += ["--class", "org.apache.spark.sql.hive.thriftserver.HiveThriftServer2"]
    command += ["--conf", f"spark.hadoop.hive.server2.thrift.port={port}"]
    command += ["--conf", "spark.hadoop.hive.server2.thrift.bind.host=127.0.0.1", "spark-internal"]
    with (
        (tmp_path / "log").open("w") as log,
        subprocess.Popen(
            [*map(str, command)], cwd=tmp_path, env=environment(), stdout=log, stderr=log
        ) as server,
    ):
        try:
            wait_for_port(port, server)
            url = f"jdbc:hive2://127.0.0.1:{port}"
            output = output_of(tmp_path, "beeline", "-u", url, "-e", f"{QUERY};")
        finally:
            server.terminate()
    assert ANSWER in output


def wait_for_port(port: int, server: "subprocess.Popen[bytes]") -> None:
    for _ in range(3000):
        assert server.poll() is None
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)  # noqa: TID251 (another process)
    raise AssertionError(f"nothing listens at {port}")
