"""What the commands that change a running store have in common."""

import argparse
from pathlib import Path
from typing import Final

from pyspark_theflash.cli.place import add_place, is_served, opened
from pyspark_theflash.clock import SystemClock
from pyspark_theflash.fs import LocalFileSystem
from pyspark_theflash.jobs.arguments import seconds
from pyspark_theflash.jobs.ticker import ticking
from pyspark_theflash.replication.admin import administer
from pyspark_theflash.store.command import Verb

SHORT_MS: Final = 30_000
LONG_MS: Final = 3_600_000


def add_command(parser: argparse.ArgumentParser, timeout_ms: int) -> None:
    """The store, and how long a writer that has it may take to answer."""
    add_place(parser)
    parser.add_argument(
        "--timeout",
        type=seconds,
        default=timeout_ms,
        metavar="S",
        help=f"wait so many seconds for a running writer's answer (default: {timeout_ms // 1000})",
    )


def run_command(arguments: argparse.Namespace, verb: Verb, argument: int | None = None) -> int:
    """Do it, or have the writer or a server do it, and print what was done."""
    clock = SystemClock()
    with ticking(verb.value, clock) as ticker:
        if is_served(arguments.store):
            told = _asked(arguments, verb, argument)
        else:
            told = administer(
                Path(arguments.store),
                verb,
                argument,
                timeout_ms=arguments.timeout,
                fs=LocalFileSystem(),
                clock=clock,
                on_progress=ticker.note,
            )
    print(told)
    return 0


def _asked(arguments: argparse.Namespace, verb: Verb, argument: int | None) -> str:
    timeout_ms: int = arguments.timeout
    with opened(arguments) as store:
        if verb is Verb.COMPACT:
            return store.compact(timeout_ms=timeout_ms)
        if verb is Verb.GC:
            return store.collect_garbage(argument, timeout_ms=timeout_ms)
        if verb is Verb.INTERVAL:
            return store.set_interval(argument or 0, timeout_ms=timeout_ms)
        return store.stop_writer(timeout_ms=timeout_ms)
