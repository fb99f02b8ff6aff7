"""Keep a timestamp readable for a while, and print the pin's id.

Garbage collection keeps what a read there needs until the time is over, the pin is ended by
`unpin`, or the machine restarts.
"""

import argparse
from contextlib import closing

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.errors import UsageError
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.cli.jobs.arguments import add_at, add_store, seconds
from pyspark_theflash.read.plan.snapshot import open_snapshot
from pyspark_theflash.storage.store.folder import open_manifest
from pyspark_theflash.storage.store.latch.latch import LatchKind
from pyspark_theflash.storage.store.latch.lease import LeaseTable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `pin`."""
    add_store(parser)
    add_at(parser)
    parser.add_argument(
        "--ttl", type=seconds, required=True, metavar="S", help="how long, in seconds"
    )


def run(arguments: argparse.Namespace) -> int:
    """Pin it while a snapshot holds it, so that nothing can come between."""
    if not arguments.ttl:
        raise UsageError("--ttl: a pin of no time pins nothing")
    fs = LocalFileSystem()
    with (
        open_snapshot(arguments.store, arguments.at) as snapshot,
        closing(open_manifest(arguments.store, fs)) as manifest,
    ):
        leases = LeaseTable(manifest, SystemClock())
        print(leases.take(snapshot.snapshot_ts, arguments.ttl, LatchKind.PIN).id)
    return 0
