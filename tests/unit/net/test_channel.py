import subprocess
import sys

MODULES = [
    "replication.source.pump",
    "cluster.pd",
    "cluster.tikv.client",
    "replication.pump.server",
]


def test_without_grpcio():
    script = "import sys; sys.modules['grpc'] = None\n" + "".join(
        "from pyspark_theflash.base.errors import MissingExtraError\n"
        f"try:\n    import pyspark_theflash.{module}\n"
        "except MissingExtraError as error:\n    print(error)\n"
        for module in MODULES
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    hint = "grpcio is not installed; install it with: pip install 'pyspark-theflash[server]'"
    assert done.stdout.splitlines() == [hint] * len(MODULES)
