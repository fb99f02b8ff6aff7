"""Rows on their way in and out: encoded values in one buffer, and the columns decoded from them.

A batch of rows is one joined byte buffer and n + 1 offsets (Arrow's layout of a binary column), so
that a decoder can work on all rows at once, one column at a time, and never makes a Python object
per row.

    buffer   | row 0 .... | row 1 .. | row 2 ...... | spare |
    offsets  0            12         20             33
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from pyspark_theflash.base.types import ColumnID
from pyspark_theflash.tidb.codec.array import ArrowArray, binary, take, variable_width
from pyspark_theflash.tidb.codec.field_type import FieldType

# Decoders load 8 bytes at a time, so they may look a little past the last row.
SPARE_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class RowBuffer:
    """n encoded values laid end to end.

    `buffer` is uint8 and may hold more than the values: with `SPARE_BYTES` after the last one
    decoders need not copy it. `offsets` is int64[n + 1], growing; value i is
    `buffer[offsets[i]:offsets[i + 1]]`. Less than 2 GiB in all.
    """

    buffer: npt.NDArray[np.uint8]
    offsets: npt.NDArray[np.int64]

    @classmethod
    def from_list(cls, values: Sequence[bytes]) -> "RowBuffer":
        """The values joined, with spare bytes behind them."""
        offsets = np.zeros(len(values) + 1, np.int64)
        np.cumsum(np.fromiter(map(len, values), np.int64, len(values)), out=offsets[1:])
        joined = b"".join([*values, bytes(SPARE_BYTES)])
        return cls(np.frombuffer(joined, np.uint8), offsets)

    @classmethod
    def from_arrow(cls, values: ArrowArray) -> "RowBuffer":
        """The values of a binary or string array without NULLs, not copied."""
        return cls(*variable_width(values))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def select(self, indices: npt.NDArray[np.int64]) -> "RowBuffer":
        """The values at `indices`, copied together."""
        return RowBuffer.from_arrow(take(binary(self.buffer, self.offsets), indices))


@dataclass(frozen=True, slots=True)
class ColumnSpec:
    """A column to decode. `name` is for error texts only."""

    id: ColumnID
    name: str
    type: FieldType


@dataclass(frozen=True, slots=True)
class DecodedColumn:
    """One column of n rows.

    `values` has the type `arrow_type(spec.type)`, or is uint64 where an unsigned integer is larger
    than its column's type. It is null where the row says NULL or says
    nothing. `absent` is bool[n], True where the row does not hold the column at all (so that a
    default may apply); None where no row lacks it.
    """

    values: ArrowArray
    absent: npt.NDArray[np.bool_] | None


@dataclass(frozen=True, slots=True)
class DecodedRows:
    """The columns asked for, in that order.

    `unknown_ids` are the columns that rows hold besides; their values were skipped.
    """

    columns: tuple[DecodedColumn, ...]
    unknown_ids: frozenset[ColumnID]
