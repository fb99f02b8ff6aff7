"""`theflash`: the command line. One module a command; each has `add_arguments` and `run`.

A command brings in its own module only: some begin in a twentieth of the time that others need.
"""

import logging
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from pyspark_theflash.cli.jobs.arguments import ArgumentParser
from pyspark_theflash.cli.jobs.outcome import run_command
from pyspark_theflash.version import __version__

COMMANDS = {
    "init": "make an empty store",
    "writer": "apply a binlog to a store",
    "learn": "have TiKV feed a store, and serve it",
    "tables": "list the tables of a store",
    "scan": "print a table's rows as of a timestamp",
    "sql": "run a query over a store's tables as of a timestamp",
    "digest": "print a table's row count and checksum as of a timestamp",
    "serve": "serve a store to other processes and machines",
    "status": "tell how a store is",
    "regions": "list how a store's tables are split into regions and stored",
    "latches": "list who pins what of a store",
    "pin": "keep a timestamp readable for a while",
    "unpin": "end a pin",
    "interval": "set how often a store's writer looks for new input",
    "compact": "rewrite a store into the form that reads fastest",
    "flush": "distribute recently written rows among the regions",
    "split": "split a region in two",
    "merge": "merge two neighbouring regions",
    "move": "have a region's files in another partition",
    "copy": "have a region's files in one more partition",
    "purge": "remove a region's rows from disk",
    "partitions": "list, add and remove the folders that hold a store's files",
    "resolve": "decide how a transaction ended whose commit was lost",
    "gc": "drop old versions from a store",
    "retention": "set how much history garbage collection keeps",
    "stop": "end a store's writer",
    "fsck": "read all of a store and name every damage",
}


def command(name: str) -> Any:  # noqa: ANN401 (a module)
    """The module of one of `COMMANDS`."""
    return import_module(f"pyspark_theflash.cli.{'jobs.' if name == 'writer' else ''}{name}")


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
    words = sys.argv[1:] if argv is None else argv
    for name, summary in COMMANDS.items():
        if name in words:
            module = command(name)
            description = module.__doc__
            module.add_arguments(commands.add_parser(name, help=summary, description=description))
        else:
            commands.add_parser(name, help=summary)
    arguments = parser.parse_args(argv)
    status: int = command(arguments.command).run(arguments)
    return status


if __name__ == "__main__":
    sys.exit(main())
