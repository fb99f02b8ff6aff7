"""One value for each group: counts, sums, minima and maxima of what `query.value` has.

    function     of                                   its type
    count        anything, or rows                    int64
    sum          integers                             decimal128(38, 0)
                 DECIMAL(p, s), expressions of them   decimal128(38, s) up to 19 digits,
                                                      decimal256(76, s) above
                 FLOAT, DOUBLE                        float64, in an order of its own
    min, max     all but VECTOR                       the same

A sum has room for 2^63 values of its type, so whether it fits another one is for the receiver to
say: Spark makes an error or NULL of a sum of more than 38 digits.

NULLs are left out, as in SQL, and NULL is what there is of nothing but them. Arrow adds 64-bit
numbers without looking whether the sum fits, so it gets those only of which it must; of larger
numbers it gets the halves.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pyspark_theflash.codec.array import primitive
from pyspark_theflash.codec.arrow import DECIMAL128_DIGITS
from pyspark_theflash.errors import SqlOverflowError, UnsupportedError
from pyspark_theflash.query.group import Groups
from pyspark_theflash.query.term import Function
from pyspark_theflash.query.value import (
    WHERE,
    Exact,
    Ints,
    Mask,
    Ordered,
    Rows,
    Texts,
    floats_of,
    magnitude,
    valid_of,
    validity,
)

_INT64_MAX: Final = (1 << 63) - 1
_DECIMAL256_DIGITS: Final = 76
_COUNT_DIGITS: Final = 19
"""Of the largest number of rows."""
_HALF_BITS: Final = 32
_HALF: Final = (1 << _HALF_BITS) - 1
_WORD: Final = (1 << 64) - 1
_UFUNCS: Final[dict[Function, Any]] = {
    Function.SUM: np.add,
    Function.MIN: np.minimum,
    Function.MAX: np.maximum,
}
_WHOLE: Final[dict[str, Any]] = {"sum": pc.sum, "min": pc.min, "max": pc.max}


def reduced_type(function: Function, tp: pa.DataType) -> pa.DataType:
    """See the module. Raises `UnsupportedError`."""
    if function is Function.COUNT:
        return pa.int64()
    if function is not Function.SUM:
        if pa.types.is_nested(tp):
            raise UnsupportedError(f"{function.value} of {tp}", WHERE)
        return tp
    if pa.types.is_decimal(tp):
        if tp.precision + _COUNT_DIGITS > DECIMAL128_DIGITS:
            return pa.decimal256(_DECIMAL256_DIGITS, tp.scale)
        return pa.decimal128(DECIMAL128_DIGITS, tp.scale)
    if pa.types.is_integer(tp):
        return pa.decimal128(DECIMAL128_DIGITS, 0)
    if pa.types.is_floating(tp):
        return pa.float64()
    raise UnsupportedError(f"a sum of {tp}", WHERE)


Finish: TypeAlias = Callable[[Sequence[pa.Array]], pa.Array]
"""Makes an aggregate of what Arrow answered."""


class Reduction:
    """Reduces columns by the same groups: all that Arrow is asked, it is asked in one go."""

    def __init__(self, groups: Groups) -> None:
        self._groups = groups
        self._asked: list[tuple[str, pa.Array]] = []
        self._rows: pa.Array | None = None

    def run(self, wanted: Sequence[tuple[Function, Rows | None, pa.DataType]]) -> list[pa.Array]:
        """Functions of columns, each in a type that holds its values; COUNT of None counts rows.

        Raises:
            SqlOverflowError: a sum that does not fit its type.
        """
        finish = [self._begin(*each) for each in wanted]
        answers = self._answers()
        return [each(answers) for each in finish]

    def _begin(self, function: Function, value: Rows | None, to: pa.DataType) -> Finish:
        if function is Function.COUNT:
            counts = self._counts(None if value is None else validity(value))
            return lambda answers: counts
        if isinstance(value, Texts):
            return self._texts(function, value)
        if isinstance(value, Ordered):
            return self._ordered(function, value, to)
        if isinstance(value, Exact):
            return self._exact(function, value, to)
        raise UnsupportedError(f"{function.value} of such a value", WHERE)

    def _counts(self, valid: Mask | None) -> pa.Array:
        if self._groups.count == 1:
            rows = len(self._groups.codes) if valid is None else int(np.count_nonzero(valid))
            return pa.array([rows])
        if valid is not None:
            return pa.array(np.bincount(self._groups.codes[valid], minlength=self._groups.count))
        if self._rows is None:
            self._rows = pa.array(np.bincount(self._groups.codes, minlength=self._groups.count))
        return self._rows

    def _exact(self, function: Function, value: Exact, to: pa.DataType) -> Finish:
        ints = value.ints
        if ints.dtype == object:
            found = self._slowly(function, ints, value.valid)
            return lambda answers: exact_array(*found, to)
        bound = magnitude(ints) * max(len(ints), 1)
        if function is not Function.SUM or bound <= _INT64_MAX:
            at = self._ask(function.value, _arrow(ints, value.valid))
            return lambda answers: exact_array(*_parts(answers[at]), to)
        high = self._ask("sum", _arrow(ints >> _HALF_BITS, value.valid))
        low = self._ask("sum", _arrow(ints & _HALF, value.valid))

        def joined(answers: Sequence[pa.Array]) -> pa.Array:
            (highs, valid), (lows, _) = _parts(answers[high]), _parts(answers[low])
            return exact_array(
                (highs.astype(object) << _HALF_BITS) + lows.astype(object), valid, to
            )

        return joined

    def _ordered(self, function: Function, value: Ordered, to: pa.DataType) -> Finish:
        if function is Function.SUM:
            floats = floats_of(value.ints.astype(np.int64, copy=False))
            at = self._ask("sum", _arrow(floats, value.valid))
            return lambda answers: answers[at]
        at = self._ask(function.value, _arrow(value.ints, value.valid))
        return lambda answers: ordered_array(*_parts(answers[at]), to)

    def _texts(self, function: Function, value: Texts) -> Finish:
        texts = value.values
        if not pa.types.is_dictionary(texts.type):
            at = self._ask(function.value, texts)
            return lambda answers: answers[at]
        order = pc.array_sort_indices(texts.dictionary)
        ranks = np.empty(len(order), np.int64)
        ranks[order.to_numpy()] = np.arange(len(order))
        at = self._ask(function.value, pa.array(ranks).take(texts.indices))
        return lambda answers: texts.dictionary.take(order).take(answers[at])

    def _ask(self, function: str, values: pa.Array) -> int:
        self._asked.append((function, values))
        return len(self._asked) - 1

    def _answers(self) -> Sequence[pa.Array]:
        """Of each thing asked, a value for each group, null where there is none."""
        if not self._asked:
            return []
        if self._groups.count == 1:
            return [_whole(function, values) for function, values in self._asked]
        codes = pa.array(self._groups.codes.astype(np.int32))
        columns = {f"v{at}": values for at, (_, values) in enumerate(self._asked)}
        grouped = pa.table({"code": codes, **columns}).group_by("code", use_threads=False)
        functions = [(f"v{at}", function) for at, (function, _) in enumerate(self._asked)]
        found = grouped.aggregate(functions).combine_chunks()
        order = pc.array_sort_indices(_one(found["code"]))
        return [_one(found[f"{name}_{f}"]).take(order) for name, f in functions]

    def _slowly(
        self, function: Function, ints: Ints, valid: Mask | None
    ) -> tuple[Ints, Mask | None]:
        """With Python's numbers."""
        codes = self._groups.codes
        if valid is not None:
            codes, ints = codes[valid], ints[valid]
        order = np.argsort(codes, kind="stable")
        codes, ints = codes[order], ints[order]
        found, starts = np.unique(codes, return_index=True)
        result = np.zeros(self._groups.count, object)
        has_any = np.zeros(self._groups.count, np.bool_)
        if len(found):
            result[found] = _UFUNCS[function].reduceat(ints, starts)
            has_any[found] = True
        return result, has_any


