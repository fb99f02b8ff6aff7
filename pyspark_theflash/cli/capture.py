"""Record the messages of TiKV's change feed about some tables, for a defect report.

Records the rows of the tables that exist at the start, and the schema's keys, until --seconds have
passed or until SIGTERM or SIGINT. The file has the keys and values of rows: it is as secret as the
tables are. With --show, prints the keys, timestamps and sizes that a recording contains, without
values. Nothing is written to the cluster but a service safe point, which ends with the command.
"""

import argparse
from contextlib import ExitStack
from pathlib import Path

from pyspark_theflash.base.errors import OptionError
from pyspark_theflash.cli.jobs.arguments import add_seconds, add_tls, timestamp


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `capture`."""
    parser.add_argument("file", type=Path, metavar="FILE", help="the recording")
    group = parser.add_mutually_exclusive_group(required=True)
    group.add_argument("--pd", metavar="HOST:PORT,...", help="PD's addresses")
    group.add_argument("--show", action="store_true", help="print the contents of a recording")
    parser.add_argument(
        "--tables",
        action="append",
        default=[],
        metavar="DB.TABLE",
        help="tables with matching names, * and ? allowed; may be repeated",
    )
    parser.add_argument(
        "--from",
        dest="from_ts",
        type=timestamp,
        metavar="TS",
        help="record changes above TS, such as a store's resolved_ts (default: the present)",
    )
    add_seconds(parser, "--seconds", "record for S seconds (default: until a signal)")
    add_tls(parser)


def run(arguments: argparse.Namespace) -> int:
    """Record, or print a recording."""
    # Imported here because they need an extra, and `--help` does not.
    from pyspark_theflash.cli.jobs.capture import Capture, lines_of
    from pyspark_theflash.replication.cdc.recording import read_recording

    if arguments.show:
        for item in read_recording(arguments.file):
            for line in lines_of(item):
                print(f"{item.time_ms:>9} ms  stream {item.stream}  {line}")
        return 0
    if not arguments.tables:
        raise OptionError("tables", "is missing; it names the tables to record")
    with ExitStack() as undo:
        Capture(arguments, undo).run()
    return 0
