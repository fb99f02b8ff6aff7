"""Set how often a store's writer looks for new input: at once if it runs, and from then on.

A writer that runs is asked to do it.
"""

import argparse

from pyspark_theflash.cli.command import SHORT_MS, add_command, run_command
from pyspark_theflash.cli.jobs.arguments import seconds
from pyspark_theflash.storage.store.command import Verb


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `interval`."""
    add_command(parser, SHORT_MS)
    parser.add_argument("seconds", type=seconds, metavar="SECONDS", help="0.01 to a day")


def run(arguments: argparse.Namespace) -> int:
    """Set it, or have it set."""
    return run_command(arguments, Verb.INTERVAL, arguments.seconds)
