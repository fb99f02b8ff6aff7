"""Print a table's rows as of a timestamp, in no particular order.

Values are in TiDB's own text form at time zone +00:00. With `--format jsonl` a row is one JSON
array: strings, null, and {"x":"hex"} for binary strings and BIT.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pyspark_theflash.cli.show import print_table
from pyspark_theflash.codec.jsonl import format_jsonl
from pyspark_theflash.jobs.arguments import tso
from pyspark_theflash.planner.snapshot import open_snapshot


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `scan`."""
    parser.add_argument("store", type=Path, metavar="STORE", help="the store's folder")
    parser.add_argument("table", metavar="DB.TABLE")
    parser.add_argument(
        "--at", type=tso, metavar="TSO", help="the timestamp to read at (default: the newest)"
    )
    parser.add_argument(
        "--columns", metavar="a,b", help="columns by name, in output order (default: all)"
    )
    parser.add_argument("--format", choices=["table", "jsonl"], default="table")


def run(arguments: argparse.Namespace) -> int:
    """Print the rows."""
    columns = arguments.columns.split(",") if arguments.columns else None
    with open_snapshot(arguments.store, arguments.at) as snapshot:
        plan = snapshot.plan(arguments.table, columns)
        if arguments.format == "jsonl":
            for texts in snapshot.texts(plan):
                sys.stdout.writelines(f"{line}\n" for line in format_jsonl(texts))
        else:
            rows = [row for texts in snapshot.texts(plan) for row in _printable(texts)]
            print_table([c.name for c in plan.columns], rows)
    return 0


def _printable(texts: list[Any]) -> Iterator[list[str]]:
    columns = [[_show(value) for value in array.to_pylist()] for array in texts]
    return (list(row) for row in zip(*columns, strict=True))


def _show(value: str | bytes | None) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, bytes):
        return "0x" + value.hex()
    # A line of output is a row: control characters would break it.
    return value if value.isprintable() else value.encode("unicode_escape").decode()
