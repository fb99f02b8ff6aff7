"""List the tables of a store at a timestamp, by default the newest readable one."""

import argparse
from typing import Any

from pyspark_theflash.base.timestamp import shown
from pyspark_theflash.cli.jobs.arguments import add_at, add_json
from pyspark_theflash.cli.place import add_place, opened
from pyspark_theflash.cli.show import print_json, print_table
from pyspark_theflash.service.wire.message import Moment, TableName


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `tables`."""
    add_place(parser)
    add_at(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print a line per table, and the range of readable timestamps."""
    with opened(arguments) as store:
        status = store.status()
        if status.resolved_ts is None:
            if arguments.json:
                print_json({"oldest_ts": None, "resolved_ts": None, "tables": []})
            else:
                print("the store is empty; fill it with: theflash writer")
            return 0
        tables = store.tables(Moment(arguments.at)).tables
    if arguments.json:
        bounds = {"oldest_ts": status.oldest_ts, "resolved_ts": status.resolved_ts}
        print_json({**bounds, "tables": [_described(table) for table in tables]})
    else:
        lines = ([t.name, str(t.id), str(t.columns), str(t.partitions)] for t in tables)
        print_table(["table", "table_id", "columns", "partitions"], lines)
        for table in tables:
            if table.not_loaded:
                print(f"not readable: {table.not_loaded}")
        print(f"readable from {shown(status.oldest_ts or 0)} to {shown(status.resolved_ts)}")
    return 0


def _described(table: TableName) -> dict[str, Any]:
    return {
        "table": table.name,
        "table_id": table.id,
        "columns": table.columns,
        "partitions": table.partitions,
        "not_loaded": table.not_loaded or None,
    }
