"""File numbers: increasing and unique.

    number = generation << 24 | ordinal     or higher, if earlier numbers reached beyond that

A merge reserves a block of numbers before it starts, so that its files sort before those published
until it ends. Blocks may extend into the numbers of later generations, so a writer that opens a
store continues above the numbers of all existing files.
"""

import threading
from collections.abc import Iterator
from typing import Final

from pyspark_theflash.base.types import Generation

ORDINAL_BITS: Final = 24
BLOCK: Final = 1 << 20
"""Size of a reserved block; more files than one merge writes."""


class FileNumbers:
    """Thread-safe allocator of file numbers."""

    def __init__(self) -> None:
        self._next, self._mutex = 0, threading.Lock()

    def take(self) -> int:
        """Return a number above all allocated ones."""
        return self._take(1)

    def block(self) -> Iterator[int]:
        """Reserve a block of numbers above all allocated ones."""
        first = self._take(BLOCK)
        return iter(range(first, first + BLOCK))

    def advance(self, generation: Generation) -> None:
        """Continue with the numbers of the generation after this one."""
        self.above(((generation + 1) << ORDINAL_BITS) - 1)

    def above(self, number: int) -> None:
        """Continue above this number."""
        with self._mutex:
            self._next = max(self._next, number + 1)

    def _take(self, count: int) -> int:
        with self._mutex:
            first, self._next = self._next, self._next + count
        return first
