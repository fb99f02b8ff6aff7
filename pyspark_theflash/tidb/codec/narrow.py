"""Narrow decimals: decimal128 values as decimal32 or decimal64, if they fit.

Narrow decimals are used in memory only, never in files or in results. They take a quarter or half
of the memory, and are compared and computed as their unscaled integers.
"""

from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pyspark_theflash.tidb.codec.array import primitive

_DIGITS_32, _DIGITS_64 = 9, 18
_NARROW: Final = (pa.Decimal32Type, pa.Decimal64Type)


def is_narrow(tp: pa.DataType) -> bool:
    """Whether a type is decimal32 or decimal64."""
    return isinstance(tp, _NARROW)


def narrow_ints(values: pa.Array) -> npt.NDArray[Any]:
    """Return the unscaled values of narrow decimals, int32 or int64; undefined for nulls."""
    data: Any = values.buffers()[1]
    is_32 = isinstance(values.type, pa.Decimal32Type)
    numbers = np.frombuffer(data, np.int32 if is_32 else np.int64)
    return numbers[values.offset : values.offset + len(values)]


def narrowed(values: pa.Array) -> pa.Array:
    """Convert decimal128 values to decimal32 or decimal64 if they fit; else return them as is."""
    tp = values.type
    if not pa.types.is_decimal128(tp) or tp.precision > _DIGITS_64 or not len(values):
        return values
    data: Any = values.buffers()[1]
    words = np.frombuffer(data, np.int64).reshape(-1, 2)
    ints = words[values.offset : values.offset + len(values), 0]
    valid = _valid(values)
    if valid is not None:
        ints = np.where(valid, ints, 0)
    # The precision must not grow: result types of computations depend on it.
    if tp.scale <= _DIGITS_32 and max(-int(ints.min()), int(ints.max())) < 10**_DIGITS_32:
        to = pa.decimal32(min(tp.precision, _DIGITS_32), tp.scale)
        return primitive(ints.astype(np.int32), to, valid)
    return primitive(ints, pa.decimal64(tp.precision, tp.scale), valid)


def widened(values: pa.Array, to: pa.DataType) -> pa.Array:
    """Convert narrow decimals to `to`, their decimal128 type; return other values unchanged."""
    if not is_narrow(values.type):
        return values
    words = np.empty((len(values), 2), np.int64)
    words[:, 0] = narrow_ints(values)
    words[:, 1] = words[:, 0] >> 63
    return primitive(words, to, _valid(values))


def _valid(values: pa.Array) -> "npt.NDArray[np.bool_] | None":
    return values.is_valid().to_numpy(zero_copy_only=False) if values.null_count else None
