"""Values that conditions choose: CASE, COALESCE, and conditions themselves as values.

A value is computed, and a condition looked at, of those rows only that Spark computes it of, where
it may raise. All values of a CASE have one type; texts come as places in a dictionary of all words
that there are, literals among them, in which words may stand twice.
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
    """What a term is of each row.

    Raises:
        UnsupportedError: it cannot be told exactly as Spark would; the same for no rows at all.
        ColumnNotFoundError: it names a column that the batch lacks.
        SqlOverflowError: a result that its type does not hold.
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


def _truths(told: Truth) -> Other:
    return Other(pa.array(told.true, mask=~(told.true | told.false)), pa.bool_())


def _case(arguments: Sequence[Term], batch: Batch) -> Rows:
    if len(arguments) < 2:
        raise UnsupportedError("a CASE of nothing", WHERE)
    parts: list[Rows] = []
    chosen = np.full(batch.rows, -1, np.int16)
    left = np.ones(batch.rows, np.bool_)
    for at in range(0, len(arguments) - 1, 2):
        condition = arguments[at]
        now = left & _among(condition, batch, left)
        parts.append(_of(arguments[at + 1], batch, now))
        chosen[now] = at // 2
        left &= ~now
    if len(arguments) % 2:
        parts.append(_of(arguments[-1], batch, left))
        chosen[left] = len(parts) - 1
    return _joined(parts, chosen)


def _coalesce(arguments: Sequence[Term], batch: Batch) -> Rows:
    if not arguments:
        raise UnsupportedError("a COALESCE of nothing", WHERE)
    parts: list[Rows] = []
    chosen = np.full(batch.rows, -1, np.int16)
    left = np.ones(batch.rows, np.bool_)
    for term in arguments:
        parts.append(_of(term, batch, left))
        valid = validity(parts[-1])
        now = left if valid is None else left & valid
        chosen[now] = len(parts) - 1
        left = left & ~now
    return _joined(parts, chosen)


def _among(condition: Term, batch: Batch, among: Mask) -> Mask:
    """The rows, of those `among`, for which a condition is true."""
    if not _may_raise(condition):
        return truth(condition, batch).true
    found = np.zeros(batch.rows, np.bool_)
    places = np.flatnonzero(among)
    found[places] = truth(condition, _only(condition, batch, places)).true
    return found


def _of(term: Term, batch: Batch, among: Mask) -> Rows:
    """A value of the rows `among`, and anything of the others."""
    if not _may_raise(term):
        found = value(term, batch)
    else:
        places = np.flatnonzero(among)
        found = value(term, _only(term, batch, places))
        if not isinstance(found, Constant):
            found = _spread(found, places, batch.rows)
    if isinstance(found, Constant):
        raise UnsupportedError("a literal without a type", WHERE)
    return found


def _only(term: Term, batch: Batch, places: npt.NDArray[np.int64]) -> Batch:
    return batch.only(distinct(list(column_names(term))), places)


def _may_raise(term: Term) -> bool:
    """Whether it computes anything, beyond comparing columns and literals."""
    if not isinstance(term, FunctionTerm):
        return False
    if term.name.startswith("as ") and isinstance(term.arguments[0], LiteralTerm):
        return False
    return term.name not in _NEVER_RAISE or any(map(_may_raise, term.arguments))


def _spread(found: Rows, places: npt.NDArray[np.int64], rows: int) -> Rows:
    """The values at their places."""
    to = np.zeros(rows, np.int64)
    to[places] = np.arange(len(places))
    if isinstance(found, Exact | Ordered):
        if not len(places):
            return type(found)(np.zeros(rows, np.int64), found.type, np.zeros(rows, np.bool_))
        valid = None if found.valid is None else found.valid[to]
        return type(found)(found.ints[to], found.type, valid)
    if not len(places):
        return type(found)(pa.nulls(rows, found.values.type), found.type)
    return type(found)(found.values.take(pa.array(to)), found.type)


def _joined(parts: Sequence[Rows], chosen: npt.NDArray[np.int16]) -> Rows:
    """Of each row the value of the part that is chosen; NULL where none is."""
    if any(part.type != parts[0].type for part in parts):
        raise UnsupportedError("values of different types", WHERE)
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
