"""List the tables of a store, as of the newest timestamp it can answer."""

import argparse

from pyspark_theflash.cli.place import add_place, opened
from pyspark_theflash.cli.show import print_json, print_table
from pyspark_theflash.jobs.arguments import add_json
from pyspark_theflash.timestamp import shown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `tables`."""
    add_place(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print a line a table, and the timestamps that can be read."""
    with opened(arguments) as store:
        status = store.status()
        if status.resolved_ts is None:
            if arguments.json:
                print_json({"oldest_ts": None, "resolved_ts": None, "tables": []})
            else:
                print("the store is empty; fill it with: theflash writer")
            return 0
        tables = [
            {
                "table": table.name,
                "table_id": table.id,
                "columns": table.columns,
                "partitions": table.partitions,
                "not_loaded": table.not_loaded or None,
            }
            for table in store.tables().tables
        ]
    if arguments.json:
        bounds = {"oldest_ts": status.oldest_ts, "resolved_ts": status.resolved_ts}
        print_json({**bounds, "tables": tables})
    else:
        header = ["table", "table_id", "columns", "partitions"]
        print_table(header, ([str(table[name]) for name in header] for table in tables))
        for table in tables:
            if table["not_loaded"]:
                print(f"not readable: {table['not_loaded']}")
        print(f"readable from {shown(status.oldest_ts or 0)} to {shown(status.resolved_ts)}")
    return 0
