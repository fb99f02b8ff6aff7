"""Set how much history garbage collection keeps: what can be read stays readable that long.

It counts back from `resolved_ts`. A writer that runs is asked to do it.
"""

import argparse

from pyspark_theflash.cli.command import SHORT_MS, add_command, run_command
from pyspark_theflash.cli.jobs.arguments import seconds
from pyspark_theflash.storage.store.command import Verb


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `retention`."""
    add_command(parser, SHORT_MS)
    parser.add_argument("seconds", type=seconds, metavar="SECONDS", help="a day is 86400")


def run(arguments: argparse.Namespace) -> int:
    """Set it, or have it set."""
    return run_command(arguments, Verb.RETENTION, arguments.seconds)
