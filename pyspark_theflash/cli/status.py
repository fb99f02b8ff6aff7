"""Print a store's status: readable timestamps, writer, pending transactions, size.

`rows` counts versions. The lag is the age of the newest readable timestamp. If transactions are
pending, `held_by_start_ts` is the one that holds back `resolved_ts`. `sources` are those of a store
with several, each with its newest commit time: the one furthest behind holds back `resolved_ts`.
`orphans` are transactions whose commit or prewrite has been missing for long, with their state in
TiKV, and those that `theflash resolve` decided. Of tables that are set aside, and of regions that
`theflash learn` cannot follow any further, it shows the reasons and what to do.
"""

import argparse
from dataclasses import asdict
from typing import Any

from pyspark_theflash.base.timestamp import utc
from pyspark_theflash.cli.jobs.arguments import add_json
from pyspark_theflash.cli.place import add_place, opened
from pyspark_theflash.cli.show import print_json, process_text
from pyspark_theflash.service.wire.message import Orphan, Source, Status


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `status`."""
    add_place(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print a line per fact."""
    with opened(arguments) as store:
        status = store.status()
    facts = {"store": arguments.store, **described(status)}
    if arguments.json:
        print_json(facts)
        return 0
    for name in ("orphans", "sources", "set_aside", "stopped_regions"):
        facts[name] = len(facts[name])
    for name, value in facts.items():
        shown = value if value is not None else "none"
        if status.writer is not None and name == "writer":
            shown = process_text(status.writer)
        if isinstance(value, tuple):
            shown = "; ".join(map(_facts_text, value)) or "none"
        print(f"{name:24} {shown}")
    for source in status.sources:
        print(f"  {_source_text(source)}")
    for orphan in status.orphans:
        print(f"  {_orphan_text(orphan)}")
    for text in (*status.set_aside, *status.stopped_regions):
        print(f"  {text}")
    return 0


def _source_text(source: Source) -> str:
    seen = f"at {utc(source.seen_ts)}" if source.seen_ts else "at its beginning"
    trouble = f": {source.trouble}" if source.trouble else ""
    return f"{source.name} is {seen}, position {source.position or 'none'}{trouble}"


def _facts_text(value: Any) -> str:  # noqa: ANN401 (a message as a dictionary, or a text)
    if not isinstance(value, dict):
        return str(value)
    return ", ".join(f"{name} {fact}" for name, fact in value.items() if fact is not None)


def _orphan_text(orphan: Orphan) -> str:
    end = f"committed at {orphan.commit_ts}" if orphan.commit_ts else "rolled back"
    shown = "waits" if orphan.commit_ts is None else end
    since = f"{utc(orphan.start_ts)}, {orphan.age_ms // 1000:,} s, {orphan.bytes:,} bytes"
    return f"start_ts {orphan.start_ts} ({since}): {shown} ({orphan.state})"


def described(status: Status) -> dict[str, Any]:
    """Return the facts by name, in display order."""
    facts: dict[str, Any] = {}
    for name, value in asdict(status).items():
        facts[name] = value
        if name in ("resolved_ts", "oldest_ts", "held_by_start_ts"):
            time = None if value is None else utc(value)
            facts[name.replace("_ts", "_time")] = time
    return facts
