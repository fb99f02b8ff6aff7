"""Drop the versions of a store that no read from the safe point on needs.

Timestamps below the safe point can no longer be read. Without `--safe-point`, it lies the store's
retention (`theflash retention`) before `resolved_ts`. It is never above a timestamp that a reader
or a pin still holds, nor above `resolved_ts`, and never goes back. What held it back is printed.
A writer that runs is asked to do it.
"""

import argparse

from pyspark_theflash.cli.command import LONG_MS, add_command, run_command
from pyspark_theflash.cli.jobs.arguments import timestamp
from pyspark_theflash.storage.store.command import CollectOrder, Verb


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `gc`."""
    add_command(parser, LONG_MS)
    parser.add_argument(
        "--safe-point",
        type=timestamp,
        metavar="TS",
        help="keep what can be read from here on (default: by the store's retention)",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print what would be dropped, and drop nothing"
    )


def run(arguments: argparse.Namespace) -> int:
    """Do it, or have it done."""
    order = CollectOrder(arguments.safe_point, arguments.dry_run)
    return run_command(arguments, Verb.GC, order.to_text())
