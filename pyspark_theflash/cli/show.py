"""Rows and documents on a terminal."""

import json
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from itertools import chain, islice
from typing import Any, Final, TextIO

SAMPLE_ROWS: Final = 1000
"""How many rows are looked at for the widths; what is wider further down stands out."""
_WIDE: Final = frozenset("WF")


def print_table(
    header: Sequence[str], rows: Iterable[Sequence[str]], out: TextIO | None = None
) -> None:
    """Print rows in aligned columns under a header, as they come."""
    coming = iter(rows)
    sample = list(islice(coming, SAMPLE_ROWS))
    widths = [max(_width(line[i]) for line in (header, *sample)) for i in range(len(header))]
    for line in chain((header, ["-" * width for width in widths]), sample, coming):
        padded = (text + " " * (w - _width(text)) for text, w in zip(line, widths, strict=True))
        print("  ".join(padded).rstrip(), file=out)


def print_json(document: Any) -> None:  # noqa: ANN401 (JSON)
    """Print one JSON document."""
    json.dump(document, sys.stdout, indent=2, ensure_ascii=False)
    print()


def _width(text: str) -> int:
    """Terminal columns: East Asian wide characters take two."""
    if text.isascii():
        return len(text)
    return len(text) + sum(unicodedata.east_asian_width(c) in _WIDE for c in text)
