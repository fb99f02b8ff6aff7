"""Build Arrow arrays from NumPy buffers and read their buffers, without copies where possible."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc


def primitive(
    data: npt.NDArray[Any], tp: pa.DataType, valid: npt.NDArray[np.bool_] | None = None
) -> pa.Array:
    """Build an array of the fixed-width type `tp` from the bytes of `data`, one row per value.

    Rows where `valid` is false are null. None means that all rows are valid.
    """
    bits = None if valid is None else pa.array(valid).buffers()[1]
    buffer = pa.py_buffer(np.ascontiguousarray(data))
    return pa.Array.from_buffers(tp, len(data), [bits, buffer])


def binary(data: npt.NDArray[np.uint8], bounds: npt.NDArray[np.integer[Any]]) -> pa.Array:
    """Build a binary array of n values from `data`, cut at the n + 1 offsets `bounds`."""
    buffers = [None, pa.py_buffer(bounds.astype(np.int32)), pa.py_buffer(data)]
    return pa.Array.from_buffers(pa.binary(), len(bounds) - 1, buffers)


def take(values: pa.Array, indices: npt.NDArray[np.int64]) -> pa.Array:
    """Select values by index; a negative index selects null."""
    missing = indices < 0
    arrow_indices = pa.array(indices, mask=missing if missing.any() else None)
    return values.take(arrow_indices)


def joined(chunks: Sequence[pa.Array]) -> pa.Array:
    """Concatenate arrays. If their integer types differ, the result has the widest of them."""
    widest = chunks[0].type
    for chunk in chunks:
        if chunk.type != widest and chunk.type.bit_width > widest.bit_width:
            widest = chunk.type
    return pa.concat_arrays(
        [chunk if chunk.type == widest else pc.cast(chunk, widest) for chunk in chunks]
    )


def map_distinct(values: pa.Array, function: Callable[[Any], Any], to: pa.DataType) -> pa.Array:
    """Map values to type `to`, with one call of `function` per distinct value.

    Intended for arrays with few distinct values.
    """
    encoded = pc.dictionary_encode(values)
    mapped = pa.array([function(value) for value in encoded.dictionary.to_pylist()], to)
    return mapped.take(encoded.indices)


def join_bytes(*parts: pa.Array | bytes) -> pa.Array:
    """Concatenate binary arrays row by row. A `bytes` part is repeated for every row."""
    operands = [pa.scalar(p, pa.binary()) if isinstance(p, bytes) else p for p in parts]
    return pc.binary_join_element_wise(*operands, pa.scalar(b"", pa.binary()))


def fixed_width(values: pa.Array, width: int) -> npt.NDArray[np.uint8]:
    """Return the bytes of a fixed-width array without nulls as uint8[n, width]."""
    data: Any = values.buffers()[1]
    rows = np.frombuffer(data if data is not None else b"", np.uint8).reshape(-1, width)
    return rows[values.offset : values.offset + len(values)]


def variable_width(
    values: pa.Array,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Return the data buffer of a binary or string array without nulls, and its n + 1 offsets."""
    buffers: list[Any] = list(values.buffers())
    _, offsets, data = (buffer if buffer is not None else b"" for buffer in buffers)
    large = pa.types.is_large_binary(values.type) or pa.types.is_large_string(values.type)
    width = np.int64 if large else np.int32
    bounds = np.frombuffer(offsets, width)[values.offset :][: len(values) + 1]
    return np.frombuffer(data, np.uint8), bounds.astype(np.int64)
