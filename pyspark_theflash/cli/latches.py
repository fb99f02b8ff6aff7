"""List the latches that pin something of a store, and who writes it.

A `read` latch pins a timestamp and the files of a generation, a `pin` a timestamp, an `admin` latch
files. Readers that cannot write the store pin everything while they run, and are not listed.
"""

import argparse
from dataclasses import asdict

from pyspark_theflash.cli.place import add_place, opened
from pyspark_theflash.cli.show import print_json, print_table
from pyspark_theflash.jobs.arguments import add_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `latches`."""
    add_place(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print a line a latch."""
    with opened(arguments) as store:
        found = store.latches()
    if arguments.json:
        print_json(asdict(found))
        return 0
    header = ["kind", "id", "snapshot_ts", "generation", "expires in", "holder"]
    rows = [
        [
            latch.kind,
            latch.id,
            *(_shown(pinned) for pinned in (latch.snapshot_ts, latch.generation)),
            f"{latch.expires_in_ms / 1000:.0f} s",
            _shown(latch.holder),
        ]
        for latch in found.latches
    ]
    if found.writer is not None:
        rows.insert(0, ["writer", "", "", "", "", str(found.writer)])
    print_table(header, rows)
    return 0


def _shown(value: object) -> str:
    return "" if value is None else str(value)
