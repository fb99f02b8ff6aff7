"""Copy a store to a new one, maybe with another engine, and compare the digests of all tables.

With `--history`, the copy has all timestamps of the store, and a writer can continue it. Otherwise
it has one timestamp. The store may be written meanwhile. The new store appears when it is complete
and equal; until then it is NEW_STORE.copying. The same command continues a copy that was
interrupted.
"""

import argparse
from pathlib import Path

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.errors import OptionError
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.base.timestamp import shown
from pyspark_theflash.cli.jobs.arguments import add_at, add_store
from pyspark_theflash.cli.jobs.place import SPOOL_FOLDER
from pyspark_theflash.cli.jobs.ticker import ticking
from pyspark_theflash.replication.copy import CopyReport, copy_store
from pyspark_theflash.storage.engine import registry


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `copy`."""
    add_store(parser)
    parser.add_argument(
        "new_store", type=Path, metavar="NEW_STORE", help="a folder that does not exist yet"
    )
    parser.add_argument(
        "--engine", default=registry.MAGIC, help="the new store's engine (default: magic)"
    )
    chosen = parser.add_mutually_exclusive_group()
    add_at(chosen)
    chosen.add_argument("--history", action="store_true", help="copy all readable timestamps")


def run(arguments: argparse.Namespace) -> int:
    """Copy the store."""
    clock, source = SystemClock(), arguments.store
    if arguments.history and any((source / SPOOL_FOLDER).glob("binlog-*")):
        reason = "TiDB sends its binlog to this store, and what is not applied is not copied"
        raise OptionError("history", f"{reason}: copy one timestamp")
    started_ms = clock.boottime_ms()
    with ticking("copying", clock) as ticker:

        def note(report: CopyReport) -> None:
            speed = report.rows * 1000 / max(1, clock.boottime_ms() - started_ms)
            ticker.note(
                f"copying: {report.share:.0%}, {report.rows:,} versions ({speed:,.0f}/s), "
                f"{report.table}"
            )

        plan = copy_store(
            source,
            arguments.new_store,
            arguments.engine,
            arguments.at,
            history=arguments.history,
            fs=LocalFileSystem(),
            clock=clock,
            note=note,
        )
    oldest_ts = max(each.oldest_ts for each in plan.progress.values())
    first = f"{shown(oldest_ts)} to " if oldest_ts < plan.resolved_ts else ""
    print(f"copied {source} to {arguments.new_store}: {first}{shown(plan.resolved_ts)}")
    return 0
