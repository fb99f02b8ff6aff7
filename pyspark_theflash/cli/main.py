"""`theflash`: the command line. One module a command; each has `add_arguments` and `run`."""

import logging
import sys
from collections.abc import Sequence

from pyspark_theflash.cli import (
    compact,
    digest,
    flush,
    fsck,
    gc,
    init,
    interval,
    latches,
    merge,
    pin,
    regions,
    scan,
    serve,
    split,
    sql,
    status,
    stop,
    tables,
    unpin,
)
from pyspark_theflash.jobs import writer
from pyspark_theflash.jobs.arguments import ArgumentParser
from pyspark_theflash.jobs.outcome import run_command
from pyspark_theflash.version import __version__

COMMANDS = {
    "init": (init, "make an empty store"),
    "writer": (writer, "apply a binlog to a store"),
    "tables": (tables, "list the tables of a store"),
    "scan": (scan, "print a table's rows as of a timestamp"),
    "sql": (sql, "run a query over a store's tables as of a timestamp"),
    "digest": (digest, "print a table's row count and checksum as of a timestamp"),
    "serve": (serve, "serve a store to other processes and machines"),
    "status": (status, "tell how a store is"),
    "regions": (regions, "list how a store's tables are divided and stored"),
    "latches": (latches, "list who pins what of a store"),
    "pin": (pin, "keep a timestamp readable for a while"),
    "unpin": (unpin, "end a pin"),
    "interval": (interval, "set how often a store's writer looks for new input"),
    "compact": (compact, "rewrite a store into the form that reads fastest"),
    "flush": (flush, "divide what was written lately among the regions"),
    "split": (split, "divide a region in two"),
    "merge": (merge, "unite two neighbouring regions"),
    "gc": (gc, "drop old versions from a store"),
    "stop": (stop, "end a store's writer"),
    "fsck": (fsck, "read all of a store and name every damage"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    logging.basicConfig(format="theflash: %(levelname)s: %(message)s", level=logging.WARNING)
    return run_command(lambda: _dispatch(argv))


def _dispatch(argv: Sequence[str] | None) -> int:
    parser = ArgumentParser(
        prog="theflash", description="A columnar, multi-version replica of TiDB for Spark."
    )
    parser.add_argument("--version", action="version", version=f"theflash {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (module, summary) in COMMANDS.items():
        module.add_arguments(commands.add_parser(name, help=summary, description=module.__doc__))
    arguments = parser.parse_args(argv)
    module, _ = COMMANDS[arguments.command]
    status: int = module.run(arguments)
    return status


if __name__ == "__main__":
    sys.exit(main())
