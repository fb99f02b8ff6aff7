"""List the regions of a store: how each table's rows are divided and stored.

`rows` counts versions. `deltas` are recent files that are not yet distributed among the table's
regions; the other figures do not include them. Dropped tables are listed while older timestamps
need their rows. Each partition in `partitions` has the region's files; see `theflash partitions`.
Purged ranges are listed at the end.
"""

import argparse
from dataclasses import asdict
from typing import Any

from pyspark_theflash.cli.jobs.arguments import add_json, add_store
from pyspark_theflash.cli.place import opened_reader
from pyspark_theflash.cli.show import cell, print_json, print_table
from pyspark_theflash.service.api.status import physical_tables
from pyspark_theflash.storage.engine.api import RegionStats
from pyspark_theflash.storage.store.catalog import NOW_KINDS
from pyspark_theflash.storage.store.command import handle_text
from pyspark_theflash.storage.store.gap import GAP_KIND, all_gaps

HEADER = ["table", "physical_id", "region_id", "start", "end", "files", "deltas", "rows", "bytes"]
HEADER.append("partitions")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `regions`."""
    add_store(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print a line per region."""
    with opened_reader(arguments.store) as engine:
        view = engine.read([*NOW_KINDS, GAP_KIND])
        regions = [
            {"table": name, "physical_id": physical_id, **_described(region)}
            for name, physical_id in physical_tables(engine, view)
            for region in engine.regions(view, physical_id)
        ]
    gaps = [asdict(g) | {"start": _bound(g.start), "end": _bound(g.end)} for g in all_gaps(view)]
    if arguments.json:
        print_json({"regions": regions, "purged": gaps})
    else:
        print_table(HEADER, ([cell(region[name]) for name in HEADER] for region in regions))
        for gap in gaps:
            bounds = f"from {cell(gap['start'])!r} to {cell(gap['end'])!r}"
            print(f"purged of physical table {gap['physical_id']}: handles {bounds}")
    return 0


def _described(region: RegionStats) -> dict[str, Any]:
    values = {name: getattr(region, name) for name in HEADER[2:]}
    bounds = {"start": _bound(region.start), "end": _bound(region.end)}
    return values | bounds | {"partitions": list(region.partitions)}


def _bound(handle: int | bytes | None) -> int | str | None:
    """Return a handle for JSON; a clustered key as TiDB's encoded key in hex."""
    return handle_text(handle) if isinstance(handle, bytes) else handle
