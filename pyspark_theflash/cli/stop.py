"""End a store's writer after what it is at.

A writer that runs is asked to do it.
"""

import argparse

from pyspark_theflash.cli.command import SHORT_MS, add_command, run_command
from pyspark_theflash.storage.store.command import Verb


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `stop`."""
    add_command(parser, SHORT_MS)


def run(arguments: argparse.Namespace) -> int:
    """Do it, or have it done."""
    return run_command(arguments, Verb.STOP)
