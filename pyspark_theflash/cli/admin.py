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
        text: the help text without its last paragraph; the first line is a summary.
        arguments: keyword arguments of `add_argument`, by the names or flags of the arguments.
        timeout_ms: the default of `--timeout`.
    """

    method: str
    text: str
    arguments: Mapping[str, Mapping[str, Any]]
    timeout_ms: int = LONG_MS

    @property
    def description(self) -> str:
        """Help text."""
        return f"{self.text}\n\nA running writer executes the command."

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
        "Rewrite a store completely into the form that is read fastest.",
        {},
    ),
    "flush": AdminCommand(
        "Flush",
        "Distribute the recently written rows of a store's tables among their regions.",
        {},
    ),
    "split": AdminCommand(
        "SplitRegion",
        """Split a region of a table in two, as listed by `theflash regions`.

It is atomic, reads continue, and it is permanent: compaction does not merge the halves.""",
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

It is atomic, and reads continue.""",
        {
            "physical_id": _whole("PHYSICAL_ID", "the physical table"),
            "left_id": _whole("LEFT_ID", "the lower region"),
            "right_id": _whole("RIGHT_ID", "the next higher region"),
        },
    ),
    "move": AdminCommand(
        "MoveRegion",
        """Move a region's files to another partition, as listed by `theflash partitions`.

It is atomic, and reads continue. Later writes to the region also go there.""",
        _TO_PARTITION,
    ),
    "mirror": AdminCommand(
        "CopyRegion",
        """Copy a region's files to one more partition, as listed by `theflash partitions`.

Scans read another copy of a file if one is damaged or its disk is missing. Later writes to the
region go to all of its partitions. It is atomic, and reads continue. `theflash move` ends it.""",
        _TO_PARTITION,
    ),
    "purge": AdminCommand(
        "PurgeRegion",
        """Remove all rows of a region, as listed by `theflash regions`, from disk.

They are removed at every timestamp: later reads of the range fail, also after new writes there. A
running scan keeps its files. It is atomic and cannot be undone.""",
        _REGION,
    ),
    "gc": AdminCommand(
        "CollectGarbage",
        """Drop the versions of a store that no read at or above the safe point needs.

Timestamps below the safe point can no longer be read. Without `--safe-point`, it is the store's
retention (`theflash retention`) before `resolved_ts`. It is never above a timestamp that a reader
or a pin holds, nor above `resolved_ts`, and never decreases. The reason for a lower safe point is
printed.""",
        {
            "--safe-point": {
                "type": timestamp,
                "metavar": "TS",
                "help": "the oldest timestamp to keep readable (default: by the store's retention)",
            },
            "--dry-run": {
                "action": "store_true",
                "help": "print what would be dropped without dropping it",
            },
        },
    ),
    "retention": AdminCommand(
        "SetRetention",
        """Set how much history garbage collection keeps readable.

It counts back from `resolved_ts`.""",
        {"retention_ms": _duration("a day is 86400")},
        SHORT_MS,
    ),
    "interval": AdminCommand(
        "SetInterval",
        "Set the polling interval of a store's writer, now and for later runs.",
        {"interval_ms": _duration("0.01 to a day")},
        SHORT_MS,
    ),
    "stop": AdminCommand(
        "StopWriter",
        "Stop a store's writer after its current batch.",
        {},
        SHORT_MS,
    ),
}
