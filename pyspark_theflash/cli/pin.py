"""Keep a timestamp readable for some time, and print the pin's id.

Garbage collection retains the versions of this timestamp until the time has passed, `unpin`
ends the pin, or the machine restarts.
"""

import argparse
from contextlib import closing

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.errors import UsageError
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.cli.jobs.arguments import add_at, add_seconds, add_store
from pyspark_theflash.read.plan.snapshot import open_snapshot
from pyspark_theflash.storage.store.folder import open_manifest
from pyspark_theflash.storage.store.latch.latch import LatchKind
from pyspark_theflash.storage.store.latch.lease import LeaseTable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `pin`."""
    add_store(parser)
    add_at(parser)
    add_seconds(parser, "--ttl", "how long, in seconds", required=True)


def run(arguments: argparse.Namespace) -> int:
    """Pin the timestamp while a snapshot holds it, so that it stays readable in between."""
    if not arguments.ttl:
        raise UsageError("--ttl must be greater than 0")
    fs = LocalFileSystem()
    with (
        open_snapshot(arguments.store, arguments.at) as snapshot,
        closing(open_manifest(arguments.store, fs)) as manifest,
    ):
        leases = LeaseTable(manifest, SystemClock())
        print(leases.take(snapshot.snapshot_ts, arguments.ttl, LatchKind.PIN).id)
    return 0
