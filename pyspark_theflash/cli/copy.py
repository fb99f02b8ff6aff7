"""Have a region's files in one more partition, as `theflash partitions` lists them.

Scans read another copy of a file where one is damaged or its disk is gone. What is written of the
region later is written to all of its partitions. It is one step, while reads go on; `theflash move`
ends it. A writer that runs is asked to do it.
"""

import argparse

from pyspark_theflash.cli.command import run_command
from pyspark_theflash.cli.move import add_arguments, move_order
from pyspark_theflash.storage.store.command import Verb

__all__ = ["add_arguments", "run"]


def run(arguments: argparse.Namespace) -> int:
    """Do it, or have it done."""
    return run_command(arguments, Verb.COPY, move_order(arguments))
