"""Create an empty store."""

import argparse
from pathlib import Path

from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.cli.jobs.arguments import seconds
from pyspark_theflash.cli.jobs.place import DELTA
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.storage.store.setting import DEFAULT_RETENTION_MS, retention_record


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `init`."""
    parser.add_argument(
        "store", type=Path, metavar="STORE", help="a folder that does not exist yet, or is empty"
    )
    parser.add_argument(
        "--engine",
        default=registry.MAGIC,
        help="the storage engine (default: magic); delta needs Spark and writes Delta tables",
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
    if f"{arguments.engine}:" == DELTA:
        # Imported here because other engines need no Spark.
        from pyspark_theflash.spark.delta.session import create_store

        create_store(arguments.store, [retention])
        print(f"made a store with engine delta: {DELTA}{arguments.store}")
        return 0
    identity = registry.create(
        arguments.store, arguments.engine, LocalFileSystem(), settings=[retention]
    )
    print(f"made a store with engine {identity.engine} at {arguments.store}")
    return 0
