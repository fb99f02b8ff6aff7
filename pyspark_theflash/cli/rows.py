"""Options and output of the commands that print rows: `scan` and `sql`."""

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from pyspark_theflash.base.errors import UsageError
from pyspark_theflash.cli.jobs.arguments import seconds
from pyspark_theflash.cli.jobs.ticker import Ticker
from pyspark_theflash.cli.place import opened
from pyspark_theflash.service.client.theflash import SHORT_MS, TheFlash
from pyspark_theflash.service.wire.message import Moment, Snapshot

_ANY_AGE_MS: Final = 1 << 48


def add_wait(parser: argparse.ArgumentParser) -> None:
    """Add `--wait`."""
    parser.add_argument(
        "--wait",
        type=seconds,
        metavar="S",
        help="wait up to S seconds until the timestamp can be read",
    )


def moment_of(arguments: argparse.Namespace) -> Moment:
    """Return the timestamp to read at, from `--at` and `--wait`."""
    if arguments.wait is None:
        return Moment(arguments.at)
    # Without a timestamp, `--wait` waits until the store can be read at all.
    staleness_ms = _ANY_AGE_MS if arguments.at is None else None
    return Moment(arguments.at, staleness_ms, arguments.wait)


@contextmanager
def opened_snapshot(arguments: argparse.Namespace) -> Iterator[tuple[TheFlash, Snapshot]]:
    """Open the store of the command line, and a snapshot for the duration of the block."""
    moment = moment_of(arguments)
    with opened(arguments) as store:
        snapshot = store.snapshot(moment, timeout_ms=SHORT_MS + moment.wait_ms)
        try:
            yield store, snapshot
        finally:
            store.release(snapshot)


def add_output(parser: argparse.ArgumentParser) -> None:
    """Add `--format` and `--output`."""
    parser.add_argument("--format", choices=["table", "jsonl", "arrow", "parquet"], default="table")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="write a new file (needed for parquet)"
    )


def check_output(arguments: argparse.Namespace) -> None:
    """Raise `UsageError` if the format cannot be written to the output."""
    if arguments.output is None and arguments.format == "parquet":
        raise UsageError("--format parquet needs --output FILE")
    if arguments.output is None and arguments.format == "arrow" and sys.stdout.isatty():
        raise UsageError(
            "--format arrow cannot be written to a terminal: use --output FILE or a pipe"
        )


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
    # Each line is a row; control characters would break it.
    return value if value.isprintable() else value.encode("unicode_escape").decode()
