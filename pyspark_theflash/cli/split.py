"""Split a region of a table in two, as `theflash regions` lists them.

It is one step, while reads go on, and stays so: compaction does not merge the halves. A writer that
runs is asked to do it.
"""

import argparse

from pyspark_theflash.base.types import PhysicalTableID, RegionID
from pyspark_theflash.cli.command import LONG_MS, add_command, run_command
from pyspark_theflash.storage.store.command import SplitOrder, Verb, handle_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `split`."""
    add_command(parser, LONG_MS)
    parser.add_argument("physical_id", type=int, metavar="PHYSICAL_ID", help="whose region")
    parser.add_argument("region_id", type=int, metavar="REGION_ID", help="which")
    parser.add_argument(
        "at",
        metavar="HANDLE",
        help="the first handle of the upper half: a number, or 0x and a key's bytes in hex",
    )


def run(arguments: argparse.Namespace) -> int:
    """Do it, or have it done."""
    order = SplitOrder(
        PhysicalTableID(arguments.physical_id),
        RegionID(arguments.region_id),
        handle_of(arguments.at),
    )
    return run_command(arguments, Verb.SPLIT, order.to_text())
