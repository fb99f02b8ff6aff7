"""Commands that change a store: options, execution, output."""

import argparse
from pathlib import Path
from typing import Final

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.cli.jobs.arguments import add_seconds
from pyspark_theflash.cli.jobs.ticker import ticking
from pyspark_theflash.cli.place import add_place
from pyspark_theflash.replication.upkeep.admin import administer
from pyspark_theflash.storage.store.command import Argument, Verb

SHORT_MS: Final = 30_000
LONG_MS: Final = 3_600_000


def add_command(parser: argparse.ArgumentParser, timeout_ms: int) -> None:
    """Add the store and `--timeout`, whose default is `timeout_ms`."""
    add_place(parser)
    add_seconds(parser, "--timeout", "wait up to S seconds for a running writer", timeout_ms)


def run_command(arguments: argparse.Namespace, verb: Verb, argument: Argument = None) -> int:
    """Execute a command on a store's folder, or have its writer execute it; print the report."""
    clock = SystemClock()
    with ticking(verb.value, clock) as ticker:
        report = administer(
            Path(arguments.store),
            verb,
            argument,
            timeout_ms=arguments.timeout,
            fs=LocalFileSystem(),
            clock=clock,
            on_progress=ticker.note,
        )
    print(report)
    return 0
