"""Values of terms, with CASE, COALESCE and conditions as values.

A branch is evaluated only for the rows for which Spark evaluates it, if it may raise. All branches
have one type. String results are dictionary-encoded; the dictionary joins those of the branches and
may contain duplicates.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pyspark_theflash.base.errors import UnsupportedError
from pyspark_theflash.read.pushdown.function import applied
from pyspark_theflash.read.pushdown.predicate import MATCHES, Truth, truth
from pyspark_theflash.read.pushdown.term import (
    ARITHMETIC,
    COMPARISONS,
    ColumnTerm,
    FunctionTerm,
    LiteralTerm,
    Term,
    column_names,
    distinct,
)
from pyspark_theflash.read.pushdown.value import (
    WHERE,
    Batch,
    Constant,
    Exact,
    Mask,
    Ordered,
    Other,
    Rows,
    Texts,
    Value,
    computed,
    validity,
)

_CONDITIONS: Final = frozenset(
    {"and", "or", "not", "in", "is null", "is not null", *COMPARISONS, *MATCHES}
)
_NEVER_RAISE: Final = frozenset({"case", "coalesce", *_CONDITIONS})


def value(term: Term, batch: Batch) -> Value:
    """Evaluate a term for each row.

    Raises:
        UnsupportedError: The result could differ from Spark's. Also raised for an empty batch.
        ColumnNotFoundError: The term names a column that is not in the batch.
        SqlOverflowError: A result does not fit its type.
    """
    if isinstance(term, ColumnTerm):
        return batch.column(term.name)
    if isinstance(term, LiteralTerm):
        return Constant(term)
    if term.name in _CONDITIONS:
        return _truths(truth(term, batch))
    if term.name == "case":
        return _case(term.arguments, batch)
    if term.name == "coalesce":
        return _coalesce(term.arguments, batch)
    arguments = [value(argument, batch) for argument in term.arguments]
    if term.name in ARITHMETIC and len(arguments) == 2:
        return computed(term.name, *arguments)
    return applied(term.name, arguments, batch.rows)


def _truths(truths: Truth) -> Other:
    return Other(pa.array(truths.true, mask=~(truths.true | truths.false)), pa.bool_())


def _case(arguments: Sequence[Term], batch: Batch) -> Rows:
    if len(arguments) < 2:
        raise UnsupportedError("a CASE without branches", WHERE)
    parts: list[Rows] = []
    chosen = np.full(batch.rows, -1, np.int16)
    rest = np.ones(batch.rows, np.bool_)
    for at in range(0, len(arguments) - 1, 2):
        condition = arguments[at]
        selected = rest & _among(condition, batch, rest)
        parts.append(_of(arguments[at + 1], batch, selected))
        chosen[selected] = at // 2
        rest &= ~selected
    if len(arguments) % 2:
        parts.append(_of(arguments[-1], batch, rest))
        chosen[rest] = len(parts) - 1
    return _joined(parts, chosen)


def _coalesce(arguments: Sequence[Term], batch: Batch) -> Rows:
    if not arguments:
        raise UnsupportedError("a COALESCE without arguments", WHERE)
    parts: list[Rows] = []
    chosen = np.full(batch.rows, -1, np.int16)
    rest = np.ones(batch.rows, np.bool_)
    for term in arguments:
        parts.append(_of(term, batch, rest))
        valid = validity(parts[-1])
        selected = rest if valid is None else rest & valid
        chosen[selected] = len(parts) - 1
        rest = rest & ~selected
    return _joined(parts, chosen)


def _among(condition: Term, batch: Batch, among: Mask) -> Mask:
    """Return the rows of `among` for which a condition is true."""
    if not _may_raise(condition):
        return truth(condition, batch).true
    mask = np.zeros(batch.rows, np.bool_)
    indices = np.flatnonzero(among)
    mask[indices] = truth(condition, _only(condition, batch, indices)).true
    return mask


def _of(term: Term, batch: Batch, among: Mask) -> Rows:
    """Evaluate a term for the rows `among`; the values of other rows are arbitrary."""
    if not _may_raise(term):
        result = value(term, batch)
    else:
        indices = np.flatnonzero(among)
        result = value(term, _only(term, batch, indices))
        if not isinstance(result, Constant):
            result = _spread(result, indices, batch.rows)
    if isinstance(result, Constant):
        raise UnsupportedError("a literal without a type", WHERE)
    return result


def _only(term: Term, batch: Batch, places: npt.NDArray[np.int64]) -> Batch:
    return batch.only(distinct(list(column_names(term))), places)


def _may_raise(term: Term) -> bool:
    """Return whether the term computes anything beyond comparing columns and literals."""
    if not isinstance(term, FunctionTerm):
        return False
    if term.name.startswith("as ") and isinstance(term.arguments[0], LiteralTerm):
        return False
    return term.name not in _NEVER_RAISE or any(map(_may_raise, term.arguments))


def _spread(values: Rows, indices: npt.NDArray[np.int64], rows: int) -> Rows:
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


def _joined(parts: Sequence[Rows], chosen: npt.NDArray[np.int16]) -> Rows:
    """Select for each row the value of the part `chosen`; NULL where it is -1."""
    if any(part.type != parts[0].type for part in parts):
        raise UnsupportedError("a choice between values of different types", WHERE)
    texts = [part for part in parts if isinstance(part, Texts)]
    if len(texts) == len(parts):
        return _joined_texts(texts, chosen)
    numbers = [part for part in parts if isinstance(part, Exact | Ordered)]
    if len(numbers) == len(parts):
        return _joined_numbers(numbers, chosen)
    raise UnsupportedError(f"a choice of {parts[0].type}", WHERE)


def _joined_numbers(parts: Sequence[Exact | Ordered], chosen: npt.NDArray[np.int16]) -> Rows:
    wide = any(part.ints.dtype == object for part in parts)
    ints: npt.NDArray[Any] = np.zeros(len(chosen), object if wide else np.int64)
    valid = chosen >= 0
    for at, part in enumerate(parts):
        rows = chosen == at
        np.copyto(ints, part.ints, where=rows)
        if part.valid is not None:
            valid &= part.valid | ~rows
    return type(parts[0])(ints, parts[0].type, None if valid.all() else valid)


def _joined_texts(parts: Sequence[Texts], chosen: npt.NDArray[np.int16]) -> Texts:
    places = np.zeros(len(chosen), np.int64)
    valid = chosen >= 0
    words: list[pa.Array] = []
    count = 0
    for at, part in enumerate(parts):
        values, rows = part.values, chosen == at
        if not pa.types.is_dictionary(values.type):
            values = pc.dictionary_encode(values)
        indices = values.indices
        if indices.null_count:
            valid &= indices.is_valid().to_numpy(zero_copy_only=False) | ~rows
            indices = pc.fill_null(indices, 0)
        here = indices.to_numpy(zero_copy_only=False).astype(np.int64)
        np.copyto(places, here + count, where=rows)
        words.append(values.dictionary)
        count += len(values.dictionary)
    mask = None if valid.all() else ~valid
    indices = pa.array(places.astype(np.int32), mask=mask)
    return Texts(pa.DictionaryArray.from_arrays(indices, pa.concat_arrays(words)), parts[0].type)
