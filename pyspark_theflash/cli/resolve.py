"""Decide the outcome of a transaction whose commit was lost, if TiKV has no record of it.

The store then no longer waits for its commit. A wrong decision makes the store differ from TiDB
permanently. `theflash status` lists pending transactions and the decisions. A decision that
contradicts TiKV or applied data is rejected. A commit that arrives later and differs from the
decision ends the writer with an error.
"""

import argparse

from pyspark_theflash.base.errors import UsageError
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.cli.command import SHORT_MS, add_command, run_command
from pyspark_theflash.cli.jobs.arguments import timestamp
from pyspark_theflash.net.address import is_address
from pyspark_theflash.storage.store.command import ResolveOrder, Verb


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `resolve`."""
    add_command(parser, SHORT_MS)
    parser.add_argument(
        "start_ts", type=timestamp, metavar="START_TS", help="the transaction, as status lists it"
    )
    end = parser.add_mutually_exclusive_group(required=True)
    end.add_argument("--committed", type=timestamp, metavar="TS", help="it committed at TS")
    end.add_argument("--rolled-back", action="store_true", help="it changed nothing")


def run(arguments: argparse.Namespace) -> int:
    """Execute the command, or have the writer execute it."""
    if is_address(arguments.store):
        raise UsageError("resolve needs the store's folder, not a server's address")
    if arguments.committed == 0:
        raise UsageError("--committed: a commit timestamp is not 0")
    commit_ts = TimeStamp(0) if arguments.rolled_back else arguments.committed
    order = ResolveOrder(arguments.start_ts, commit_ts)
    return run_command(arguments, Verb.RESOLVE, order.to_text())
