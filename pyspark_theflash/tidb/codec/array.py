"""Arrow arrays made of NumPy buffers, without a copy where Arrow's layout allows it."""

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

# A generic class to the type checker only.
ArrowArray: TypeAlias = "pa.Array[Any]"

# pyarrow's stubs know neither NumPy arrays as buffers nor some of the compute functions' arguments.
_pa: Final[Any] = pa
_pc: Final[Any] = pc


def primitive(
    data: npt.NDArray[Any], tp: pa.DataType, valid: npt.NDArray[np.bool_] | None = None
) -> ArrowArray:
    """`data`, whose bytes are values of the fixed-width type `tp`, one a row.

    Rows where `valid` is false are null; None: all are valid.
    """
    bits = None if valid is None else _pa.array(valid).buffers()[1]
    buffer = _pa.py_buffer(np.ascontiguousarray(data))
    return pa.Array.from_buffers(tp, len(data), [bits, buffer])


def binary(data: npt.NDArray[np.uint8], bounds: npt.NDArray[np.integer[Any]]) -> ArrowArray:
    """The values that lie between each two of the n + 1 `bounds` in `data`."""
    buffers = [None, _pa.py_buffer(bounds.astype(np.int32)), _pa.py_buffer(data)]
    return pa.Array.from_buffers(pa.binary(), len(bounds) - 1, buffers)


def nulls(row_count: int, tp: pa.DataType) -> ArrowArray:
    """Nothing but nulls."""
    result: ArrowArray = _pa.nulls(row_count, tp)
    return result


def take(values: ArrowArray, indices: npt.NDArray[np.int64]) -> ArrowArray:
    """The values at `indices`, null where an index is negative."""
    missing = indices < 0
    chosen = _pa.array(indices, mask=missing if missing.any() else None)
    result: ArrowArray = values.take(chosen)
    return result


def joined(chunks: Sequence[ArrowArray]) -> ArrowArray:
    """Arrays one after the other; integers of several widths in the widest."""
    widest = chunks[0].type
    for chunk in chunks:
        if chunk.type != widest and chunk.type.bit_width > widest.bit_width:
            widest = chunk.type
    result: ArrowArray = _pa.concat_arrays(
        [chunk if chunk.type == widest else _pc.cast(chunk, widest) for chunk in chunks]
    )
    return result


def map_distinct(values: ArrowArray, function: Callable[[Any], Any], to: pa.DataType) -> ArrowArray:
    """`function` on each different value once; for types that have few, or values that are rare."""
    encoded = _pc.dictionary_encode(values)
    mapped = _pa.array([function(value) for value in encoded.dictionary.to_pylist()], to)
    result: ArrowArray = mapped.take(encoded.indices)
    return result


def join_bytes(*parts: "ArrowArray | bytes") -> ArrowArray:
    """Binary arrays (or the same bytes for every row) joined row by row."""
    operands = [pa.scalar(p, pa.binary()) if isinstance(p, bytes) else p for p in parts]
    result: ArrowArray = _pc.binary_join_element_wise(*operands, pa.scalar(b"", pa.binary()))
    return result


def fixed_width(values: ArrowArray, width: int) -> npt.NDArray[np.uint8]:
    """The bytes of an array of a fixed-width type: uint8[n, width]. The array has no nulls."""
    data: Any = values.buffers()[1]
    rows = np.frombuffer(data if data is not None else b"", np.uint8).reshape(-1, width)
    return rows[values.offset : values.offset + len(values)]


def variable_width(
    values: ArrowArray,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """The bytes of a binary or string array without nulls, and the n + 1 bounds of its values."""
    _, bounds, data = (buffer if buffer is not None else b"" for buffer in _buffers(values))
    large = pa.types.is_large_binary(values.type) or pa.types.is_large_string(values.type)
    width = np.int64 if large else np.int32
    ends = np.frombuffer(bounds, width)[values.offset :][: len(values) + 1]
    return np.frombuffer(data, np.uint8), ends.astype(np.int64)


def _buffers(values: ArrowArray) -> list[Any]:
    return list(values.buffers())
