"""End a pin, or another latch of `theflash latches`; its holder fails at the next renewal."""

import argparse
from contextlib import closing

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.cli.jobs.arguments import add_store
from pyspark_theflash.storage.store.folder import open_manifest
from pyspark_theflash.storage.store.latch.lease import LeaseTable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `unpin`."""
    add_store(parser)
    parser.add_argument("id", metavar="ID", help="the id that `pin` printed")


def run(arguments: argparse.Namespace) -> int:
    """Remove the latch."""
    with closing(open_manifest(arguments.store, LocalFileSystem())) as manifest:
        LeaseTable(manifest, SystemClock()).remove(arguments.id)
    return 0
