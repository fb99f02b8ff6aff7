"""Which rows of which files scans have found to be visible, so that the next one need not look.

For one region: a mask of each file, which depends on the region's files and on the snapshot only as
far as there are newer versions than it. A bit a row; the regions that were asked for least lately
are forgotten first.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.storage.engine.magic.file import DataFile
from pyspark_theflash.storage.engine.magic.lru import LeastRecent

CACHE_BYTES: Final = 64 << 20
_ENTRY_BYTES: Final = 200
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class VisibleRows:
    """Of a file's rows, those that are visible: `count` of the ones from `start` to before `end`.

    No `bits`: all of these. A region's own rows stand together in a file of several regions.
    """

    start: int
    end: int
    count: int
    bits: npt.NDArray[np.uint8] | None

    @classmethod
    def of(cls, mask: Mask | None, rows: int) -> "VisibleRows":
        """`mask` is of all `rows` rows of the file; None: all are."""
        if mask is None:
            return cls(0, rows, rows, None)
        places = np.flatnonzero(mask)
        if not len(places):
            return cls(0, 0, 0, None)
        start, end = int(places[0]), int(places[-1]) + 1
        bits = None if len(places) == end - start else np.packbits(mask[start:end])
        return cls(start, end, len(places), bits)

    @property
    def mask(self) -> Mask | None:
        """Of the rows from `start` to `end`; None: all."""
        if self.bits is None:
            return None
        return np.unpackbits(self.bits, count=self.end - self.start).view(np.bool_)


class VisibleCache:
    """The masks of regions, each of files by number; used by many threads."""

    def __init__(self, size_bytes: int = CACHE_BYTES) -> None:
        self._kept = LeastRecent[bytes, Mapping[int, VisibleRows]](size_bytes)

    @staticmethod
    def key(parts: Sequence[str], files: Sequence[DataFile], snapshot_ts: TimeStamp) -> bytes:
        """Of a region's scan: two scans of one key see the same rows."""
        newest = max((f.max_commit_ts for f in files), default=snapshot_ts)
        said = repr((*parts, min(snapshot_ts, newest)))
        return hashlib.sha256(said.encode()).digest()

    def get(self, key: bytes) -> Mapping[int, VisibleRows] | None:
        """What was put for this key, if it is still there. A file that lacks has no such rows."""
        return self._kept.get(key)

    def put(self, key: bytes, found: Mapping[int, VisibleRows]) -> None:
        """Keep what a whole scan has found."""
        sizes = (0 if v.bits is None else v.bits.nbytes for v in found.values())
        self._kept.put(key, found, _ENTRY_BYTES + sum(_ENTRY_BYTES + size for size in sizes))