def exact_array(ints: Ints, valid: Mask | None, to: pa.DataType) -> pa.Array:
    """Whole numbers as integers, or as decimals without their point.

    Raises:
        SqlOverflowError: one does not fit the type's digits.
    """
    if valid is not None:
        ints = np.where(valid, ints, 0)
    if not pa.types.is_decimal(to):
        return _arrow(ints.astype(to.to_pandas_dtype()), valid)
    if magnitude(ints) >= 10**to.precision:
        raise SqlOverflowError(f"a sum of more than {to.precision} digits")
    words = to.byte_width // 8
    limbs = np.empty((len(ints), words), np.int64)
    if ints.dtype == object:
        for at in range(words):
            limbs[:, at] = (ints >> 64 * at & _WORD).astype(np.uint64).view(np.int64)
    else:
        limbs[:, 0] = ints
        limbs[:, 1:] = limbs[:, :1] >> 63
    return primitive(limbs, to, valid)


def ordered_array(ints: Ints, valid: Mask | None, to: pa.DataType) -> pa.Array:
    """Values of `query.value.Ordered` in their type."""
    if pa.types.is_floating(to):
        return pc.cast(_arrow(floats_of(ints), valid), to)
    width = pa.int32() if pa.types.is_date32(to) else pa.int64()
    return pc.cast(_arrow(ints, valid), width).view(to)


def _whole(function: str, values: pa.Array) -> pa.Array:
    """What Arrow computes of all rows."""
    scalar = _WHOLE[function](values, min_count=1)
    return pa.array([scalar.as_py()], scalar.type)


def _arrow(values: npt.NDArray[Any], valid: Mask | None) -> pa.Array:
    return pa.array(values, mask=None if valid is None else ~valid, from_pandas=False)


def _parts(values: pa.Array) -> tuple[npt.NDArray[Any], Mask | None]:
    """Numbers, 0 for nulls, and which are none."""
    valid = valid_of(values)
    filled = values if valid is None else pc.fill_null(values, 0)
    return filled.to_numpy(zero_copy_only=False), valid


def _one(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
