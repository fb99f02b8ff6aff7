import subprocess
import sys

import pytest

MODULES = [
    "replication.source.pump",
    "cluster.pd",
    "cluster.tikv.client",
    "replication.pump.server",
]


@pytest.mark.parametrize("module", MODULES)
def test_without_grpcio(module):
    script = (
        "import sys; sys.modules['grpc'] = None\n"
        "from pyspark_theflash.base.errors import MissingExtraError\n"
        f"try:\n    import pyspark_theflash.{module}\n"
        "except MissingExtraError as error:\n    print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    hint = "grpcio is not installed; install it with: pip install 'pyspark-theflash[server]'"
    assert done.stdout.strip() == hint
