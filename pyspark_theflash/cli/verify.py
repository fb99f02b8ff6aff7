"""Compare the rows of a store with those of TiKV at one timestamp.

Prints a line for each range of rows that differs, with the handles of some of them, and a summary.
The status is 1 if there is a difference. Values are not printed. TiKV is read as by TiDB at that
timestamp, so running transactions and later changes do not matter.
"""

import argparse

from pyspark_theflash.cli.jobs.arguments import add_at, add_store, add_tls

DIFFERENT = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `verify`."""
    add_store(parser)
    parser.add_argument("--pd", required=True, metavar="HOST:PORT,...", help="PD's addresses")
    parser.add_argument(
        "--tables",
        action="append",
        default=[],
        metavar="DB.TABLE",
        help="only tables with matching names, * and ? allowed; may be repeated",
    )
    add_at(parser)
    add_tls(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the differences and a summary."""
    # Imported here because it needs an extra, and `--help` does not.
    from pyspark_theflash.cli.jobs.verify import compare

    return DIFFERENT if compare(arguments) else 0
