"""Importing the package stays light: every Spark session imports it, to look for data sources."""

import subprocess
import sys

import pytest

HEAVY = ["chdb", "clickhouse_connect", "deltalake", "duckdb", "grpc", "pandas", "py4j", "pyspark"]


@pytest.mark.parametrize("statement", ["import pyspark_theflash", "import pyspark_theflash.errors"])
def test_import_brings_no_heavy_package(statement):
    script = f"{statement}; import sys; print(sorted(set({HEAVY!r}) & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("command", ["status", "tables", "gc", "writer"])
def test_a_command_brings_no_heavy_package(command):
    """Pandas alone, which `pyarrow.dataset` brings in, takes longer to load than they run."""
    heavy = [*HEAVY, "pyarrow.dataset"]
    script = (
        f"from pyspark_theflash.cli.main import command; command({command!r}); "
        f"import sys; print(sorted(set({heavy!r}) & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
