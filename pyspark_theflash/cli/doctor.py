"""Check whether a cluster can be followed, and estimate the load.

Prints one line per finding: "ok", "note" (worth knowing) or "problem", which is also the status 1.
Reads only, from PD, TiKV and their status ports, and writes nothing to the cluster. Figures that a
port does not answer are "unknown".
"""

import argparse
from contextlib import ExitStack
from typing import Final

from pyspark_theflash.cli.jobs.arguments import add_tls

HAS_PROBLEM: Final = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `doctor`."""
    parser.add_argument("--pd", required=True, metavar="HOST:PORT,...", help="PD's addresses")
    parser.add_argument(
        "--tables",
        action="append",
        default=[],
        metavar="DB.TABLE",
        help="only tables with matching names, * and ? allowed; may be repeated",
    )
    add_tls(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the findings."""
    # Imported here because it needs an extra, and `--help` does not.
    from pyspark_theflash.cli.jobs.doctor import PROBLEM, Doctor

    with ExitStack() as undo:
        has_problem = False
        for finding in Doctor(arguments, undo).findings():
            print(f"{finding.level:<8}{finding.subject:<14}{finding.text}", flush=True)
            has_problem = has_problem or finding.level == PROBLEM
    return HAS_PROBLEM if has_problem else 0
