"""Print a table's row count and order-independent checksum as of a timestamp: `ROWS HEX32`.

Two tables with the same rows have the same digest, whatever engine keeps them and in whatever
order. The rule is in `tidb.codec.digest`; `_tidb_rowid` does not count.
"""

import argparse

from pyspark_theflash.cli.jobs.arguments import add_at
from pyspark_theflash.cli.place import add_place, opened
from pyspark_theflash.service.wire.message import Moment


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `digest`."""
    add_place(parser)
    parser.add_argument("table", metavar="DB.TABLE")
    add_at(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the digest."""
    with opened(arguments) as store:
        digest = store.digest(arguments.table, Moment(arguments.at), timeout_ms=0)
    print(digest.rows, digest.checksum)
    return 0
