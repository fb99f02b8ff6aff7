"""Visibility of versions at a snapshot.

Of each row, a snapshot sees the newest version with `commit_ts <= snapshot_ts`, unless that is a
delete. Scans need neither a merge nor sorted input, because each version has its `superseded_ts`,
the smallest commit_ts above its own of the same row. It is visible if
`commit_ts <= snapshot_ts < superseded_ts` and it is not a delete:

    handle 1    put@10 (superseded 30)      put@30 (superseded 40)      delete@40
    at 20       10 <= 20 < 30: visible      30 > 20: too new            too new
    at 35       30 <= 35: superseded        30 <= 35 < 40: visible      too new
    at 50       superseded                  superseded                  no row
"""

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pyspark_theflash.base.types import MAX_TS
from pyspark_theflash.storage.mvcc.version import Op

TimeStamps = npt.NDArray[np.uint64]
Bools = npt.NDArray[np.bool_]
Positions = npt.NDArray[np.int64]


def superseded_within(handles: pa.Array, commit_ts: TimeStamps) -> TimeStamps:
    """Return `superseded_ts` within these versions, which are sorted by (handle, commit_ts)."""
    result = np.full(len(commit_ts), MAX_TS, np.uint64)
    if len(commit_ts) > 1:
        same = same_as_next(handles)
        result[:-1][same] = commit_ts[1:][same]
    return result


def needed_from(
    safe_point: int,
    commit_ts: TimeStamps,
    superseded_ts: TimeStamps,
    op: npt.NDArray[np.uint8],
) -> Bools:
    """Return a mask of the versions that some snapshot at or above `safe_point` needs.

    Requires all versions of each row.
    """
    deleted = (op == Op.DELETE) & (commit_ts <= np.uint64(safe_point))
    needed: Bools = ~deleted & (superseded_ts > np.uint64(safe_point))
    return needed


def same_as_next(handles: pa.Array) -> Bools:
    """Compare each handle but the last with the next one, for sorted handles."""
    equal = pc.equal(handles.slice(0, len(handles) - 1), handles.slice(1))
    return np.asarray(equal.to_numpy(zero_copy_only=False), dtype=np.bool_)


def sort_order(handles: pa.Array, *keys: pa.Array) -> Positions:
    """Return the positions that sort by handle, then by `keys`."""
    names = ["handle", *(f"key{i}" for i in range(len(keys)))]
    table = pa.table(dict(zip(names, [handles, *keys], strict=True)))
    order = pc.sort_indices(table, sort_keys=[(name, "ascending") for name in names])
    return np.asarray(order.to_numpy(), dtype=np.int64)
