"""Print a table's row count and order-independent checksum as of a timestamp: `ROWS HEX32`.

Two tables with the same rows have the same digest, whatever engine keeps them and in whatever
order. The rule is in `codec.digest`; `_tidb_rowid` does not count.
"""

import argparse

from pyspark_theflash.jobs.arguments import add_at, add_store
from pyspark_theflash.planner.snapshot import open_snapshot


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `digest`."""
    add_store(parser)
    parser.add_argument("table", metavar="DB.TABLE")
    add_at(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the digest."""
    with open_snapshot(arguments.store, arguments.at) as snapshot:
        digest = snapshot.digest(arguments.table)
    print(digest.rows, digest.hexdigest())
    return 0
