"""Grouping of rows, and aggregate functions with one result per group.

    function     argument                             result type
    count        any value, or rows                   int64
    sum          integers                             decimal128(38, 0)
                 DECIMAL(p, s), expressions of them   decimal128(38, s) up to 19 digits,
                                                      decimal256(76, s) above
                 FLOAT, DOUBLE                        float64; the order of addition is not defined
    min, max     all but VECTOR                       type of the argument

A sum has room for 2^63 values of the argument's type. The receiver decides whether the total fits
its own type: for more than 38 digits Spark raises an error or returns NULL.

NULLs are skipped; the result for a group without other values is NULL. NumPy does not check int64
sums for overflow, so it adds values whose sum certainly fits, and otherwise their upper and lower
halves. For groups of about one row it is several times as fast as Arrow's hash aggregation.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pyspark_theflash.base.errors import SqlOverflowError, UnsupportedError
from pyspark_theflash.read.pushdown.term import AggregateFunction
from pyspark_theflash.read.pushdown.value import (
    WHERE,
    Exact,
    Ints,
    Mask,
    Ordered,
    Rows,
    Texts,
    floats_of,
    magnitude,
    ordered_floats,
    valid_of,
    validity,
)
from pyspark_theflash.tidb.codec.array import primitive
from pyspark_theflash.tidb.codec.arrow import DECIMAL128_DIGITS

_INT64_MAX: Final = (1 << 63) - 1
_DECIMAL256_DIGITS: Final = 76
_COUNT_DIGITS: Final = 19
"""Decimal digits of the largest number of rows."""
_HALF_BITS: Final = 32
_HALF: Final = (1 << _HALF_BITS) - 1
_WORD: Final = (1 << 64) - 1
_UFUNCS: Final[dict[AggregateFunction, Any]] = {
    AggregateFunction.SUM: np.add,
    AggregateFunction.MIN: np.minimum,
    AggregateFunction.MAX: np.maximum,
}
Codes: TypeAlias = npt.NDArray[np.int64]
_SPARSE: Final = 4
"""Up to so many table slots per row, a lookup table is faster than hashing."""


@dataclass(frozen=True, slots=True)
class Groups:
    """Groups of rows: `codes[row]` is below `count`; `keys` has one array per grouping column.

    `sizes` has the number of rows of each group; None: it has not been counted.
    """

    codes: Codes
    count: int
    keys: tuple[pa.Array, ...]
    sizes: Codes | None = None


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
            codes, distinct_codes, _ = _dense(codes, size)
            size, are_places = len(distinct_codes), False
        codes = codes * len(values) + part
        size *= len(values)
    codes, distinct_codes, sizes = _dense(codes, size)
    if are_places:
        chosen = _places(distinct_codes, [len(values) for _, values in parts])
    else:
        rows_of_groups = np.zeros(len(distinct_codes), np.int64)
        rows_of_groups[codes] = np.arange(rows)
        chosen = [part[rows_of_groups] for part, _ in parts]
    keys = [
        values.take(pa.array(indices)) for indices, (_, values) in zip(chosen, parts, strict=True)
    ]
    return Groups(codes, len(distinct_codes), tuple(keys), sizes)


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


def _dense(codes: Codes, size: int) -> tuple[Codes, Codes, Codes | None]:
    """Renumber codes below `size` without gaps.

    Returns also the original codes, and the number of rows of each, if it was counted.
    """
    if size <= max(_SPARSE * len(codes), 1 << 10):
        counts = np.bincount(codes, minlength=size)
        distinct_codes = np.flatnonzero(counts)
        if len(distinct_codes) == size:
            return codes, distinct_codes, counts
        places = np.zeros(size, np.int64)
        places[distinct_codes] = np.arange(len(distinct_codes))
        return places[codes], distinct_codes, counts[distinct_codes]
    encoded = pc.dictionary_encode(pa.array(codes))
    numbers: Codes = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    return numbers, encoded.dictionary.to_numpy(zero_copy_only=False), None


def reduced_type(function: AggregateFunction, tp: pa.DataType) -> pa.DataType:
    """Return the result type; see the module docstring. Raises `UnsupportedError`."""
    if function is AggregateFunction.COUNT:
        return pa.int64()
    if function is not AggregateFunction.SUM:
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


class Reduction:
    """Aggregates columns by the same groups."""

    def __init__(self, groups: Groups) -> None:
        self._groups = groups
        self._sizes = groups.sizes

    def run(self, function: AggregateFunction, value: Rows | None, to: pa.DataType) -> pa.Array:
        """Apply a function; the result type is `to`. COUNT of None counts rows.

        Raises:
            SqlOverflowError: A sum does not fit its type.
        """
        if function is AggregateFunction.COUNT:
            return self._counts(None if value is None else validity(value))
        if isinstance(value, Texts):
            return self._text(function, value.values)
        if isinstance(value, Exact):
            return self._exact(function, value, to)
        if isinstance(value, Ordered):
            if function is AggregateFunction.SUM:
                return _arrow(*self._sums(value.floats, value.valid))
            return ordered_array(*self._ends(function, value.ints, value.valid), to)
        if value is not None and pa.types.is_boolean(value.type):
            bits = pc.fill_null(value.values, False).to_numpy(zero_copy_only=False).view(np.int8)
            return pc.cast(_arrow(*self._ends(function, bits, valid_of(value.values))), to)
        raise UnsupportedError(f"{function.value} of a value of this type", WHERE)

    def _counts(self, valid: Mask | None) -> pa.Array:
        if self._groups.count == 1:
            rows = len(self._groups.codes) if valid is None else int(np.count_nonzero(valid))
            return pa.array([rows])
        if valid is not None:
            return pa.array(np.bincount(self._groups.codes[valid], minlength=self._groups.count))
        if self._sizes is None:
            self._sizes = np.bincount(self._groups.codes, minlength=self._groups.count)
        return pa.array(self._sizes)

    def _exact(self, function: AggregateFunction, value: Exact, to: pa.DataType) -> pa.Array:
        ints = value.ints
        if ints.dtype == object:
            return exact_array(*self._objects(function, ints, value.valid), to)
        if function is not AggregateFunction.SUM:
            return exact_array(*self._ends(function, ints, value.valid), to)
        if magnitude(ints) * max(len(ints), 1) <= _INT64_MAX:
            return exact_array(*self._sums(ints.astype(np.int64, copy=False), value.valid), to)
        highs, valid = self._sums(ints >> _HALF_BITS, value.valid)
        lows, _ = self._sums(ints & _HALF, value.valid)
        return exact_array((highs.astype(object) << _HALF_BITS) + lows.astype(object), valid, to)

    def _sums(
        self, values: npt.NDArray[Any], valid: Mask | None
    ) -> tuple[npt.NDArray[Any], Mask | None]:
        """Add 64-bit numbers, whose sums must fit; also return the groups with values."""
        if valid is not None:
            values = np.where(valid, values, 0)
        sums = np.zeros(self._groups.count, values.dtype)
        # inf + -inf is NaN, with a warning.
        with np.errstate(all="ignore"):
            if self._groups.count == 1:
                sums[0] = values.sum()
            else:
                np.add.at(sums, self._groups.codes, values)
        return sums, self._filled(valid)

    def _ends(
        self, function: AggregateFunction, ints: Ints, valid: Mask | None
    ) -> tuple[npt.NDArray[Any], Mask | None]:
        """Return minima or maxima, and the groups with values."""
        bounds, chosen = np.iinfo(ints.dtype), _UFUNCS[function]
        end = bounds.max if function is AggregateFunction.MIN else bounds.min
        if valid is not None:
            ints = np.where(valid, ints, end)
        ends = np.full(self._groups.count, end, ints.dtype)
        if self._groups.count == 1:
            ends[0] = chosen.reduce(ints, initial=end)
        else:
            chosen.at(ends, self._groups.codes, ints)
        return ends, self._filled(valid)

    def _filled(self, valid: Mask | None) -> Mask | None:
        """Return the groups with a valid row; None: all."""
        codes = self._groups.codes
        if valid is None and len(codes):
            return None
        filled = np.zeros(self._groups.count, np.bool_)
        filled[codes if valid is None else codes[valid]] = True
        return None if filled.all() else filled

    def _text(self, function: AggregateFunction, texts: pa.Array) -> pa.Array:
        if not pa.types.is_dictionary(texts.type):
            return self._plain_text(function, texts)
        order = pc.array_sort_indices(texts.dictionary)
        # A placeholder if the dictionary is empty; no result refers to it.
        ranks = np.zeros(max(len(order), 1), np.int64)
        ranks[order.to_numpy()] = np.arange(len(order))
        places = pc.fill_null(texts.indices, 0).to_numpy(zero_copy_only=False)
        ends, has_any = self._ends(function, ranks[places], valid_of(texts))
        return texts.dictionary.take(order).take(_arrow(ends, has_any))

    def _plain_text(self, function: AggregateFunction, texts: pa.Array) -> pa.Array:
        """Return Arrow's minima or maxima of strings, null for groups without values."""
        if self._groups.count == 1:
            scalar = (pc.min if function is AggregateFunction.MIN else pc.max)(texts)
            return pa.array([scalar.as_py()], scalar.type)
        codes = pa.array(self._groups.codes)
        grouped = pa.table({"code": codes, "v": texts}).group_by("code", use_threads=False)
        table = grouped.aggregate([("v", function.value)]).combine_chunks()
        order = pc.array_sort_indices(_one(table["code"]))
        return _one(table[f"v_{function.value}"]).take(order)

    def _objects(
        self, function: AggregateFunction, ints: Ints, valid: Mask | None
    ) -> tuple[Ints, Mask | None]:
        """Aggregate Python integers."""
        codes = self._groups.codes
        if valid is not None:
            codes, ints = codes[valid], ints[valid]
        order = np.argsort(codes, kind="stable")
        codes, ints = codes[order], ints[order]
        filled, starts = np.unique(codes, return_index=True)
        result = np.zeros(self._groups.count, object)
        has_any = np.zeros(self._groups.count, np.bool_)
        if len(filled):
            result[filled] = _UFUNCS[function].reduceat(ints, starts)
            has_any[filled] = True
        return result, has_any


def exact_array(ints: Ints, valid: Mask | None, to: pa.DataType) -> pa.Array:
    """Convert integers to an Arrow array of integers, or unscaled integers to decimals.

    Raises:
        SqlOverflowError: A value has more digits than the type.
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
    """Convert integers of `read.pushdown.value.Ordered` to an Arrow array."""
    if pa.types.is_floating(to):
        return pc.cast(_arrow(floats_of(ints), valid), to)
    width = pa.int32() if pa.types.is_date32(to) else pa.int64()
    return pc.cast(_arrow(ints, valid), width).view(to)


def _arrow(values: npt.NDArray[Any], valid: Mask | None) -> pa.Array:
    return pa.array(values, mask=None if valid is None else ~valid, from_pandas=False)


def _one(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
