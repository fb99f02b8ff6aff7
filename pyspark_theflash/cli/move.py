"""Have a region's files in another partition, as `theflash partitions` lists them.

It is one step, while reads go on. What is written of the region later goes there, too. A writer
that runs is asked to do it.
"""

import argparse

from pyspark_theflash.base.types import PhysicalTableID, RegionID
from pyspark_theflash.cli.command import LONG_MS, add_command, run_command
from pyspark_theflash.storage.store.command import MoveOrder, Verb


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `move`, and of `copy`."""
    add_command(parser, LONG_MS)
    parser.add_argument("physical_id", type=int, metavar="PHYSICAL_ID", help="whose region")
    parser.add_argument("region_id", type=int, metavar="REGION_ID", help="which")
    parser.add_argument("partition", type=int, metavar="PARTITION", help="where to")


def run(arguments: argparse.Namespace) -> int:
    """Do it, or have it done."""
    return run_command(arguments, Verb.MOVE, move_order(arguments))


def move_order(arguments: argparse.Namespace) -> str:
    """What was asked for, as a command's argument."""
    return MoveOrder(
        PhysicalTableID(arguments.physical_id),
        RegionID(arguments.region_id),
        arguments.partition,
    ).to_text()
