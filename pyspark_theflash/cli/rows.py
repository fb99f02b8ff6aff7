"""What commands that hand out rows have in common: `scan` and `sql`."""

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from pyspark_theflash.base.clock import Clock
from pyspark_theflash.base.errors import UsageError
from pyspark_theflash.base.fs import FileSystem
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.cli.jobs.arguments import seconds
from pyspark_theflash.cli.jobs.ticker import Ticker
from pyspark_theflash.read.plan.wait import wait_until


def add_wait(parser: argparse.ArgumentParser) -> None:
    """The option of commands that can wait for their timestamp."""
    parser.add_argument(
        "--wait",
        type=seconds,
        metavar="S",
        help="wait so many seconds until the timestamp can be read",
    )


def wait_as_asked(arguments: argparse.Namespace, clock: Clock, fs: FileSystem) -> None:
    """Do what `--wait` says. Raises `NotCaughtUpError`."""
    if arguments.wait is not None:
        deadline_ms = clock.boottime_ms() + arguments.wait
        wanted = TimeStamp(0) if arguments.at is None else arguments.at
        wait_until(arguments.store, wanted, deadline_ms, clock=clock, fs=fs)


def add_output(parser: argparse.ArgumentParser) -> None:
    """The options that say in which form the rows go where."""
    parser.add_argument("--format", choices=["table", "jsonl", "arrow", "parquet"], default="table")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="write a new file (needed for parquet)"
    )


def check_output(arguments: argparse.Namespace) -> None:
    """Raise `UsageError` for a form that cannot go where it would."""
    if arguments.output is None and arguments.format == "parquet":
        raise UsageError("--format parquet needs --output FILE")
    if arguments.output is None and arguments.format == "arrow" and sys.stdout.isatty():
        raise UsageError("--format arrow is not for a terminal: give --output FILE, or a pipe")


def write_batches(
    form: str,
    schema: pa.Schema,
    batches: Iterable[pa.RecordBatch],
    out: IO[bytes],
    ticker: Ticker | None,
) -> None:
    """Write batches of `schema` as an Arrow stream or a Parquet file."""
    if form == "arrow":
        writer = pa.ipc.new_stream(out, schema)
    else:
        writer = pq.ParquetWriter(out, schema, compression="zstd", write_page_checksum=True)
    rows = 0
    with writer:
        for batch in batches:
            writer.write_batch(batch)
            rows += batch.num_rows
            if ticker is not None:
                ticker.note(f"{rows:,} rows")


def printable(texts: Sequence["pa.Array[Any]"]) -> Iterator[list[str]]:
    """Columns of texts, or of bytes, as rows for a terminal."""
    columns = [[_show(value) for value in array.to_pylist()] for array in texts]
    return (list(row) for row in zip(*columns, strict=True))


def _show(value: str | bytes | None) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, bytes):
        return "0x" + value.hex()
    # A line of output is a row: control characters would break it.
    return value if value.isprintable() else value.encode("unicode_escape").decode()
