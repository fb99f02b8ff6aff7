"""List the latches that pin something of a store, and who writes it.

A `read` latch pins a timestamp and the files of a generation, a `pin` a timestamp, an `admin` latch
files. Readers that cannot write the store pin everything while they run, and are not listed.
"""

import argparse
from contextlib import closing
from typing import Any

from pyspark_theflash.cli.show import print_json, print_table
from pyspark_theflash.clock import Clock, SystemClock
from pyspark_theflash.fs import LocalFileSystem
from pyspark_theflash.jobs.arguments import add_json, add_store
from pyspark_theflash.store.folder import open_manifest
from pyspark_theflash.store.holder import Holder
from pyspark_theflash.store.lease import Latch, LeaseTable
from pyspark_theflash.store.writer_lock import current_writer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `latches`."""
    add_store(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print a line a latch."""
    clock = SystemClock()
    with closing(open_manifest(arguments.store, LocalFileSystem())) as manifest:
        latches = LeaseTable(manifest, clock).living()
    writer = current_writer(arguments.store, clock)
    if arguments.json:
        described = [describe_latch(latch, clock) for latch in latches]
        print_json({"writer": describe_holder(writer), "latches": described})
        return 0
    header = ["kind", "id", "snapshot_ts", "generation", "expires in", "holder"]
    rows = [
        [
            latch.kind.value,
            latch.id,
            str(latch.snapshot_ts) if latch.kind.pins_snapshot else "",
            str(latch.generation) if latch.kind.pins_generation else "",
            f"{(latch.expires_ms - clock.boottime_ms()) / 1000:.0f} s",
            str(latch.holder or ""),
        ]
        for latch in latches
    ]
    if writer is not None:
        rows.insert(0, ["writer", "", "", "", "", str(writer)])
    print_table(header, rows)
    return 0


def describe_latch(latch: Latch, clock: Clock) -> dict[str, Any]:
    """A latch in JSON; what it does not pin is null."""
    return {
        "id": latch.id,
        "kind": latch.kind.value,
        "snapshot_ts": latch.snapshot_ts if latch.kind.pins_snapshot else None,
        "generation": latch.generation if latch.kind.pins_generation else None,
        "expires_in_ms": latch.expires_ms - clock.boottime_ms(),
        "holder": describe_holder(latch.holder),
    }


def describe_holder(holder: Holder | None) -> dict[str, Any] | None:
    """A process in JSON."""
    if holder is None:
        return None
    return {"pid": holder.pid, "host": holder.host, "program": holder.program}
