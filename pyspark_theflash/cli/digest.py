"""Print a table's row count and order-independent checksum at a timestamp: `ROWS HEX32`.

Tables with the same rows have the same digest, independent of engine and order. The algorithm is
specified in `tidb.codec.digest`; it does not include `_tidb_rowid`.
"""

import argparse

from pyspark_theflash.cli.jobs.arguments import add_at
from pyspark_theflash.cli.place import add_place, opened
from pyspark_theflash.service.wire.message import Moment


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `digest`."""
    add_place(parser)
    parser.add_argument("table", metavar="DB.TABLE")
    add_at(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the digest."""
    with opened(arguments) as store:
        digest = store.digest(arguments.table, Moment(arguments.at), timeout_ms=0)
    print(digest.rows, digest.checksum)
    return 0
