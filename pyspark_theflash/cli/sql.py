"""Run a query over the tables of a store, all at one timestamp and named DB.TABLE.

The SQL is DuckDB's, read only: SELECT, DESCRIBE, SHOW, SUMMARIZE, EXPLAIN. Only the named tables
and columns are read. Differences from TiDB: strings compare and sort by bytes, not by collation;
ENUM, SET and JSON are strings, BIT is binary, TIME is an interval; x / 0 and the like follow
DuckDB; the average of decimals is a double. TIMESTAMPs are in UTC. A result that would not be exact
(an overflow, a DECIMAL of more than 38 digits) is an error. With a server, the query runs in this
process, on rows that the server sends.

Formats: `table` for people; `csv`, with a header, where NULL is empty, an empty string "" and bytes
0xHEX; `jsonl`, one JSON array per row, of strings, null, and {"x":"hex"} for bytes; `arrow`, an
Arrow IPC stream; `parquet`, a file. With `--output`, the rows are written to a
new file, which appears when it is complete. An existing file is not overwritten.
"""

import argparse
from contextlib import ExitStack

from pyspark_theflash.cli.jobs.arguments import add_at, add_seconds, mebibytes
from pyspark_theflash.cli.place import add_place
from pyspark_theflash.cli.rows import (
    add_output,
    add_wait,
    check_output,
    opened_snapshot,
    write_rows,
)
from pyspark_theflash.read.present import ZeroDates
from pyspark_theflash.read.sql.process import run_confined
from pyspark_theflash.read.sql.session import QueryLimits
from pyspark_theflash.read.sql.sql import SqlResult
from pyspark_theflash.read.sql.texts import result_texts
from pyspark_theflash.service.client.sql_tables import ServedTables
from pyspark_theflash.service.wire import message


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `sql`."""
    add_place(parser)
    parser.add_argument("query", metavar="QUERY", help="one reading statement")
    add_at(parser)
    add_wait(parser)
    parser.add_argument(
        "--zero-dates",
        choices=[choice.value for choice in ZeroDates],
        default=ZeroDates.RAISE.value,
        help="how to return dates that do not exist, such as 0000-00-00 (default: raise; string: "
        "all dates as strings)",
    )
    parser.add_argument(
        "--memory",
        type=mebibytes,
        default=QueryLimits().memory_mb << 20,
        metavar="MIB",
        help=f"memory limit of the query (default: {QueryLimits().memory_mb})",
    )
    add_seconds(parser, "--timeout", "stop the query after S seconds")
    add_output(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the rows, or write them to a file."""
    check_output(arguments)
    with ExitStack() as stack:
        result = stack.enter_context(_result(arguments, stack))
        write_rows(arguments, result.schema, result, result_texts)
    return 0


def _result(arguments: argparse.Namespace, stack: ExitStack) -> SqlResult:
    """Start the query on the rows of a folder or a server."""
    limits = QueryLimits(memory_mb=arguments.memory >> 20, timeout_ms=arguments.timeout)
    zero_dates: str = arguments.zero_dates
    store, pinned = stack.enter_context(opened_snapshot(arguments))
    tables = ServedTables(store, pinned.handle, message.Presentation(zero_dates))
    return run_confined(arguments.query, tables, (), limits)
