"""Merge two neighbouring regions of a table, as `theflash regions` lists them.

It is one step, while reads go on. A writer that runs is asked to do it.
"""

import argparse

from pyspark_theflash.base.types import PhysicalTableID, RegionID
from pyspark_theflash.cli.command import LONG_MS, add_command, run_command
from pyspark_theflash.storage.store.command import MergeOrder, Verb


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `merge`."""
    add_command(parser, LONG_MS)
    parser.add_argument("physical_id", type=int, metavar="PHYSICAL_ID", help="whose regions")
    parser.add_argument("left_id", type=int, metavar="LEFT_ID", help="the lower one")
    parser.add_argument("right_id", type=int, metavar="RIGHT_ID", help="the one behind it")


def run(arguments: argparse.Namespace) -> int:
    """Do it, or have it done."""
    order = MergeOrder(
        PhysicalTableID(arguments.physical_id),
        RegionID(arguments.left_id),
        RegionID(arguments.right_id),
    )
    return run_command(arguments, Verb.MERGE, order.to_text())
