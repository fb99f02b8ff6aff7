"""Build Arrow arrays from NumPy buffers and read their buffers, without copies where possible."""

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

# `pa.Array` is generic for the type checker only.
ArrowArray: TypeAlias = "pa.Array[Any]"

# pyarrow's stubs reject NumPy arrays as buffers and some arguments of the compute functions.
_pa: Final[Any] = pa
_pc: Final[Any] = pc


def primitive(
    data: npt.NDArray[Any], tp: pa.DataType, valid: npt.NDArray[np.bool_] | None = None
) -> ArrowArray:
    """Build an array of the fixed-width type `tp` from the bytes of `data`, one row per value.

    Rows where `valid` is false are null. None means that all rows are valid.
    """
    bits = None if valid is None else _pa.array(valid).buffers()[1]
    buffer = _pa.py_buffer(np.ascontiguousarray(data))
    return pa.Array.from_buffers(tp, len(data), [bits, buffer])


def binary(data: npt.NDArray[np.uint8], bounds: npt.NDArray[np.integer[Any]]) -> ArrowArray:
    """Build a binary array of n values from `data`, cut at the n + 1 offsets `bounds`."""
    buffers = [None, _pa.py_buffer(bounds.astype(np.int32)), _pa.py_buffer(data)]
    return pa.Array.from_buffers(pa.binary(), len(bounds) - 1, buffers)


def nulls(row_count: int, tp: pa.DataType) -> ArrowArray:
    """Return an array of nulls."""
    return _pa.nulls(row_count, tp)


def take(values: ArrowArray, indices: npt.NDArray[np.int64]) -> ArrowArray:
    """Select values by index; a negative index selects null."""
    missing = indices < 0
    arrow_indices = _pa.array(indices, mask=missing if missing.any() else None)
    return values.take(arrow_indices)


def joined(chunks: Sequence[ArrowArray]) -> ArrowArray:
    """Concatenate arrays. If their integer types differ, the result has the widest of them."""
    widest = chunks[0].type
    for chunk in chunks:
        if chunk.type != widest and chunk.type.bit_width > widest.bit_width:
            widest = chunk.type
    return _pa.concat_arrays(
        [chunk if chunk.type == widest else _pc.cast(chunk, widest) for chunk in chunks]
    )


def map_distinct(values: ArrowArray, function: Callable[[Any], Any], to: pa.DataType) -> ArrowArray:
    """Map values to type `to`, with one call of `function` per distinct value.

    Intended for arrays with few distinct values.
    """
    encoded = _pc.dictionary_encode(values)
    mapped = _pa.array([function(value) for value in encoded.dictionary.to_pylist()], to)
    return mapped.take(encoded.indices)


def join_bytes(*parts: "ArrowArray | bytes") -> ArrowArray:
    """Concatenate binary arrays row by row. A `bytes` part is repeated for every row."""
    operands = [pa.scalar(p, pa.binary()) if isinstance(p, bytes) else p for p in parts]
    return _pc.binary_join_element_wise(*operands, pa.scalar(b"", pa.binary()))


def fixed_width(values: ArrowArray, width: int) -> npt.NDArray[np.uint8]:
    """Return the bytes of a fixed-width array without nulls as uint8[n, width]."""
    data: Any = values.buffers()[1]
    rows = np.frombuffer(data if data is not None else b"", np.uint8).reshape(-1, width)
    return rows[values.offset : values.offset + len(values)]


def variable_width(
    values: ArrowArray,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Return the data buffer of a binary or string array without nulls, and its n + 1 offsets."""
    buffers: list[Any] = list(values.buffers())
    _, offsets, data = (buffer if buffer is not None else b"" for buffer in buffers)
    large = pa.types.is_large_binary(values.type) or pa.types.is_large_string(values.type)
    width = np.int64 if large else np.int32
    bounds = np.frombuffer(offsets, width)[values.offset :][: len(values) + 1]
    return np.frombuffer(data, np.uint8), bounds.astype(np.int64)
