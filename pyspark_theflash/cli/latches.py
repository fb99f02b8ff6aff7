"""List the latches on a store, the waiting requests for latches, and the writer.

A `read` latch pins a timestamp and the files of a generation, a `pin` a timestamp, an `admin` latch
files; a `write` latch excludes other writers from its scope. Readers without write access to the
store pin everything while they run, and are not listed.
"""

import argparse
from dataclasses import asdict

from pyspark_theflash.base.timestamp import shown
from pyspark_theflash.cli.jobs.arguments import add_json
from pyspark_theflash.cli.place import add_place, opened
from pyspark_theflash.cli.show import cell, print_json, print_table, process_text
from pyspark_theflash.service.wire.message import Latch


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `latches`."""
    add_place(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print a line per latch."""
    with opened(arguments) as store:
        answer = store.latches()
    if arguments.json:
        document = asdict(answer)
        for latch in (*document["latches"], *document["waiting"]):
            del latch["handle"]  # a secret of the holder
        print_json(document)
        return 0
    header = ["kind", "id", "snapshot_ts", "generation", "scope", "token", "expires in", "holder"]
    rows = [
        [
            latch.kind,
            latch.id,
            "" if latch.snapshot_ts is None else shown(latch.snapshot_ts),
            *map(cell, (latch.generation, _scope(latch), latch.token)),
            f"{latch.expires_in_ms / 1000:.0f} s",
            _holder(latch),
        ]
        for latch in answer.latches
    ]
    if answer.writer is not None:
        rows.insert(0, ["writer", *[""] * 6, process_text(answer.writer)])
    rows += [
        [latch.kind, "waiting", "", "", _scope(latch), "", "", _holder(latch)]
        for latch in answer.waiting
    ]
    print_table(header, rows)
    return 0


def _scope(latch: Latch) -> str:
    """Return the ids from the table down; empty for the whole store."""
    scope = latch.scope
    return ".".join(str(id) for id in (scope.table_id, scope.physical_id, scope.region_id) if id)


def _holder(latch: Latch) -> str:
    if latch.holder is None:
        return f"{latch.name or 'unnamed'} ({latch.identity})"
    caller = f" for {latch.identity}" if latch.identity else ""
    return f"{process_text(latch.holder)}{caller}"
