"""List, add and remove the folders that hold a store's files: its partitions.

Partition 0 is the store's own data folder, and holds a region's files until the region is moved or
copied to another one. A folder on another disk lets a store outgrow its disk. Back up a store
together with its partitions. A running writer executes the command.
"""

import argparse
from dataclasses import asdict
from pathlib import Path

from pyspark_theflash.base.errors import UsageError
from pyspark_theflash.cli.command import SHORT_MS, add_command, run_command
from pyspark_theflash.cli.jobs.arguments import add_json
from pyspark_theflash.cli.place import opened_reader
from pyspark_theflash.cli.show import cell, print_json, print_table
from pyspark_theflash.net.address import is_address
from pyspark_theflash.storage.store.command import Verb


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `partitions`."""
    add_command(parser, SHORT_MS)
    add_json(parser)
    change = parser.add_mutually_exclusive_group()
    change.add_argument("--add", type=Path, metavar="FOLDER", help="an empty folder")
    change.add_argument(
        "--remove", type=int, metavar="PARTITION", help="a partition that has no region"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print a line per partition, or change them."""
    if is_address(arguments.store):
        raise UsageError("partitions are folders on the store's machine: run the command there")
    if arguments.add is not None:
        return run_command(arguments, Verb.ADD_PARTITION, str(arguments.add.absolute()))
    if arguments.remove is not None:
        return run_command(arguments, Verb.REMOVE_PARTITION, max(arguments.remove, 0))
    with opened_reader(Path(arguments.store)) as engine:
        partitions = [asdict(each) for each in engine.partitions(engine.read([]))]
    if arguments.json:
        print_json({"partitions": partitions})
    else:
        header = ["partition", "files", "bytes", "folder", "fault"]
        print_table(header, ([cell(each[name]) for name in header] for each in partitions))
    return 0
