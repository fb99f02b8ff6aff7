"""A process that serves imports only modules that it needs."""

import subprocess
import sys

SCRIPT = """
import sys
from pyspark_theflash.service.server.worker import leave_out_pandas
leave_out_pandas()
import pyspark_theflash.service.server.sessions
import pyarrow
assert pyarrow.array([1, None]).to_pylist() == [1, None]
print(sorted({"pandas", "grpc", "duckdb", "pyspark"} & set(sys.modules)))
"""


def test_pandas_is_left_out():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
