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

from pyspark_theflash.engine.magic.file import DataFile
from pyspark_theflash.engine.magic.lru import LeastRecent
from pyspark_theflash.types import TimeStamp

CACHE_BYTES: Final = 64 << 20
_ENTRY_BYTES: Final = 200
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class VisibleRows:
    """Of a file of `rows` rows, those that are visible: `count`. No `bits`: all of them."""

    rows: int
    count: int
    bits: npt.NDArray[np.uint8] | None

    @classmethod
    def of(cls, mask: Mask | None, rows: int) -> "VisibleRows":
        """`mask` is of all rows of the file; None: all are."""
        count = rows if mask is None else int(np.count_nonzero(mask))
        return cls(rows, count, None if mask is None or count == rows else np.packbits(mask))

    @property
    def mask(self) -> Mask | None:
        """Inverse of `of`."""
        if self.bits is None:
            return None
        return np.unpackbits(self.bits, count=self.rows).view(np.bool_)


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
