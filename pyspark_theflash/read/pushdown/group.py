"""Grouping of rows: a group number for each row, and the keys of each group."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pyspark_theflash.base.errors import UnsupportedError
from pyspark_theflash.read.pushdown.value import WHERE, floats_of, ordered_floats

Codes = npt.NDArray[np.int64]
_INT64_MAX = (1 << 63) - 1
_SPARSE = 4
"""Up to so many table slots per row, a lookup table is faster than hashing."""


@dataclass(frozen=True, slots=True)
class Groups:
    """Groups of rows: `codes[row]` is below `count`; `keys` has one array per grouping column."""

    codes: Codes
    count: int
    keys: tuple[pa.Array, ...]


def groups_of(columns: Sequence[pa.Array], rows: int) -> Groups:
    """Group rows. NULL and NaN are keys like others; 0.0 equals -0.0.

    Without columns there is one group, even without rows.

    Raises:
        UnsupportedError: Rows cannot be grouped by the type of a column.
    """
    if not columns:
        return Groups(np.zeros(rows, np.int64), 1, ())
    parts = [_encoded(column) for column in columns]
    codes, size, are_places = parts[0][0], len(parts[0][1]), True
    for part, values in parts[1:]:
        if size * len(values) > np.iinfo(np.int64).max:
            codes, distinct_codes = _dense(codes, size)
            size, are_places = len(distinct_codes), False
        codes = codes * len(values) + part
        size *= len(values)
    codes, distinct_codes = _dense(codes, size)
    if are_places:
        chosen = _places(distinct_codes, [len(values) for _, values in parts])
    else:
        rows_of_groups = np.zeros(len(distinct_codes), np.int64)
        rows_of_groups[codes] = np.arange(rows)
        chosen = [part[rows_of_groups] for part, _ in parts]
    keys = [
        values.take(pa.array(indices)) for indices, (_, values) in zip(chosen, parts, strict=True)
    ]
    return Groups(codes, len(distinct_codes), tuple(keys))


def groups_apart(columns: Sequence[pa.Array], rows: int) -> Groups:
    """Make each row a group of its own, without looking for equal ones; see `groups_of`."""
    return Groups(np.arange(rows), rows, tuple(map(_plain, columns)))


def _plain(values: pa.Array) -> pa.Array:
    if pa.types.is_dictionary(values.type):
        return values.dictionary_decode()
    return _normal(values) if pa.types.is_floating(values.type) else values


def _places(codes: Codes, sizes: Sequence[int]) -> list[Codes]:
    """Split combined codes into the codes of the columns, each below its size."""
    parts: list[Codes] = []
    for size in reversed(sizes):
        parts.insert(0, codes % max(size, 1))
        codes = codes // max(size, 1)
    return parts


def group_type(tp: pa.DataType) -> pa.DataType:
    """Return the type of a group key. Raises `UnsupportedError`."""
    inner = tp.value_type if pa.types.is_dictionary(tp) else tp
    if pa.types.is_nested(inner):
        raise UnsupportedError(f"grouping by {inner}", WHERE)
    return inner


def _encoded(values: pa.Array) -> tuple[Codes, pa.Array]:
    """Return each row's index into an array of keys, which may contain unused ones."""
    tp = group_type(values.type)
    if pa.types.is_floating(tp):
        values = _normal(values)
    if (pa.types.is_integer(tp) and values.type == tp) or pa.types.is_date32(values.type):
        ranged = _ranged(values)
        if ranged is not None:
            return ranged
    if not pa.types.is_dictionary(values.type):
        values = pc.dictionary_encode(values)
    distinct: Any = values.dictionary
    codes = values.indices
    if codes.null_count:
        codes = pc.fill_null(codes, len(distinct))
        distinct = pa.concat_arrays([distinct, pa.nulls(1, tp)])
    return codes.to_numpy(zero_copy_only=False).astype(np.int64), distinct


def _normal(values: pa.Array) -> pa.Array:
    """Replace all NaNs by one NaN and -0.0 by 0.0."""
    floats = floats_of(ordered_floats(pc.fill_null(values, 0).to_numpy().astype(np.float64)))
    mask = None if not values.null_count else values.is_null().to_numpy(zero_copy_only=False)
    tp = values.type
    return pa.array(floats.astype(tp.to_pandas_dtype()), tp, mask=mask, from_pandas=False)


def _ranged(values: pa.Array) -> tuple[Codes, pa.Array] | None:
    """Encode integers of a small range as the distance from the minimum; else return None."""
    tp = pa.int32() if pa.types.is_date32(values.type) else values.type
    bounds = pc.min_max(values.view(tp))
    if not bounds["min"].is_valid:
        return None
    low, high = bounds["min"].as_py(), bounds["max"].as_py()
    count = high - low + 1
    if count > _SPARSE * len(values) or high > _INT64_MAX:
        return None
    distinct = pa.array(np.arange(count) + low).cast(tp).view(values.type)
    numbers = values.view(tp)
    if values.null_count:
        numbers = pc.fill_null(numbers, low)
    codes: Codes = numbers.to_numpy(zero_copy_only=False).astype(np.int64) - low
    if values.null_count:
        codes[values.is_null().to_numpy(zero_copy_only=False)] = count
        distinct = pa.concat_arrays([distinct, pa.nulls(1, values.type)])
    return codes, distinct


def _dense(codes: Codes, size: int) -> tuple[Codes, Codes]:
    """Renumber codes below `size` without gaps; also return the original codes."""
    if size <= max(_SPARSE * len(codes), 1 << 10):
        counts = np.bincount(codes, minlength=size)
        distinct_codes = np.flatnonzero(counts)
        if len(distinct_codes) == size:
            return codes, distinct_codes
        places = np.zeros(size, np.int64)
        places[distinct_codes] = np.arange(len(distinct_codes))
        return places[codes], distinct_codes
    encoded = pc.dictionary_encode(pa.array(codes))
    numbers: Codes = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    return numbers, encoded.dictionary.to_numpy(zero_copy_only=False)
