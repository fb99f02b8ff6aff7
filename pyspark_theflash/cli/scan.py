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
from pathlib import Path
from typing import IO, Any, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from pyspark_theflash.cli.output import new_file
from pyspark_theflash.cli.show import print_table
from pyspark_theflash.clock import SystemClock
from pyspark_theflash.codec.arrow import arrow_type
from pyspark_theflash.codec.jsonl import format_jsonl
from pyspark_theflash.errors import UsageError
from pyspark_theflash.fs import LocalFileSystem
from pyspark_theflash.jobs.arguments import add_at, add_store, seconds
from pyspark_theflash.jobs.ticker import Ticker, ticking
from pyspark_theflash.planner.scan_plan import ScanPlan
from pyspark_theflash.planner.snapshot import Snapshot, open_snapshot
from pyspark_theflash.planner.wait import wait_until
from pyspark_theflash.schema.model import ROWID_NAME
from pyspark_theflash.types import TimeStamp


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
    parser.add_argument(
        "--wait",
        type=seconds,
        metavar="S",
        help="wait so many seconds until the timestamp can be read",
    )
    parser.add_argument("--format", choices=["table", "jsonl", "arrow", "parquet"], default="table")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="write a new file (needed for parquet)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the rows, or write them into a file."""
    if arguments.output is None and arguments.format == "parquet":
        raise UsageError("--format parquet needs --output FILE")
    if arguments.output is None and arguments.format == "arrow" and sys.stdout.isatty():
        raise UsageError("--format arrow is not for a terminal: give --output FILE, or a pipe")
    fs, clock = LocalFileSystem(), SystemClock()
    if arguments.wait is not None:
        deadline_ms = clock.boottime_ms() + arguments.wait
        wanted = TimeStamp(0) if arguments.at is None else arguments.at
        wait_until(arguments.store, wanted, deadline_ms, clock=clock, fs=fs)
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


def _columns(snapshot: Snapshot, arguments: argparse.Namespace) -> list[str] | None:
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
    form: str, snapshot: Snapshot, plan: ScanPlan, out: IO[bytes], ticker: Ticker | None
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


def _write_table(snapshot: Snapshot, plan: ScanPlan, out: TextIO, ticker: Ticker | None) -> None:
    rows = (row for texts in _noted(snapshot.texts(plan), ticker) for row in _printable(texts))
    print_table([c.name for c in plan.columns], rows, out)


def _write_batches(
    form: str, snapshot: Snapshot, plan: ScanPlan, out: IO[bytes], ticker: Ticker | None
) -> None:
    schema = pa.schema([(c.name, arrow_type(c.type)) for c in plan.columns])
    if form == "arrow":
        writer = pa.ipc.new_stream(out, schema)
    else:
        writer = pq.ParquetWriter(out, schema, compression="zstd", write_page_checksum=True)
    names = [c.name for c in plan.columns]
    rows = 0
    with writer:
        for batch in snapshot.scan(plan.table.full_name, names):
            writer.write_batch(batch)
            rows += batch.num_rows
            if ticker is not None:
                ticker.note(f"{rows:,} rows")


def _noted(batches: Iterator[list[pa.Array]], ticker: Ticker | None) -> Iterator[list[pa.Array]]:
    rows = 0
    for columns in batches:
        yield columns
        rows += len(columns[0])
        if ticker is not None:
            ticker.note(f"{rows:,} rows")


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
