"""Printing of tables and JSON documents."""

import json
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, islice
from typing import Any, Final, TextIO

from pyspark_theflash.service.wire.message import Process

SAMPLE_ROWS: Final = 1000
"""Rows that determine the column widths; wider values further down overflow."""
_WIDE: Final = frozenset("WF")


def print_table(
    header: Sequence[str], rows: Iterable[Sequence[str]], out: TextIO | None = None
) -> None:
    """Print rows in aligned columns under a header, as they arrive."""
    remaining = iter(rows)
    sample = list(islice(remaining, SAMPLE_ROWS))
    widths = [max(_width(line[i]) for line in (header, *sample)) for i in range(len(header))]
    for line in chain((header, ["-" * width for width in widths]), sample, remaining):
        print("  ".join(map(_padded, line, widths)).rstrip(), file=out)


def print_json(document: Mapping[str, Any]) -> None:
    """Print a JSON document, with each list entry on a line of its own."""
    # `indent` takes six times as long, because the C encoder does not support it.
    encode = json.JSONEncoder(ensure_ascii=False).encode
    lines = []
    for name, value in document.items():
        if isinstance(value, list | tuple) and value:
            entries = ",\n".join(f"    {encode(entry)}" for entry in value)
            lines.append(f"  {encode(name)}: [\n{entries}\n  ]")
        else:
            lines.append(f"  {encode(name)}: {encode(value)}")
    print("{\n" + ",\n".join(lines) + "\n}")


def cell(value: object) -> str:
    """Return a value as text; empty for None, elements separated by commas for a list."""
    if isinstance(value, list):
        return ",".join(map(str, value))
    return "" if value is None else str(value)


def process_text(process: Process) -> str:
    """Describe a process that holds a lock or latch."""
    return f"process {process.pid} on {process.host} ({process.program})"


def _padded(text: str, width: int) -> str:
    return text.ljust(width) if text.isascii() else text + " " * (width - _width(text))


def _width(text: str) -> int:
    """Return the width in terminal columns: East Asian wide characters take two."""
    if text.isascii():
        return len(text)
    return len(text) + sum(unicodedata.east_asian_width(c) in _WIDE for c in text)
