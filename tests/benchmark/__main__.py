"""All benchmarks, one after the other: `make bench`."""

import os
import platform

import pyarrow as pa

from tests.benchmark import codec, ingest, live, open, pump, query, raft, scan, serve, workers


def main() -> None:
    """Print the machine, then every benchmark's figures."""
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}, pyarrow {pa.__version__}"
    )
    for benchmark in (codec, ingest, live, open, pump, raft, scan, query, serve, workers):
        print()
        benchmark.main()


if __name__ == "__main__":
    main()
