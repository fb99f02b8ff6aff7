"""Run a query over the tables of a store, all at one timestamp and named DB.TABLE; or write some.

The SQL is DuckDB's: SELECT, DESCRIBE, SHOW, SUMMARIZE, EXPLAIN. Only the named tables
and columns are read. Differences from TiDB: strings compare and sort by bytes, not by collation;
ENUM, SET and JSON are strings, BIT is binary, TIME is an interval; x / 0 and the like follow
DuckDB; the average of decimals is a double. TIMESTAMPs are in UTC. A result that would not be exact
(an overflow, a DECIMAL of more than 38 digits) is an error. With a server, the query runs in this
process, on rows that the server sends.

CREATE TABLE, DROP TABLE, INSERT, UPDATE and DELETE write tables that are not replicated, with
TiDB's types, and its errors of strict mode for values that a column cannot hold. Each statement is
one commit, at a new timestamp, which is printed with the number of rows. Other writers wait
meanwhile, and a statement waits for them, up to `--wait` seconds (60). A table that a stream writes
is rejected.

Formats: `table` for people; `csv`, with a header, where NULL is empty, an empty string "" and bytes
0xHEX; `jsonl`, one JSON array per row, of strings, null, and {"x":"hex"} for bytes; `arrow`, an
Arrow IPC stream; `parquet`, a file. With `--output`, the rows are written to a
new file, which appears when it is complete. An existing file is not overwritten.
"""

import argparse
from collections.abc import Callable
from contextlib import ExitStack

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.errors import UsageError
from pyspark_theflash.base.timestamp import shown
from pyspark_theflash.cli.jobs.arguments import (
    add_at,
    add_seconds,
    add_tls,
    mebibytes,
    tls_files,
)
from pyspark_theflash.cli.place import add_place, opened
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
from pyspark_theflash.read.sql.statement import parse_statement
from pyspark_theflash.read.sql.texts import result_texts
from pyspark_theflash.service.client.sql_tables import ServedTables
from pyspark_theflash.service.client.statement import WAIT_MS, execute_sql
from pyspark_theflash.service.wire import message


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `sql`."""
    add_place(parser)
    parser.add_argument("query", metavar="QUERY", help="one statement")
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
    parser.add_argument(
        "--pd",
        metavar="HOST:PORT,...",
        help="take the timestamp of a writing statement from PD (default: the store's own)",
    )
    add_tls(parser, "pd-")
    add_output(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the rows, or write them to a file; or print what a statement has written."""
    check_output(arguments)
    if parse_statement(arguments.query) is not None:
        return _execute(arguments)
    with ExitStack() as stack:
        result = stack.enter_context(_result(arguments, stack))
        write_rows(arguments, result.schema, result, result_texts)
    return 0


def _execute(arguments: argparse.Namespace) -> int:
    """Execute a writing statement, and print the number of its rows and its timestamp."""
    if arguments.at is not None:
        raise UsageError("--at is for queries: a statement reads the newest rows")
    if arguments.output is not None:
        raise UsageError("--output is for queries: a statement has no rows to return")
    with ExitStack() as stack:
        store = stack.enter_context(opened(arguments))
        done = execute_sql(
            store,
            arguments.query,
            limits=_limits(arguments),
            wait_ms=WAIT_MS if arguments.wait is None else arguments.wait,
            least_ts=_pd_ts(arguments, stack),
        )
    written = "nothing to write" if done.commit_ts is None else f"at {shown(done.commit_ts)}"
    print(f"{done.rows} rows, {written}")
    return 0


def _pd_ts(arguments: argparse.Namespace, stack: ExitStack) -> Callable[[], int]:
    """Return the source of timestamps of the command line."""
    if arguments.pd is None:
        return lambda: 0
    # Imports gRPC.
    from pyspark_theflash.cluster.pd import PDClient

    addresses, tls = tuple(arguments.pd.split(",")), tls_files(arguments, "pd_")
    return stack.enter_context(PDClient(addresses, tls, clock=SystemClock())).tso


def _limits(arguments: argparse.Namespace) -> QueryLimits:
    return QueryLimits(memory_mb=arguments.memory >> 20, timeout_ms=arguments.timeout)


def _result(arguments: argparse.Namespace, stack: ExitStack) -> SqlResult:
    """Start the query on the rows of a folder or a server."""
    zero_dates: str = arguments.zero_dates
    store, pinned = stack.enter_context(opened_snapshot(arguments))
    tables = ServedTables(store, pinned.handle, message.Presentation(zero_dates))
    return run_confined(arguments.query, tables, (), _limits(arguments))
