"""End a pin; or any other latch of `theflash latches`, whose holder learns so when it renews it."""

import argparse
from contextlib import closing

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.cli.jobs.arguments import add_store
from pyspark_theflash.storage.store.folder import open_manifest
from pyspark_theflash.storage.store.latch.lease import LeaseTable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `unpin`."""
    add_store(parser)
    parser.add_argument("id", metavar="ID", help="as `pin` has printed it")


def run(arguments: argparse.Namespace) -> int:
    """End it."""
    with closing(open_manifest(arguments.store, LocalFileSystem())) as manifest:
        LeaseTable(manifest, SystemClock()).remove(arguments.id)
    return 0
