"""Columnar versions of rows, as TiKV stores them. Rows stay encoded."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pyspark_theflash.base.errors import CodecError
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.tidb.codec.reader import Positions

Ints = npt.NDArray[np.int64]
TimeStamps = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Versions:
    """n versions of rows, unordered. `handles` is int64, or binary for common handles.

    `values` are rows in TiKV's row format (v2 or v1), empty for deletes.
    """

    table_id: Ints
    handles: pa.Array
    commit_ts: TimeStamps
    start_ts: TimeStamps
    op: npt.NDArray[np.uint8]
    values: pa.Array

    def __len__(self) -> int:
        return len(self.table_id)

    @property
    def has_common_handles(self) -> bool:
        """Whether the handles are common handles."""
        return bool(pa.types.is_binary(self.handles.type))

    @property
    def newest_ts(self) -> TimeStamp:
        """The newest commit_ts. There must be a version."""
        return TimeStamp(int(self.commit_ts.max()))

    @property
    def size_bytes(self) -> int:
        """The approximate size in memory."""
        columns = (self.table_id, self.commit_ts, self.start_ts, self.op)
        return int(sum(c.nbytes for c in (*columns, self.handles, self.values)))

    def select(self, chosen: Positions) -> "Versions":
        """Return the versions at some positions."""
        places = pa.array(chosen)
        return Versions(
            self.table_id[chosen],
            self.handles.take(places),
            self.commit_ts[chosen],
            self.start_ts[chosen],
            self.op[chosen],
            self.values.take(places),
        )


def concat(parts: Sequence[Versions]) -> Versions:
    """Concatenate at least one chunk; all must have handles of one type.

    Raises:
        CodecError: The handles have two types.
    """
    if len(parts) == 1:
        return parts[0]
    if len({part.has_common_handles for part in parts}) > 1:
        raise CodecError("record key", f"handles of two types in table {parts[0].table_id[0]}")
    return Versions(
        np.concatenate([part.table_id for part in parts]),
        pa.concat_arrays([part.handles for part in parts]),
        np.concatenate([part.commit_ts for part in parts]),
        np.concatenate([part.start_ts for part in parts]),
        np.concatenate([part.op for part in parts]),
        pa.concat_arrays([part.values for part in parts]),
    )
