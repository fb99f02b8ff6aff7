"""The command line of `theflash`.

Each command is a module with `add_arguments` and `run`, or an entry of `admin.ADMIN`. Only the
command's own module is imported: some start in a twentieth of the time that others need.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from pyspark_theflash.base.log import start_log
from pyspark_theflash.cli.jobs.arguments import ArgumentParser
from pyspark_theflash.cli.jobs.outcome import run_command
from pyspark_theflash.version import __version__

COMMANDS = {
    "doctor": "check whether a cluster can be followed, and estimate the load",
    "follow": "make a replica of a cluster's tables, and keep it up to date",
    "init": "create an empty store",
    "copy": "copy a store to a new one, maybe with another engine",
    "writer": "apply a binlog to a store",
    "learn": "have TiKV feed a store, and serve it",
    "tables": "list the tables of a store",
    "scan": "print a table's rows at a timestamp",
    "sql": "run a query over a store's tables at a timestamp",
    "digest": "print a table's row count and checksum at a timestamp",
    "spark-conf": "print the configuration of Spark with the jar",
    "serve": "serve a store to other processes and machines",
    "status": "print a store's status",
    "regions": "list the regions of a store's tables and their files",
    "latches": "list a store's active latches and their holders",
    "pin": "keep a timestamp readable for a while",
    "unpin": "end a pin",
    "interval": "set the polling interval of a store's writer",
    "compact": "rewrite a store into the form that is read fastest",
    "flush": "distribute recently written rows among the regions",
    "split": "split a region in two",
    "merge": "merge two neighbouring regions",
    "move": "move a region's files to another partition",
    "mirror": "copy a region's files to one more partition",
    "purge": "remove a region's rows from disk",
    "partitions": "list, add and remove the folders that hold a store's files",
    "spool": "list the messages that a store's writer cannot read, or skip a transaction",
    "resolve": "decide the outcome of a transaction whose commit was lost",
    "gc": "drop old versions from a store",
    "retention": "set how much history garbage collection keeps",
    "stop": "stop a store's writer",
    "capture": "record what TiKV's change feed sends, for a report of a defect",
    "verify": "compare a store's rows with those of TiKV at a timestamp",
    "fsck": "check all of a store and list every damage",
    "completion": "print a script for the completion of commands in bash",
}
_ADMIN = frozenset(
    "compact flush split merge move mirror purge gc retention interval stop".split()  # noqa: SIM905
)
"""The commands of `admin.ADMIN`, which is imported only for one of them."""
_CLUSTER = "This command needs the extra `server`: pip install 'pyspark-theflash[server]'."
EXTRAS = {
    **dict.fromkeys(("doctor", "follow", "learn", "capture", "verify"), _CLUSTER),
    "writer": "Sources other than files, and --pd, need the extra `server`; --base mysql:... needs "
    "the extra `mysql`.",
    "serve": "--flight and --grpc need the extra `server`.",
    "sql": "Queries need the extra `sql`: pip install 'pyspark-theflash[sql]'.",
}
"""Notes in the help of commands that need extras of the package."""


def command(name: str) -> Any:  # noqa: ANN401 (a module or an AdminCommand)
    """Import one of `COMMANDS`: its description, `add_arguments` and `run`."""
    if name in _ADMIN:
        return import_module("pyspark_theflash.cli.admin").ADMIN[name]
    module = name.replace("-", "_")
    return import_module(f"pyspark_theflash.cli.{'jobs.' if name == 'writer' else ''}{module}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    start_log()
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
            description = module.description if name in _ADMIN else module.__doc__
            texts = {"help": summary, "description": description, "epilog": EXTRAS.get(name)}
            module.add_arguments(commands.add_parser(name, **texts))
        else:
            commands.add_parser(name, help=summary)
    arguments = parser.parse_args(argv)
    status: int = command(arguments.command).run(arguments)
    return status


if __name__ == "__main__":
    sys.exit(main())
