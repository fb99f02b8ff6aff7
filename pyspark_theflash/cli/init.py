"""Create an empty store."""

import argparse
from pathlib import Path

from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.cli.jobs.arguments import seconds
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.storage.store.setting import DEFAULT_RETENTION_MS, retention_record


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `init`."""
    parser.add_argument(
        "store", type=Path, metavar="STORE", help="a folder that does not exist yet, or is empty"
    )
    parser.add_argument(
        "--engine", default=registry.MAGIC, help="the storage engine (default: magic)"
    )
    parser.add_argument(
        "--retention",
        type=seconds,
        default=DEFAULT_RETENTION_MS,
        metavar="SECONDS",
        help="how much history garbage collection keeps (default: a day)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Create the store."""
    retention = retention_record(arguments.retention)
    identity = registry.create(
        arguments.store, arguments.engine, LocalFileSystem(), settings=[retention]
    )
    print(f"made a store with engine {identity.engine} at {arguments.store}")
    return 0
