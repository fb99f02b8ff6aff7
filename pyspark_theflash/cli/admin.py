"""The commands that are calls of the API: `compact`, `flush`, `split`, `gc` and others.

Each names its call in `service.wire.method.METHODS`; its arguments have the names of the fields of
the call's request.
"""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.cli.command import LONG_MS, SHORT_MS, add_command, run_command
from pyspark_theflash.cli.jobs.arguments import seconds, timestamp
from pyspark_theflash.cli.jobs.ticker import ticking
from pyspark_theflash.cli.place import opened
from pyspark_theflash.net.address import is_address
from pyspark_theflash.service.api.commands import VERBS, command_of
from pyspark_theflash.service.wire.method import METHODS


@dataclass(frozen=True)
class AdminCommand:
    """A command of `theflash` that is a call of the API.

    Attributes:
        method: the name of the call.
        description: the help text; its first line is the summary.
        arguments: keyword arguments of `add_argument`, by the names or flags of the arguments.
        timeout_ms: the default of `--timeout`.
    """

    method: str
    description: str
    arguments: Mapping[str, Mapping[str, Any]]
    timeout_ms: int = LONG_MS

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's arguments to its parser."""
        add_command(parser, self.timeout_ms)
        for name, options in self.arguments.items():
            parser.add_argument(name, **options)

    def run(self, arguments: argparse.Namespace) -> int:
        """Execute the command, or have the store's writer or server execute it."""
        called = METHODS[self.method]
        names = [field.name for field in fields(called.request)]
        request = called.request(**{name: getattr(arguments, name) for name in names})
        if not is_address(arguments.store):
            return run_command(arguments, *command_of(self.method, request))
        with opened(arguments) as store, ticking(VERBS[self.method].value, SystemClock()):
            report = store.call(called, request, arguments.timeout).text
        print(report)
        return 0


def _whole(metavar: str, help: str) -> dict[str, Any]:
    return {"type": int, "metavar": metavar, "help": help}


def _duration(help: str) -> dict[str, Any]:
    read: Callable[[str], int] = seconds
    return {"type": read, "metavar": "SECONDS", "help": help}


_REGION: Final = {
    "physical_id": _whole("PHYSICAL_ID", "the physical table"),
    "region_id": _whole("REGION_ID", "the region"),
}
_TO_PARTITION: Final = {**_REGION, "partition": _whole("PARTITION", "the target")}
ADMIN: Final = {
    "compact": AdminCommand(
        "Compact",
        """Rewrite all of a store into the form that reads fastest.

A running writer is asked to do it.""",
        {},
    ),
    "flush": AdminCommand(
        "Flush",
        """Distribute the recently written rows of a store's tables among their regions.

A running writer is asked to do it.""",
        {},
    ),
    "split": AdminCommand(
        "SplitRegion",
        """Split a region of a table in two, as listed by `theflash regions`.

It is one step, while reads go on, and permanent: compaction does not merge the halves. A running
writer is asked to do it.""",
        {
            **_REGION,
            "at": {
                "metavar": "HANDLE",
                "help": "the first handle of the upper half: a number, or 0x and a key in hex",
            },
        },
    ),
    "merge": AdminCommand(
        "MergeRegions",
        """Merge two neighbouring regions of a table, as listed by `theflash regions`.

It is one step, while reads go on. A running writer is asked to do it.""",
        {
            "physical_id": _whole("PHYSICAL_ID", "the physical table"),
            "left_id": _whole("LEFT_ID", "the lower region"),
            "right_id": _whole("RIGHT_ID", "the region behind it"),
        },
    ),
    "move": AdminCommand(
        "MoveRegion",
        """Move a region's files to another partition, as listed by `theflash partitions`.

It is one step, while reads go on. Later writes to the region go there, too. A running writer is
asked to do it.""",
        _TO_PARTITION,
    ),
    "copy": AdminCommand(
        "CopyRegion",
        """Copy a region's files to one more partition, as listed by `theflash partitions`.

Scans read another copy of a file where one is damaged or its disk is missing. Later writes to the
region go to all of its partitions. It is one step, while reads go on; `theflash move` ends it. A
running writer is asked to do it.""",
        _TO_PARTITION,
    ),
    "purge": AdminCommand(
        "PurgeRegion",
        """Remove all rows of a region, as listed by `theflash regions`, from disk.

They are removed at every timestamp: later reads of its range fail, whatever is written there
afterwards. A running scan keeps its files. It is one step, and cannot be undone. A running writer
is asked to do it.""",
        _REGION,
    ),
    "gc": AdminCommand(
        "CollectGarbage",
        """Drop the versions of a store that no read at or above the safe point needs.

Timestamps below the safe point can no longer be read. Without `--safe-point`, it is the store's
retention (`theflash retention`) before `resolved_ts`. It is never above a timestamp that a reader
or a pin holds, nor above `resolved_ts`, and never goes back. The reason for a lower safe point is
printed. A running writer is asked to do it.""",
        {
            "--safe-point": {
                "type": timestamp,
                "metavar": "TS",
                "help": "the oldest timestamp to keep readable (default: by the store's retention)",
            },
            "--dry-run": {
                "action": "store_true",
                "help": "print what would be dropped, and drop nothing",
            },
        },
    ),
    "retention": AdminCommand(
        "SetRetention",
        """Set how much history garbage collection keeps readable.

It counts back from `resolved_ts`. A running writer is asked to do it.""",
        {"retention_ms": _duration("a day is 86400")},
        SHORT_MS,
    ),
    "interval": AdminCommand(
        "SetInterval",
        """Set the polling interval of a store's writer, now and for later runs.

A running writer is asked to do it.""",
        {"interval_ms": _duration("0.01 to a day")},
        SHORT_MS,
    ),
    "stop": AdminCommand(
        "StopWriter",
        """Stop a store's writer after its current batch.

A running writer is asked to do it.""",
        {},
        SHORT_MS,
    ),
}
