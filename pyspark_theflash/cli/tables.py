"""List the tables of a store, as of the newest timestamp it can answer."""

import argparse
from pathlib import Path

from pyspark_theflash.cli.show import print_table
from pyspark_theflash.planner.snapshot import open_snapshot, read_progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `tables`."""
    parser.add_argument("store", type=Path, metavar="STORE", help="the store's folder")


def run(arguments: argparse.Namespace) -> int:
    """Print a line a table, and the timestamps that can be read."""
    progress = read_progress(arguments.store)
    if progress is None:
        print("the store is empty; fill it with: theflash writer")
        return 0
    with open_snapshot(arguments.store) as snapshot:
        rows = [
            [t.full_name, str(t.id), str(len(t.public_columns)), str(len(t.physical_ids))]
            for t in snapshot.tables()
        ]
    print_table(["table", "table_id", "columns", "partitions"], rows)
    print(f"readable from {progress.oldest_ts} to {progress.resolved_ts}")
    return 0
