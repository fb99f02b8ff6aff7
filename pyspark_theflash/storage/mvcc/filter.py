"""Rows selected by a mask."""

from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

_Rows = TypeVar("_Rows", pa.Array, pa.RecordBatch, pa.Table)


def filter_rows(rows: _Rows, mask: npt.NDArray[np.bool_]) -> _Rows:
    """Return the rows for which `mask` is true, in their order."""
    count = np.count_nonzero(mask)
    if count == len(mask):
        return rows
    if 2 * count > len(mask):
        return rows.filter(pa.array(mask))
    # Takes a third of the time of `filter`, and less the fewer rows are selected.
    return rows.take(pa.array(np.flatnonzero(mask)))
