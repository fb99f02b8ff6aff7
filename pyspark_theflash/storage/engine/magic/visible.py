"""The visible rows of a region's files as found by scans, and their keys in a cache.

An entry has a bitmap for each file of a region. It depends on the region's files, and on the
snapshot only if there are versions newer than that.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from pyspark_theflash.storage.engine.api import ScanSpec
from pyspark_theflash.storage.engine.magic.layout import RegionFiles

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


def visible_key(content: RegionFiles, spec: ScanSpec) -> bytes:
    """Return the cache key of a region's scan; scans with the same key see the same rows."""
    newest = max((f.max_commit_ts for f in content.files), default=spec.snapshot_ts)
    region, files = content.region, [f.content for f in content.files]
    without = None if spec.without is None else spec.without.id
    ts = min(spec.snapshot_ts, newest)
    identity = repr((region.physical_id, region.start, region.end, files, without, ts))
    return hashlib.sha256(identity.encode()).digest()


def cached_size(visible: Mapping[int, VisibleRows]) -> int:
    """Return the size in bytes of the result of a complete scan.

    A file that is not in `visible` has no visible rows.
    """
    sizes = (0 if v.bits is None else v.bits.nbytes for v in visible.values())
    return _ENTRY_BYTES + sum(_ENTRY_BYTES + size for size in sizes)
