"""List the latches on a store, who waits for one, and who writes it.

A `read` latch pins a timestamp and the files of a generation, a `pin` a timestamp, an `admin` latch
files; a `write` latch keeps other writers out of its scope. Readers that cannot write the store pin
everything while they run, and are not listed.
"""

import argparse
from dataclasses import asdict

from pyspark_theflash.base.timestamp import shown
from pyspark_theflash.cli.jobs.arguments import add_json
from pyspark_theflash.cli.place import add_place, opened
from pyspark_theflash.cli.show import print_json, print_table, process_text
from pyspark_theflash.service.wire.message import Latch


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `latches`."""
    add_place(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print a line a latch."""
    with opened(arguments) as store:
        found = store.latches()
    if arguments.json:
        document = asdict(found)
        for latch in (*document["latches"], *document["waiting"]):
            del latch["handle"]  # only who acquires a latch is told
        print_json(document)
        return 0
    header = ["kind", "id", "snapshot_ts", "generation", "scope", "token", "expires in", "holder"]
    rows = [
        [
            latch.kind,
            latch.id,
            "" if latch.snapshot_ts is None else shown(latch.snapshot_ts),
            *map(_text, (latch.generation, _scope(latch), latch.token)),
            f"{latch.expires_in_ms / 1000:.0f} s",
            _holder(latch),
        ]
        for latch in found.latches
    ]
    if found.writer is not None:
        rows.insert(0, ["writer", *[""] * 6, process_text(found.writer)])
    rows += [
        [latch.kind, "waiting", "", "", _scope(latch), "", "", _holder(latch)]
        for latch in found.waiting
    ]
    print_table(header, rows)
    return 0


def _scope(latch: Latch) -> str:
    """From the table down, by ids; nothing for the store."""
    scope = latch.scope
    return ".".join(str(id) for id in (scope.table_id, scope.physical_id, scope.region_id) if id)


def _holder(latch: Latch) -> str:
    if latch.holder is not None:
        return process_text(latch.holder)
    return f"{latch.name or 'somebody'} ({latch.identity})"


def _text(value: object) -> str:
    return "" if value is None else str(value)
