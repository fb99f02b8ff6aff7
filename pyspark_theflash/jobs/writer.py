"""The writer as a job: `theflash writer ...`, or the same by spark-submit.

spark-submit pyspark_theflash/jobs/writer.py STORE --source file:PATH --schema file:PATH [--base
DIR] --once
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pyspark_theflash.binlog.file import FileSource
from pyspark_theflash.clock import SystemClock
from pyspark_theflash.engine import registry
from pyspark_theflash.errors import UsageError
from pyspark_theflash.fs import LocalFileSystem
from pyspark_theflash.jobs.arguments import ArgumentParser, split_scheme, tso
from pyspark_theflash.jobs.outcome import run_command
from pyspark_theflash.replication.applier import ApplyReport
from pyspark_theflash.replication.writer import Writer
from pyspark_theflash.schema.file import read_schema_file
from pyspark_theflash.store.folder import read_identity


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The writer's command line."""
    parser.add_argument("store", type=Path, metavar="STORE", help="the store's folder")
    parser.add_argument(
        "--source", required=True, help="file:PATH, one binlog file or a folder of them (.gz too)"
    )
    parser.add_argument("--schema", required=True, help="file:PATH, the cluster's schema history")
    parser.add_argument(
        "--base", type=Path, metavar="DIR", help="rows from before the binlog (DIR/base.json)"
    )
    parser.add_argument("--once", action="store_true", help="apply what is there now, then end")
    parser.add_argument(
        "--until-ts",
        type=tso,
        metavar="TSO",
        help="apply no commit above TSO; with --once, vouches that the input is complete up to it",
    )


def run(arguments: argparse.Namespace) -> int:
    """Apply the source to the store, and print what was done."""
    if not arguments.once:
        raise UsageError("this version reads its source to the end and stops: give --once")
    fs, clock = LocalFileSystem(), SystemClock()
    identity = read_identity(arguments.store, fs)
    _, source_path = split_scheme("source", arguments.source, ("file",))
    _, schema_path = split_scheme("schema", arguments.schema, ("file",))
    source = FileSource(Path(source_path))
    history = read_schema_file(Path(schema_path))
    engine = registry.open_engine(arguments.store, identity, fs, clock)
    try:
        writer = Writer(engine, history)
        base_rows = writer.load_base(arguments.base) if arguments.base else 0
        report = writer.run_once(source, until_ts=arguments.until_ts)
        print(_summary(base_rows, report, writer))  # noqa: T201
    finally:
        engine.close()
    return 0


def _summary(base_rows: int, report: ApplyReport, writer: Writer) -> str:
    kept = f", {writer.pending} kept for the next run" if writer.pending else ""
    base = f"{base_rows:,} rows of the base, " if base_rows else ""
    return (
        f"applied {base}{report.transactions:,} transactions "
        f"with {report.rows:,} row changes{kept}; "
        f"resolved_ts {writer.resolved_ts}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point for spark-submit."""
    parser = ArgumentParser(prog="writer", description=__doc__)
    add_arguments(parser)
    return run_command(lambda: run(parser.parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
