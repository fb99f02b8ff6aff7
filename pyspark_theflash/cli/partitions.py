"""List, add and remove the folders that hold a store's files: its partitions.

Partition 0 is the store's own data folder, and takes what is written until a region is moved or
copied to another one. A folder on another disk lets a store outgrow its disk. The store and its
partitions belong together: back them up together. A writer that runs is asked to do it.
"""

import argparse
from dataclasses import asdict
from pathlib import Path

from pyspark_theflash.base.errors import UsageError
from pyspark_theflash.cli.command import SHORT_MS, add_command, run_command
from pyspark_theflash.cli.jobs.arguments import add_json
from pyspark_theflash.cli.reader import opened_reader
from pyspark_theflash.cli.show import print_json, print_table
from pyspark_theflash.net.address import is_address
from pyspark_theflash.storage.store.command import Verb


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `partitions`."""
    add_command(parser, SHORT_MS)
    add_json(parser)
    change = parser.add_mutually_exclusive_group()
    change.add_argument("--add", type=Path, metavar="FOLDER", help="an empty folder")
    change.add_argument(
        "--remove", type=int, metavar="PARTITION", help="one that no region is in any more"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print a line a partition, or change them."""
    if is_address(arguments.store):
        raise UsageError("partitions are folders of the machine that has the store: run it there")
    if arguments.add is not None:
        return run_command(arguments, Verb.ADD_PARTITION, str(arguments.add.absolute()))
    if arguments.remove is not None:
        return run_command(arguments, Verb.REMOVE_PARTITION, max(arguments.remove, 0))
    with opened_reader(Path(arguments.store)) as (_, engine):
        found = [asdict(each) for each in engine.partitions(engine.read([]))]
    if arguments.json:
        print_json({"partitions": found})
    else:
        header = ["partition", "files", "bytes", "folder", "fault"]
        print_table(header, ([_shown(each[name]) for name in header] for each in found))
    return 0


def _shown(value: int | str | None) -> str:
    return "" if value is None else str(value)
