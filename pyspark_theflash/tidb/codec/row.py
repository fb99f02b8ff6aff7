"""Buffers of encoded rows, and the columns decoded from them.

A batch of rows is one byte buffer and n + 1 offsets (Arrow's layout of a binary column), so that a
decoder can process all rows at once, one column at a time, without a Python object per row.

    buffer   | row 0 .... | row 1 .. | row 2 ...... | spare |
    offsets  0            12         20             33
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pyspark_theflash.base.types import ColumnID
from pyspark_theflash.tidb.codec.array import binary, take, variable_width
from pyspark_theflash.tidb.codec.field_type import FieldType

SPARE_BYTES: Final = 32
"""Bytes after the last row, because decoders load 8 bytes at a time and may read past its end."""


@dataclass(frozen=True, slots=True)
class RowBuffer:
    """n encoded values, less than 2 GiB in total.

    `offsets` is int64[n + 1], ascending; value i is `buffer[offsets[i]:offsets[i + 1]]`. `buffer`
    is uint8; if `SPARE_BYTES` follow the last value, decoders need not copy it.
    """

    buffer: npt.NDArray[np.uint8]
    offsets: npt.NDArray[np.int64]

    @classmethod
    def from_list(cls, values: Sequence[bytes]) -> "RowBuffer":
        """Concatenate values, followed by spare bytes."""
        offsets = np.zeros(len(values) + 1, np.int64)
        np.cumsum(np.fromiter(map(len, values), np.int64, len(values)), out=offsets[1:])
        joined = b"".join([*values, bytes(SPARE_BYTES)])
        return cls(np.frombuffer(joined, np.uint8), offsets)

    @classmethod
    def from_arrow(cls, values: pa.Array) -> "RowBuffer":
        """Refer to the values of a binary or string array without nulls; nothing is copied."""
        return cls(*variable_width(values))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def select(self, indices: npt.NDArray[np.int64]) -> "RowBuffer":
        """Copy the values at `indices`."""
        return RowBuffer.from_arrow(take(binary(self.buffer, self.offsets), indices))


@dataclass(frozen=True, slots=True)
class ColumnSpec:
    """A column to decode. `name` is used in errors only."""

    id: ColumnID
    name: str
    type: FieldType


@dataclass(frozen=True, slots=True)
class DecodedColumn:
    """One column of n rows.

    `values` has the type `arrow_type(spec.type)`, or uint64 if an unsigned integer exceeds the
    column's type. A value is null if it is NULL or the row does not hold the column. `absent` is
    bool[n], True for rows that do not hold the column, to which a default value may apply; None if
    all rows hold it.
    """

    values: pa.Array
    absent: npt.NDArray[np.bool_] | None


@dataclass(frozen=True, slots=True)
class DecodedRows:
    """The requested columns, in the requested order.

    `unknown_ids` are the ids of other columns in the rows, whose values were skipped.
    """

    columns: tuple[DecodedColumn, ...]
    unknown_ids: frozenset[ColumnID]
