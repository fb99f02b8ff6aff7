"""Rows on a terminal."""

import unicodedata
from collections.abc import Sequence
from typing import Final

_WIDE: Final = frozenset("WF")


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows in aligned columns under a header."""
    lines = [header, *rows]
    widths = [max(_width(line[i]) for line in lines) for i in range(len(header))]
    for line in (header, ["-" * width for width in widths], *rows):
        print(
            "  ".join(
                _padded(text, width) for text, width in zip(line, widths, strict=True)
            ).rstrip()
        )


def _padded(text: str, width: int) -> str:
    return text + " " * (width - _width(text))


def _width(text: str) -> int:
    """Terminal columns: East Asian wide characters take two."""
    return len(text) + sum(
        unicodedata.east_asian_width(c) in _WIDE for c in text if not c.isascii()
    )
