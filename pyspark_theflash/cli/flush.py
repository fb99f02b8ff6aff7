"""Distribute the recently written rows of a store's tables among their regions.

A writer that runs is asked to do it.
"""

import argparse

from pyspark_theflash.cli.command import LONG_MS, add_command, run_command
from pyspark_theflash.storage.store.command import Verb


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `flush`."""
    add_command(parser, LONG_MS)


def run(arguments: argparse.Namespace) -> int:
    """Do it, or have it done."""
    return run_command(arguments, Verb.FLUSH)
