"""Values that a condition chooses among several, row by row."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pyspark_theflash.base.budget import Budget
from pyspark_theflash.base.errors import UnsupportedError
from pyspark_theflash.read.pushdown.value import WHERE, Exact, Ordered, Rows, Texts


def choose(parts: Sequence[Rows], chosen: npt.NDArray[np.int16], budget: Budget) -> Rows:
    """Select for each row the value of the part `chosen`; NULL where it is -1.

    Raises:
        UnsupportedError: The values have different types, or one without comparison.
        SqlMemoryError: The dictionaries of strings are larger than the budget.
    """
    if any(part.type != parts[0].type for part in parts):
        raise UnsupportedError("a choice between values of different types", WHERE)
    texts = [part for part in parts if isinstance(part, Texts)]
    if len(texts) == len(parts):
        return _choose_texts(texts, chosen, budget)
    numbers = [part for part in parts if isinstance(part, Exact | Ordered)]
    if len(numbers) == len(parts):
        return _choose_numbers(numbers, chosen, budget)
    raise UnsupportedError(f"a choice of {parts[0].type}", WHERE)


def _choose_numbers(
    parts: Sequence[Exact | Ordered], chosen: npt.NDArray[np.int16], budget: Budget
) -> Rows:
    wide = any(part.ints.dtype == object for part in parts)
    ints: npt.NDArray[Any] = np.zeros(len(chosen), object if wide else np.int64)
    valid = chosen >= 0
    for at, part in enumerate(parts):
        budget.check()
        rows = chosen == at
        np.copyto(ints, part.ints, where=rows)
        if part.valid is not None:
            valid &= part.valid | ~rows
    return type(parts[0])(ints, parts[0].type, None if valid.all() else valid)


def _choose_texts(parts: Sequence[Texts], chosen: npt.NDArray[np.int16], budget: Budget) -> Texts:
    places = np.zeros(len(chosen), np.int64)
    valid = chosen >= 0
    words: list[pa.Array] = []
    starts: dict[tuple[int, ...], int] = {}
    count = size_bytes = 0
    for at, part in enumerate(parts):
        budget.check()
        values, rows = part.values, chosen == at
        if not pa.types.is_dictionary(values.type):
            values = pc.dictionary_encode(values)
        indices = values.indices
        if indices.null_count:
            valid &= indices.is_valid().to_numpy(zero_copy_only=False) | ~rows
            indices = pc.fill_null(indices, 0)
        here = indices.to_numpy(zero_copy_only=False).astype(np.int64)
        key = _place_of(values.dictionary)
        if key not in starts:
            size_bytes += values.dictionary.nbytes
            if size_bytes > budget.memory_bytes:
                raise budget.exceeded()
            starts[key] = count
            words.append(values.dictionary)
            count += len(values.dictionary)
        np.copyto(places, here + starts[key], where=rows)
    mask = None if valid.all() else ~valid
    indices = pa.array(places.astype(np.int32), mask=mask)
    return Texts(pa.DictionaryArray.from_arrays(indices, pa.concat_arrays(words)), parts[0].type)


def _place_of(words: pa.Array) -> tuple[int, ...]:
    """Return a key that only arrays of the same memory share, while they exist."""
    buffers = [0 if each is None else each.address for each in words.buffers()]
    return words.offset, len(words), *buffers


def spread(values: Rows, indices: npt.NDArray[np.int64], rows: int) -> Rows:
    """Return the values at their row indices; arbitrary elsewhere."""
    to = np.zeros(rows, np.int64)
    to[indices] = np.arange(len(indices))
    if isinstance(values, Exact | Ordered):
        if not len(indices):
            return type(values)(np.zeros(rows, np.int64), values.type, np.zeros(rows, np.bool_))
        valid = None if values.valid is None else values.valid[to]
        return type(values)(values.ints[to], values.type, valid)
    if not len(indices):
        return type(values)(pa.nulls(rows, values.values.type), values.type)
    return type(values)(values.values.take(pa.array(to)), values.type)
