"""LRU cache of the visible rows of a region's files, as found by scans.

An entry has a bitmap for each file of a region. It depends on the region's files, and on the
snapshot only if there are versions newer than that.
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
    """Bitmap of a file's visible rows: `count` rows from `start` to before `end`.

    `bits` is None if all rows in that range are visible. In a delta the range has only the rows of
    one region, which are contiguous.
    """

    start: int
    end: int
    count: int
    bits: npt.NDArray[np.uint8] | None

    @classmethod
    def of(cls, mask: Mask | None, rows: int) -> "VisibleRows":
        """Convert a mask of all `rows` rows of the file; None: all are visible."""
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
        """Mask of the rows from `start` to before `end`; None: all are visible."""
        if self.bits is None:
            return None
        return np.unpackbits(self.bits, count=self.end - self.start).view(np.bool_)


class VisibleCache:
    """Thread-safe cache: the key of a region's scan -> file number -> visible rows."""

    def __init__(self, size_bytes: int = CACHE_BYTES) -> None:
        self._entries = LeastRecent[bytes, Mapping[int, VisibleRows]](size_bytes)

    @staticmethod
    def key(parts: Sequence[str], files: Sequence[DataFile], snapshot_ts: TimeStamp) -> bytes:
        """Return the key of a region's scan; scans with the same key see the same rows."""
        newest = max((f.max_commit_ts for f in files), default=snapshot_ts)
        identity = repr((*parts, min(snapshot_ts, newest)))
        return hashlib.sha256(identity.encode()).digest()

    def get(self, key: bytes) -> Mapping[int, VisibleRows] | None:
        """Return the entry of a key, if cached. A file that is not in it has no visible rows."""
        return self._entries.get(key)

    def put(self, key: bytes, visible: Mapping[int, VisibleRows]) -> None:
        """Cache the result of a complete scan."""
        sizes = (0 if v.bits is None else v.bits.nbytes for v in visible.values())
        self._entries.put(key, visible, _ENTRY_BYTES + sum(_ENTRY_BYTES + size for size in sizes))
