"""Print a table's rows as of a timestamp, in no particular order.

Formats: `table` for people; `jsonl`, where a row is one JSON array of strings, null, and
{"x":"hex"} for binary strings and BIT; `arrow`, an Arrow IPC stream; `parquet`, a file. The values
of the first two are in TiDB's own text form at time zone +00:00, those of the others have types.

With `--output` the rows go into a new file, which is there when it is whole. An existing file is
not overwritten.
"""

import argparse
import io
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from typing import IO, TextIO

import pyarrow as pa

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.errors import UsageError
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.cli.jobs.arguments import add_at, add_store
from pyspark_theflash.cli.jobs.ticker import Ticker, ticking
from pyspark_theflash.cli.output import new_file
from pyspark_theflash.cli.rows import (
    add_output,
    add_wait,
    check_output,
    printable,
    wait_as_asked,
    write_batches,
)
from pyspark_theflash.cli.show import print_table
from pyspark_theflash.read.plan.scan_plan import ScanPlan
from pyspark_theflash.read.plan.snapshot import ReadSnapshot, open_snapshot
from pyspark_theflash.tidb.codec.jsonl import format_jsonl
from pyspark_theflash.tidb.schema.model import ROWID_NAME


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `scan`."""
    add_store(parser)
    parser.add_argument("table", metavar="DB.TABLE")
    add_at(parser)
    parser.add_argument(
        "--columns", metavar="a,b", help="columns by name, in output order (default: all)"
    )
    parser.add_argument(
        "--rowid",
        action="store_true",
        help="add _tidb_rowid as the last column, where the table has one",
    )
    add_wait(parser)
    add_output(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the rows, or write them into a file."""
    check_output(arguments)
    fs, clock = LocalFileSystem(), SystemClock()
    wait_as_asked(arguments, clock, fs)
    with ExitStack() as stack:
        snapshot = stack.enter_context(open_snapshot(arguments.store, arguments.at))
        plan = snapshot.plan(arguments.table, _columns(snapshot, arguments))
        if arguments.output is None:
            sys.stdout.flush()
            _write(arguments.format, snapshot, plan, sys.stdout.buffer, None)
        else:
            file = stack.enter_context(new_file(arguments.output, fs))
            ticker = stack.enter_context(ticking("scan", clock))
            _write(arguments.format, snapshot, plan, file, ticker)
    return 0


def _columns(snapshot: ReadSnapshot, arguments: argparse.Namespace) -> list[str] | None:
    """The columns by name, or None for all that `SELECT *` shows."""
    named = arguments.columns.split(",") if arguments.columns else None
    if named and len({name.lower() for name in named}) < len(named):
        raise UsageError("--columns: names a column twice")
    if not arguments.rowid:
        return named
    table = snapshot.table(arguments.table)
    names = [c.name for c in table.public_columns] if named is None else named
    wanted = table.has_rowid and ROWID_NAME not in (name.lower() for name in names)
    return [*names, ROWID_NAME] if wanted else names


def _write(
    form: str, snapshot: ReadSnapshot, plan: ScanPlan, out: IO[bytes], ticker: Ticker | None
) -> None:
    if form in ("arrow", "parquet"):
        _write_batches(form, snapshot, plan, out, ticker)
        return
    text = io.TextIOWrapper(out, "utf-8", write_through=True)
    try:
        if form == "jsonl":
            for texts in _noted(snapshot.texts(plan), ticker):
                text.writelines(f"{line}\n" for line in format_jsonl(texts))
        else:
            _write_table(snapshot, plan, text, ticker)
    finally:
        text.detach()


def _write_table(
    snapshot: ReadSnapshot, plan: ScanPlan, out: TextIO, ticker: Ticker | None
) -> None:
    rows = (row for texts in _noted(snapshot.texts(plan), ticker) for row in printable(texts))
    print_table([c.name for c in plan.columns], rows, out)


def _write_batches(
    form: str, snapshot: ReadSnapshot, plan: ScanPlan, out: IO[bytes], ticker: Ticker | None
) -> None:
    names = [c.name for c in plan.columns]
    batches = snapshot.scan(plan.table.full_name, names)
    write_batches(form, plan.schema, batches, out, ticker)


def _noted(batches: Iterator[list[pa.Array]], ticker: Ticker | None) -> Iterator[list[pa.Array]]:
    rows = 0
    for columns in batches:
        yield columns
        rows += len(columns[0])
        if ticker is not None:
            ticker.note(f"{rows:,} rows")
