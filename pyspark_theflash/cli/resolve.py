"""Decide how a transaction ended whose commit was lost, where TiKV cannot tell.

The store then goes on without waiting for its commit. A wrong decision makes the store differ from
TiDB for good. `theflash status` lists the transactions that wait, and afterwards what was decided.
A decision that contradicts TiKV, or what is applied, is refused. A commit that arrives later and
differs from the decision ends the writer with an error.
"""

import argparse

from pyspark_theflash.base.errors import UsageError
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.cli.command import SHORT_MS, add_command, run_command
from pyspark_theflash.cli.jobs.arguments import timestamp
from pyspark_theflash.net.address import is_address
from pyspark_theflash.storage.store.command import ResolveOrder, Verb


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `resolve`."""
    add_command(parser, SHORT_MS)
    parser.add_argument(
        "start_ts", type=timestamp, metavar="START_TS", help="the transaction, as status lists it"
    )
    end = parser.add_mutually_exclusive_group(required=True)
    end.add_argument("--committed", type=timestamp, metavar="TS", help="it committed at TS")
    end.add_argument("--rolled-back", action="store_true", help="it changed nothing")


def run(arguments: argparse.Namespace) -> int:
    """Do it, or have the writer do it."""
    if is_address(arguments.store):
        raise UsageError("resolve takes the store's folder, not a server")
    if arguments.committed == 0:
        raise UsageError("no transaction commits at 0")
    commit_ts = TimeStamp(0) if arguments.rolled_back else arguments.committed
    order = ResolveOrder(arguments.start_ts, commit_ts)
    return run_command(arguments, Verb.RESOLVE, order.to_text())
