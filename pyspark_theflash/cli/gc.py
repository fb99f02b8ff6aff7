"""Drop the versions of a store that no read from the safe point on needs, and what was dropped.

Timestamps below the safe point can no longer be read. It is never above one that a reader or a pin
still holds, nor above `resolved_ts`, and never goes back. A writer that runs is asked to do it.
"""

import argparse

from pyspark_theflash.cli.command import LONG_MS, add_command, run_command
from pyspark_theflash.jobs.arguments import timestamp
from pyspark_theflash.store.command import Verb


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `gc`."""
    add_command(parser, LONG_MS)
    parser.add_argument(
        "--safe-point",
        type=timestamp,
        metavar="TS",
        help="keep what can be read from here on (default: the newest timestamp only)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Do it, or have it done."""
    return run_command(arguments, Verb.GC, arguments.safe_point)
