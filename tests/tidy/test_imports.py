"""Importing the package stays light: every Spark session imports it, to look for data sources."""

import json
import subprocess
import sys

import pytest

from pyspark_theflash.storage.store.feed import Feed
from pyspark_theflash.testing.stores import StoreBuilder

OURS = "pyspark_theflash"
HEAVY = ["chdb", "clickhouse_connect", "deltalake", "duckdb", "grpc", "pandas", "py4j", "pyspark"]


def ours(*names):
    return [f"{OURS}.{name}" for name in names]


@pytest.mark.parametrize("statement", ["import pyspark_theflash", "import pyspark_theflash.errors"])
def test_import_brings_no_heavy_package(statement):
    script = f"{statement}; import sys; print(sorted(set({HEAVY!r}) & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("command", ["status", "tables", "gc", "writer"])
def test_a_command_brings_no_heavy_package(command):
    """Pandas alone, which `pyarrow.dataset` imports, takes longer to load than they run."""
    heavy = [*HEAVY, "pyarrow.dataset"]
    script = (
        f"from pyspark_theflash.cli.main import command; command({command!r}); "
        f"import sys; print(sorted(set({heavy!r}) & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


WRITER = ["writer", "store", "--once", "--source", "file:none", "--schema", "file:schema.json"]
WRITING = ["replication.apply", "replication.upkeep", "replication.pump"]
NEEDED_BY_NONE = {*HEAVY, "pyarrow.dataset", "http.server", *ours("tikv", "service.server")}


@pytest.mark.parametrize(
    ("argv", "needless"),
    [
        (["status", "store"], {"google", *ours("read", "service.api.reads", *WRITING)}),
        (["tables", "store"], set(ours("service.api.writers", *WRITING))),
        (WRITER, set(ours("read", "service.api", "service.client.transport"))),
    ],
)
def test_a_command_brings_only_what_it_needs(argv, needless, tmp_path):
    """Importing the rest took as long as these commands run, even in a store of 20,000 tables."""
    StoreBuilder(tmp_path / "store", feed=Feed.STREAM).publish(200)
    (tmp_path / "none").touch()
    span = {"start_ts": 100, "end_ts": 200, "initial": [], "changes": [], "schema_versions": []}
    (tmp_path / "schema.json").write_text(json.dumps(span))
    script = (
        "import sys; from pyspark_theflash.cli.main import main; "
        "status = main(sys.argv[1:]); print(status, *sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *argv], capture_output=True, text=True, cwd=tmp_path
    )
    status, *modules = done.stderr.split()
    assert status == "0", done.stderr[:500]
    assert not (needless | NEEDED_BY_NONE).intersection(modules)
