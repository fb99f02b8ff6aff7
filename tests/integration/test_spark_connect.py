"""The data source over Spark Connect, where there is no JVM to reach from Python."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from pyspark.errors import PySparkException

from pyspark_theflash.testing.stores import StoreBuilder, column, id_column, table_info
from pyspark_theflash.tidb.codec.field_type import MySQLType
from pyspark_theflash.tidb.codec.time import IMPOSSIBLE_DAY

ROOT = Path(__file__).parents[2]
NAME = column("name", MySQLType.VARCHAR, collate="utf8mb4_bin")
T = table_info(1, "d.t", [id_column(), NAME])
DATES = table_info(2, "d.dates", [id_column(), column("day", MySQLType.DATE)])
ROWS = {
    T: [(1, 150, (1, "one")), (2, 160, (2, "two")), (1, 170, None)],
    DATES: [(2, 150, (2, IMPOSSIBLE_DAY))],
}
TWO = {"id": 2, "name": "two"}


@pytest.mark.parametrize("way", ["connect", "connect_python"])
def test_reads_in_the_session_of_the_tests(request, way, tmp_path):
    """As in a process of its own, below, with the server in the session that the tests share."""
    StoreBuilder(tmp_path / "store", *ROWS).publish(200, ROWS)
    source = request.getfixturevalue(way)

    def rows(table="d.t", **options):
        return source.reader(tmp_path / "store", **options).load(table).toArrow().to_pylist()

    assert rows() == [TWO]
    assert rows(snapshot_ts=150, where="name = 'one'") == [{"id": 1, "name": "one"}]
    assert rows("d.dates", zero_dates="string") == [{"id": 2, "day": "0000-00-00"}]
    with pytest.raises(PySparkException, match=r"NotCaughtUpError: timestamp 999 \("):
        rows(snapshot_ts=999)
    with pytest.raises(PySparkException, match="UnrepresentableValueError: column day: 0000-00-00"):
        rows("d.dates")


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """The output of `tests.support.connect_reads`."""
    folder = tmp_path_factory.mktemp("connect")
    StoreBuilder(folder / "store", *ROWS).publish(200, ROWS)
    command = ["-m", "tests.support.connect_reads", str(folder / "store"), str(folder)]
    done = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.spark
@pytest.mark.parametrize(
    ("read", "rows"),
    [
        ("newest", [TWO]),
        ("at_150", [{"id": 1, "name": "one"}]),
        ("version_150", [{"id": 1, "name": "one"}]),
        ("names", [{"id": 1}, {"id": 2}]),
        ("where", [{"id": 1, "name": "one"}]),
        ("text", [{"id": "2", "name": "two"}]),
        ("waited", [TWO]),
        ("dates_null", [{"id": 2, "day": None}]),
        ("dates_string", [{"id": 2, "day": "0000-00-00"}]),
        ("joined", [{**TWO, "day": "0000-00-00"}]),
        ("meddled", [1, 2, 1]),
    ],
)
def test_rows(answers, read, rows):
    assert answers[read] == rows


@pytest.mark.spark
@pytest.mark.parametrize(
    ("read", "text"),
    [
        ("above", "NotCaughtUpError: timestamp 999 ("),
        ("no_store", "StoreNotFoundError: no store at /no/where"),
        ("dates", "UnrepresentableValueError: column day: 0000-00-00 cannot be represented"),
        ("contradiction", "OptionError: option 'versionAsOf': cannot be given together"),
        ("unknown", "OptionError: option 'snapshotts': there is no such option"),
        ("stale", "NotCaughtUpError: timestamp "),
        ("write", "UnsupportedError: theflash, a replica that follows TiDB: writing with Spark"),
    ],
)
def test_errors_keep_their_name_and_text(answers, read, text):
    assert text in answers[read]
