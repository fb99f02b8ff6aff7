"""Make an empty store."""

import argparse
from pathlib import Path

from pyspark_theflash.engine import registry
from pyspark_theflash.fs import LocalFileSystem


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `init`."""
    parser.add_argument(
        "store", type=Path, metavar="STORE", help="a folder that does not exist yet, or is empty"
    )
    parser.add_argument(
        "--engine", default=registry.MAGIC, help="the storage engine (default: magic)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Make the store."""
    identity = registry.create(arguments.store, arguments.engine, LocalFileSystem())
    print(f"made a store with engine {identity.engine} at {arguments.store}")
    return 0
