"""Run a query over the tables of a store, all as of one timestamp and called DB.TABLE.

The SQL is DuckDB's, and it reads: SELECT, DESCRIBE, SHOW, SUMMARIZE, EXPLAIN. Only the tables and
columns that it names are read. What differs from TiDB: texts compare and sort by their bytes,
whatever their collation; ENUM, SET and JSON are texts, BIT is bytes, TIME is an interval; x / 0 and
the like are DuckDB's; the average of decimals is a double. TIMESTAMPs are in UTC. A result that
would not be exact (an overflow, a DECIMAL of more than 38 digits) is an error.

Formats: `table` for people; `jsonl`, where a row is one JSON array of strings, null, and
{"x":"hex"} for bytes; `arrow`, an Arrow IPC stream; `parquet`, a file. With `--output` the rows go
into a new file, which is there when it is whole. An existing file is not overwritten.
"""

import argparse
import io
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from typing import IO

import pyarrow as pa

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.cli.jobs.arguments import add_at, add_store, seconds
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
from pyspark_theflash.read.plan.snapshot import open_snapshot
from pyspark_theflash.read.present import Presentation, ZeroDates
from pyspark_theflash.read.sql.connection import QueryLimits
from pyspark_theflash.read.sql.sql import SqlResult
from pyspark_theflash.read.sql.texts import result_texts
from pyspark_theflash.tidb.codec.jsonl import format_jsonl


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `sql`."""
    add_store(parser)
    parser.add_argument("query", metavar="QUERY", help="one statement that reads")
    add_at(parser)
    add_wait(parser)
    parser.add_argument(
        "--zero-dates",
        choices=[choice.value for choice in ZeroDates],
        default=ZeroDates.RAISE.value,
        help="what becomes of dates that no calendar has, as 0000-00-00 (default: raise; string: "
        "all dates are texts)",
    )
    parser.add_argument(
        "--memory",
        type=_megabytes,
        default=QueryLimits().memory_mb,
        metavar="MB",
        help="how much memory the query may take (default: %(default)s)",
    )
    parser.add_argument(
        "--timeout", type=seconds, metavar="S", help="stop the query after so many seconds"
    )
    add_output(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the rows, or write them into a file."""
    check_output(arguments)
    fs, clock = LocalFileSystem(), SystemClock()
    wait_as_asked(arguments, clock, fs)
    limits = QueryLimits(memory_mb=arguments.memory, timeout_ms=arguments.timeout)
    presentation = Presentation(ZeroDates(arguments.zero_dates))
    with ExitStack() as stack:
        snapshot = stack.enter_context(open_snapshot(arguments.store, arguments.at))
        result = stack.enter_context(
            snapshot.sql(arguments.query, presentation=presentation, limits=limits)
        )
        if arguments.output is None:
            sys.stdout.flush()
            _write(arguments.format, result, sys.stdout.buffer)
        else:
            _write(arguments.format, result, stack.enter_context(new_file(arguments.output, fs)))
    return 0


def _write(form: str, result: SqlResult, out: IO[bytes]) -> None:
    if form in ("arrow", "parquet"):
        write_batches(form, result.schema, result, out, None)
        return
    text = io.TextIOWrapper(out, "utf-8", write_through=True)
    try:
        if form == "jsonl":
            for texts in _texts(result):
                text.writelines(f"{line}\n" for line in format_jsonl(texts))
        else:
            rows = (row for texts in _texts(result) for row in printable(texts))
            print_table(result.schema.names, rows, text)
    finally:
        text.detach()


def _texts(result: SqlResult) -> Iterator[list[pa.Array]]:
    return map(result_texts, result)


def _megabytes(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 1 << 20:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of megabytes")
    return int(text)
