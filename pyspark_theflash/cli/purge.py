"""Remove all rows of a region, as `theflash regions` lists them, from disk.

They are gone at every timestamp: reads that reach into its range fail from then on, whatever is
written there later, and others go on. A scan that runs keeps its files. It is one step, and cannot
be undone. A writer that runs is asked to do it.
"""

import argparse

from pyspark_theflash.base.types import PhysicalTableID, RegionID
from pyspark_theflash.cli.command import LONG_MS, add_command, run_command
from pyspark_theflash.storage.store.command import PurgeOrder, Verb


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `purge`."""
    add_command(parser, LONG_MS)
    parser.add_argument("physical_id", type=int, metavar="PHYSICAL_ID", help="whose region")
    parser.add_argument("region_id", type=int, metavar="REGION_ID", help="which")


def run(arguments: argparse.Namespace) -> int:
    """Do it, or have it done."""
    order = PurgeOrder(PhysicalTableID(arguments.physical_id), RegionID(arguments.region_id))
    return run_command(arguments, Verb.PURGE, order.to_text())
