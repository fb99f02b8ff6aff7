"""The package's public names, which are loaded when they are first used, and its wheel."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import pyspark_theflash

PROJECT = Path(__file__).parents[2]


def test_public_names():
    assert [name for name in pyspark_theflash.__all__ if not hasattr(pyspark_theflash, name)] == []
    assert pyspark_theflash.DefaultSource.__name__ == "TheFlashDataSource"


def test_import_paths_of_users():
    """They are documented, and stay where the code behind them moves."""
    from pyspark_theflash.client.theflash import connect
    from pyspark_theflash.errors import NotCaughtUpError

    assert connect is pyspark_theflash.connect
    assert NotCaughtUpError.__module__ == "pyspark_theflash.errors"


def test_the_script_for_spark_submit():
    script = PROJECT / "pyspark_theflash" / "jobs" / "writer.py"
    done = subprocess.run(
        [sys.executable, str(script), "--help"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("usage: writer")


def test_other_names_do_not_exist():
    with pytest.raises(AttributeError, match="'nothing'"):
        _ = pyspark_theflash.nothing


def test_the_wheel_says_that_it_is_typed(tmp_path):
    """PEP 561: type checkers ignore the annotations of a package without `py.typed`."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=PROJECT, check=True, capture_output=True, timeout=120)
    (wheel,) = tmp_path.iterdir()
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = [name for name in names if name.endswith(".dist-info/METADATA")]
        assert "Classifier: Typing :: Typed" in archive.read(metadata).decode()
    assert "pyspark_theflash/py.typed" in names
