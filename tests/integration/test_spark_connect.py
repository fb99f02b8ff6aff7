"""The data source over Spark Connect, where there is no JVM to reach from Python."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pyspark_theflash.codec.field_type import MySQLType
from tests.support.stores import StoreBuilder, column, id_column, table_info

ROOT = Path(__file__).parents[2]
T = table_info(1, "d.t", [id_column(), column("name", MySQLType.VARCHAR)])


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What `tests.support.connect_reads` printed."""
    folder = tmp_path_factory.mktemp("connect")
    StoreBuilder(folder / "store", T).publish(
        200, {T: [(1, 150, (1, "one")), (2, 160, (2, "two")), (1, 170, None)]}
    )
    command = ["-m", "tests.support.connect_reads", str(folder / "store"), "d.t", str(folder)]
    done = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.spark
@pytest.mark.parametrize(
    ("read", "rows"),
    [
        ("newest", [{"id": 2, "name": "two"}]),
        ("at_150", [{"id": 1, "name": "one"}]),
        ("names", [{"id": 1}, {"id": 2}]),
    ],
)
def test_rows(found, read, rows):
    assert found[read] == rows


@pytest.mark.spark
@pytest.mark.parametrize(
    ("read", "text"),
    [
        ("above", "NotCaughtUpError: timestamp 999 is above resolved_ts 200"),
        ("no_store", "StoreNotFoundError: no store at /no/where"),
    ],
)
def test_errors_keep_their_name_and_text(found, read, text):
    assert text in found[read]
