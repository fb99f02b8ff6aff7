"""List the tables of a store, as of the newest timestamp it can answer."""

import argparse

from pyspark_theflash.cli.show import print_json, print_table
from pyspark_theflash.jobs.arguments import add_json, add_store
from pyspark_theflash.planner.snapshot import open_snapshot, read_progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `tables`."""
    add_store(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print a line a table, and the timestamps that can be read."""
    progress = read_progress(arguments.store)
    if progress is None:
        if arguments.json:
            print_json({"oldest_ts": None, "resolved_ts": None, "tables": []})
        else:
            print("the store is empty; fill it with: theflash writer")
        return 0
    with open_snapshot(arguments.store) as snapshot:
        tables = [
            {
                "table": t.full_name,
                "table_id": t.id,
                "columns": len(t.public_columns),
                "partitions": len(t.physical_ids),
            }
            for t in snapshot.tables()
        ]
    if arguments.json:
        bounds = {"oldest_ts": progress.oldest_ts, "resolved_ts": progress.resolved_ts}
        print_json({**bounds, "tables": tables})
    else:
        header = ["table", "table_id", "columns", "partitions"]
        print_table(header, ([str(table[name]) for name in header] for table in tables))
        print(f"readable from {progress.oldest_ts} to {progress.resolved_ts}")
    return 0
