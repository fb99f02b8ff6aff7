"""All benchmarks, or some, one after the other: `make bench`."""

import argparse
import os
import platform
from importlib import import_module

import pyarrow as pa

NAMES = (
    "change_feed",
    *("codec", "ingest", "live", "remote", "open", "pump", "raft", "scan", "query", "serve"),
    *("beside", "first_load", "learner", "stream", "workers", "spark", "tpch", "varied"),
)
HAVE_FULL = frozenset({"first_load", "ingest", "live", "remote", "spark", "tpch", "varied"})


def main() -> None:
    """Print the machine, then every benchmark's figures."""
    parser = argparse.ArgumentParser(prog="tests.benchmark")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--full", action="store_true", help="the full sizes, which take hours")
    chosen = parser.parse_args()
    if unknown := set(chosen.names) - set(NAMES):
        parser.error(f"there is no {', '.join(sorted(unknown))}")
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}, pyarrow {pa.__version__}"
    )
    for name in chosen.names or NAMES:
        print()
        benchmark = import_module(f"tests.benchmark.{name}")
        if name in HAVE_FULL:
            benchmark.main(("--full",) if chosen.full else ())
        else:
            benchmark.main()


if __name__ == "__main__":
    main()
