"""What the commands that change a running store have in common."""

import argparse
from pathlib import Path
from typing import Final

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.cli.jobs.arguments import seconds
from pyspark_theflash.cli.jobs.ticker import ticking
from pyspark_theflash.cli.place import add_place, opened
from pyspark_theflash.net.address import is_address
from pyspark_theflash.replication.upkeep.admin import administer
from pyspark_theflash.storage.store.command import (
    Argument,
    CollectOrder,
    MergeOrder,
    MoveOrder,
    PurgeOrder,
    SplitOrder,
    Verb,
    handle_text,
)

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


def run_command(arguments: argparse.Namespace, verb: Verb, argument: Argument = None) -> int:
    """Do it, or have the writer or a server do it, and print what was done."""
    clock = SystemClock()
    with ticking(verb.value, clock) as ticker:
        if is_address(arguments.store):
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


def _asked(arguments: argparse.Namespace, verb: Verb, argument: Argument) -> str:
    timeout_ms: int = arguments.timeout
    number = argument if isinstance(argument, int) else None
    with opened(arguments) as store:
        if verb is Verb.COMPACT:
            return store.compact(timeout_ms=timeout_ms)
        if verb is Verb.FLUSH:
            return store.flush(timeout_ms=timeout_ms)
        if verb is Verb.SPLIT:
            cut = SplitOrder.from_text(argument)
            at = handle_text(cut.at)
            return store.split_region(cut.physical_id, cut.region_id, at, timeout_ms=timeout_ms)
        if verb is Verb.MERGE:
            both = MergeOrder.from_text(argument)
            ids = (both.physical_id, both.left_id, both.right_id)
            return store.merge_regions(*ids, timeout_ms=timeout_ms)
        if verb is Verb.PURGE:
            what = PurgeOrder.from_text(argument)
            return store.purge_region(what.physical_id, what.region_id, timeout_ms=timeout_ms)
        if verb in (Verb.MOVE, Verb.COPY):
            to = MoveOrder.from_text(argument)
            ask = store.move_region if verb is Verb.MOVE else store.copy_region
            return ask(to.physical_id, to.region_id, to.partition, timeout_ms=timeout_ms)
        if verb is Verb.GC:
            order = CollectOrder.from_text(argument)
            return store.collect_garbage(
                order.safe_point, dry_run=order.dry_run, timeout_ms=timeout_ms
            )
        if verb is Verb.RETENTION:
            return store.set_retention(number or 0, timeout_ms=timeout_ms)
        if verb is Verb.INTERVAL:
            return store.set_interval(number or 0, timeout_ms=timeout_ms)
        return store.stop_writer(timeout_ms=timeout_ms)
