"""Options and output of the commands that print rows: `scan` and `sql`."""

import argparse
import io
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain
from pathlib import Path
from typing import IO, Final

import pyarrow as pa
import pyarrow.parquet as pq

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.errors import UsageError
from pyspark_theflash.base.fs import FileSystem, LocalFileSystem
from pyspark_theflash.cli.jobs.arguments import add_seconds
from pyspark_theflash.cli.jobs.ticker import Ticker, ticking
from pyspark_theflash.cli.place import opened
from pyspark_theflash.cli.show import print_table
from pyspark_theflash.service.client.theflash import SHORT_MS, TheFlash
from pyspark_theflash.service.wire.message import Moment, Snapshot
from pyspark_theflash.storage.store.manifest import file_errors
from pyspark_theflash.tidb.codec.jsonl import format_jsonl

TEXT_FORMATS: Final = ("table", "csv", "jsonl")
_FORMATS: Final = (*TEXT_FORMATS, "arrow", "parquet")
_ANY_AGE_MS: Final = 1 << 48
_QUOTED_IN_CSV: Final = re.compile(r'[",\r\n]')


def add_wait(parser: argparse.ArgumentParser) -> None:
    """Add `--wait`."""
    add_seconds(parser, "--wait", "wait up to S seconds until the timestamp can be read")


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
    parser.add_argument("--format", choices=_FORMATS, default="table")
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


@contextmanager
def new_file(path: Path, fs: FileSystem) -> Iterator[IO[bytes]]:
    """Open a new file, which gets its name, durably, when the block ends without an error.

    Raises:
        UsageError: The path exists, or its folder does not.
        StoreFullError, EngineError: The file cannot be written.
    """
    if path.exists():
        raise UsageError(f"{path} already exists and is not overwritten")
    if not path.parent.is_dir():
        raise UsageError(f"the folder {path.parent} does not exist")
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with file_errors(path):
        try:
            with open(scratch, "xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            fs.rename(scratch, path)
        finally:
            scratch.unlink(missing_ok=True)


def write_rows(
    arguments: argparse.Namespace,
    schema: pa.Schema,
    batches: Iterable[pa.RecordBatch],
    texts_of: Callable[[pa.RecordBatch], Sequence[pa.Array]],
) -> None:
    """Write rows in the format and to the output of the options.

    Args:
        schema: the schema of `batches`.
        texts_of: converts a batch to columns of strings or bytes, for `TEXT_FORMATS`.
    """
    with ExitStack() as stack:
        if arguments.output is None:
            sys.stdout.flush()
            out: IO[bytes] = sys.stdout.buffer
        else:
            out = stack.enter_context(new_file(arguments.output, LocalFileSystem()))
            ticker = stack.enter_context(ticking(arguments.command, SystemClock()))
            batches = _noted(batches, ticker)
        if arguments.format not in TEXT_FORMATS:
            _write_batches(arguments.format, schema, batches, out)
            return
        text = io.TextIOWrapper(out, "utf-8", write_through=True)
        try:
            if arguments.format == "jsonl":
                for texts in map(texts_of, batches):
                    text.writelines(f"{line}\n" for line in format_jsonl(texts))
            elif arguments.format == "csv":
                text.write(",".join(map(_csv_field, schema.names)) + "\n")
                for texts in map(texts_of, batches):
                    rows = _rows(texts, _csv_field, "")
                    text.writelines(",".join(row) + "\n" for row in rows)
            else:
                each = (_rows(texts, _one_line, "NULL") for texts in map(texts_of, batches))
                print_table(schema.names, chain.from_iterable(each), text)
        finally:
            text.detach()


def _write_batches(
    form: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch], out: IO[bytes]
) -> None:
    if form == "arrow":
        writer = pa.ipc.new_stream(out, schema)
    else:
        writer = pq.ParquetWriter(out, schema, compression="zstd", write_page_checksum=True)
    with writer:
        for batch in batches:
            writer.write_batch(batch)


def _noted(batches: Iterable[pa.RecordBatch], ticker: Ticker) -> Iterator[pa.RecordBatch]:
    rows = 0
    for batch in batches:
        yield batch
        rows += batch.num_rows
        ticker.note(f"{rows:,} rows")


def _rows(
    texts: Sequence[pa.Array], form: Callable[[str], str], null: str
) -> Iterator[tuple[str, ...]]:
    """Yield rows of strings in this form, of bytes as 0xHEX, and of `null`."""

    def shown(value: str | bytes | None) -> str:
        if isinstance(value, bytes):
            return "0x" + value.hex()
        return null if value is None else form(value)

    return zip(*(map(shown, array.to_pylist()) for array in texts), strict=True)


def _one_line(value: str) -> str:
    """Escape control characters, since each line of a table is a row."""
    return value if value.isprintable() else value.encode("unicode_escape").decode()


def _csv_field(value: str) -> str:
    """Quote a string as RFC 4180 does, and an empty one, because NULL is empty."""
    if value and not _QUOTED_IN_CSV.search(value):
        return value
    return '"' + value.replace('"', '""') + '"'
