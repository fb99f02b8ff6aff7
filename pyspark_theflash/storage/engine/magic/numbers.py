"""Numbers of data files: they grow, and none is given twice.

    number = (generation << 24 | ordinal)   at least; where more are taken, the next ones follow

A merge takes a block before it begins, so that its files come before whatever is published until
it ends. Blocks may reach beyond a generation, so whoever opens a store goes on above all files.
"""

import threading
from collections.abc import Iterator
from typing import Final

from pyspark_theflash.base.types import Generation

ORDINAL_BITS: Final = 24
BLOCK: Final = 1 << 20
"""More files than one merge writes."""


class FileNumbers:
    """Give out file numbers; safe in any thread."""

    def __init__(self) -> None:
        self._next, self._mutex = 0, threading.Lock()

    def take(self) -> int:
        """A number above all that were taken."""
        return self._take(1)

    def block(self) -> Iterator[int]:
        """Numbers above all that were taken, which nobody else gets."""
        first = self._take(BLOCK)
        return iter(range(first, first + BLOCK))

    def advance(self, generation: Generation) -> None:
        """Files of later generations than this one come now."""
        with self._mutex:
            self._next = max(self._next, (generation + 1) << ORDINAL_BITS)

    def above(self, number: int) -> None:
        """Only numbers above this one come now."""
        with self._mutex:
            self._next = max(self._next, number + 1)

    def _take(self, count: int) -> int:
        with self._mutex:
            first, self._next = self._next, self._next + count
        return first
