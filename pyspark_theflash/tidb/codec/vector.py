"""Binary form of VECTOR, a list of float32.

    u32 count | count * float32, all little-endian

See TiDB's `types/vector.go`.
"""

from typing import Final

import numpy as np
import pyarrow as pa

from pyspark_theflash.tidb.codec.array import primitive, variable_width
from pyspark_theflash.tidb.codec.reader import Positions, Reader

_COUNT_BYTES: Final = 4
_FLOAT_BYTES: Final = 4


def ends_at(reader: Reader, at: Positions, limit: Positions) -> Positions:
    """Return the end positions of the vectors at the positions `at`. Raises `CodecError`."""
    reader.check_ends(at + _COUNT_BYTES, limit, at)
    counts = (reader.words_at(at) & np.uint64(0xFFFFFFFF)).view(np.int64)
    ends: Positions = at + _COUNT_BYTES + _FLOAT_BYTES * counts
    reader.check_ends(ends, limit, at)
    return ends


def vectors_at(reader: Reader, at: Positions, end: Positions) -> pa.Array:
    """Decode the vectors from each position to its end as list<float32>. Raises `CodecError`."""
    reader.check(ends_at(reader, at, end) == end, "trailing bytes after a vector", at)
    content = reader.slices(at + _COUNT_BYTES, end)
    data, bounds = variable_width(content)
    floats = data[bounds[0] : bounds[-1]].view("<f4")
    bounds = (bounds - bounds[0]) // _FLOAT_BYTES
    if not np.isfinite(floats).all():
        index = int(np.flatnonzero(~np.isfinite(floats))[0])
        row = int(np.searchsorted(bounds, index, side="right")) - 1
        raise reader.error("vector element is not finite", int(at[row]))
    return pa.ListArray.from_arrays(
        pa.array(bounds.astype(np.int32)), primitive(floats, pa.float32())
    )
