"""Conversion to integers, BIT, YEAR, DECIMAL, FLOAT and DOUBLE.

A number out of range becomes the nearest number in range. Floats are rounded half to even, decimals
and texts half away from zero. ENUM and SET are converted like DOUBLE. The rules are those of TiDB's
types/datum.go and types/convert.go, including two that look like mistakes: a float at or above the
largest value of an unsigned type narrower than BIGINT is stored as 2^64 - 1, which is out of range
of the column (here it raises an error), and a negative text becomes NULL in an unsigned column.
"""

from decimal import ROUND_HALF_UP, Context, Decimal
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pyspark_theflash.tidb.codec.array import map_distinct, primitive
from pyspark_theflash.tidb.codec.arrow import arrow_type, decimal_type
from pyspark_theflash.tidb.codec.change import TypeChange
from pyspark_theflash.tidb.codec.convert_time import times_as_integers, times_as_numbers, years
from pyspark_theflash.tidb.codec.field_type import (
    DATETIME_TYPES,
    STRING_TYPES,
    FieldType,
    MySQLType,
)
from pyspark_theflash.tidb.codec.loose_number import (
    MAX_INT64,
    MAX_UINT64,
    MIN_INT64,
    loose_decimal,
    loose_float,
    loose_int64,
    loose_integer,
    loose_uint64,
    trim,
)

_BITS: Final = {
    MySQLType.TINY: 8,
    MySQLType.SHORT: 16,
    MySQLType.INT24: 24,
    MySQLType.LONG: 32,
    MySQLType.LONGLONG: 64,
}
_TIME_TYPES: Final = DATETIME_TYPES | {MySQLType.TIME}
# Types whose values are converted as float64.
_FLOAT_TYPES: Final = frozenset({MySQLType.FLOAT, MySQLType.DOUBLE, MySQLType.ENUM, MySQLType.SET})
_MIN_YEAR: Final = 1901
_MAX_YEAR: Final = 2155
_MAX_FLOAT32: Final = float(np.finfo(np.float32).max)
# Precision of Arrow's widest decimal type.
_MAX_DIGITS: Final = 76
# Enough for all digits of any double, with the fraction of any DECIMAL.
_WIDE: Final = Context(prec=400, rounding=ROUND_HALF_UP)

_Floats = npt.NDArray[np.float64]


def to_integer(change: TypeChange, values: pa.Array) -> pa.Array:
    """Convert values to an integer type; null where TiDB has NULL. Raises `UnsupportedError`."""
    new = change.new
    low, high = integer_range(new)
    if new.is_unsigned:
        numbers = _unsigned(change, values, high)
    else:
        numbers = _signed(change, values, low, high)
    return pc.cast(numbers, arrow_type(new))


def integer_range(tp: FieldType) -> tuple[int, int]:
    """Return the lowest and the highest value of TINYINT to BIGINT."""
    bits = _BITS[tp.tp]
    return (0, 2**bits - 1) if tp.is_unsigned else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def _signed(change: TypeChange, values: pa.Array, low: int, high: int) -> pa.Array:
    old = change.old
    if old.tp in STRING_TYPES:
        numbers = map_distinct(pc.cast(values, pa.binary()), loose_int64, pa.int64())
    elif old.tp in _TIME_TYPES:
        numbers = primitive(times_as_integers(change, values), pa.int64())
    else:
        numbers = _as_numbers(values, old)
    return _clamp(numbers, low, high)


def _unsigned(change: TypeChange, values: pa.Array, high: int) -> pa.Array:
    old = change.old
    if old.tp in STRING_TYPES:
        numbers = map_distinct(pc.cast(values, pa.binary()), loose_uint64, pa.uint64())
        limit = pa.scalar(high, pa.uint64())
        return pc.min_element_wise(numbers, limit, skip_nulls=False)
    numbers = _as_numbers(values, old)
    overflows = old.tp in _FLOAT_TYPES and high < MAX_UINT64
    if overflows and (np.rint(numbers.to_numpy()) >= high).any():
        raise change.unsupported("TiDB stored a value out of range as 2^64 - 1")
    return _clamp(numbers, 0, high)


def _as_numbers(values: pa.Array, old: FieldType) -> pa.Array:
    """Convert all but strings to int64, uint64, float64 or decimals, exactly except large SETs."""
    numbers: pa.Array
    if old.tp in _TIME_TYPES:
        return times_as_numbers(values, old)
    if old.tp == MySQLType.NEWDECIMAL:
        return values
    if old.tp in _FLOAT_TYPES:
        numbers = pc.cast(values, pa.float64(), safe=False)
    else:
        is_unsigned = pa.types.is_unsigned_integer(values.type)
        numbers = pc.cast(values, pa.uint64() if is_unsigned else pa.int64())
    return numbers


def _clamp(numbers: pa.Array, low: int, high: int) -> pa.Array:
    """Round to integers and clamp to [low, high]; return int64, or uint64 if `high` requires it."""
    target = pa.uint64() if high > MAX_INT64 else pa.int64()
    lowest, highest = pa.scalar(low, target), pa.scalar(high, target)
    if pa.types.is_decimal(numbers.type):
        rounded = _round(numbers, 0)
        is_under = pc.less(rounded, pa.scalar(Decimal(low), rounded.type))
        is_over = pc.greater(rounded, pa.scalar(Decimal(high), rounded.type))
    else:
        data = numbers.to_numpy()
        if pa.types.is_floating(numbers.type):
            data = np.rint(data)
        # Exact for integers. For floats, a `high` of 2^63 - 1 is compared as 2^63.
        is_over = pa.array(data >= high)
        is_under = pa.array(data < low)
        rounded = pa.array(data)
    inside = pc.invert(pc.or_(is_under, is_over))
    in_range = pc.cast(pc.if_else(inside, rounded, pa.scalar(0, rounded.type)), target)
    return pc.case_when(pc.make_struct(is_under, is_over), lowest, highest, in_range)


def _round(numbers: pa.Array, scale: int) -> pa.Array:
    """Round decimals half away from zero, in a wider type so that rounding up cannot overflow."""
    wide = pc.cast(numbers, pa.decimal256(_MAX_DIGITS, numbers.type.scale))
    if scale >= numbers.type.scale:
        return wide
    return pc.round(wide, ndigits=scale, round_mode="half_towards_infinity")


def to_bit(change: TypeChange, values: pa.Array) -> pa.Array:
    """Convert values to BIT; negative integers as two's complement."""
    width = max(change.new.flen, 1)
    if pa.types.is_signed_integer(values.type):
        signed = pc.cast(values, pa.int64()).to_numpy()
        numbers = primitive(signed.view(np.uint64), pa.uint64())
    else:
        numbers = _unsigned(change, values, MAX_UINT64)
    return pc.min_element_wise(numbers, pa.scalar(2**width - 1, pa.uint64()))


def to_year(change: TypeChange, values: pa.Array) -> pa.Array:
    """Convert values to YEAR: 1-99 become 1970-2069, numbers out of range 0, 1901 or 2155."""
    old = change.old
    if old.tp in STRING_TYPES:
        numbers = map_distinct(pc.cast(values, pa.binary()), _year_of_text, pa.int64()).to_numpy()
    elif old.tp in DATETIME_TYPES:
        numbers = years(values)
    elif old.tp == MySQLType.TIME:
        numbers = times_as_integers(change, values)
    else:
        # A number out of range of BIGINT becomes 0; of the floats, 2^63 is still in range.
        limit = MAX_INT64 + (old.tp in _FLOAT_TYPES)
        unsigned = _clamp(_as_numbers(values, old), 0, MAX_UINT64).to_numpy()
        numbers = np.where(unsigned > limit, 0, np.minimum(unsigned, MAX_INT64)).astype(np.int64)
    century = np.select([numbers <= 0, numbers < 70, numbers < 100], [0, 2000, 1900], 0)
    adjusted = np.clip(numbers + century, _MIN_YEAR, _MAX_YEAR)
    return primitive(np.where(numbers <= 0, 0, adjusted).astype(np.int16), arrow_type(change.new))


def _year_of_text(text: bytes) -> int:
    number = loose_integer(text)
    if number is None or not MIN_INT64 <= number <= MAX_INT64:
        return 0
    # '0' and '00' are 2000, '0000' is 0.
    if number == 0 and len(text) != 4 and trim(text).startswith(b"0"):
        return 2000
    return number


def to_decimal(change: TypeChange, values: pa.Array) -> pa.Array:
    """Convert values to DECIMAL, rounded to its scale."""
    old, new = change.old, change.new
    target = decimal_type(new)
    if old.tp in STRING_TYPES:
        raw = pc.cast(values, pa.binary())
        return map_distinct(raw, lambda text: fit_decimal(loose_decimal(text), new), target)
    numbers = _as_numbers(values, old)
    if old.tp in _FLOAT_TYPES:
        return map_distinct(numbers, lambda number: fit_decimal(Decimal(repr(number)), new), target)
    return _fit_decimals(numbers, new)


def fit_decimal(number: Decimal, new: FieldType) -> Decimal:
    """Round a number to a DECIMAL type and clamp it to its range."""
    target = decimal_type(new)
    largest = Decimal((0, (9,) * target.precision, -target.scale))
    rounded = number.quantize(Decimal((0, (1,), -target.scale)), context=_WIDE)
    return min(max(rounded, Decimal(0) if new.is_unsigned else largest.copy_negate()), largest)


def _fit_decimals(numbers: pa.Array, new: FieldType) -> pa.Array:
    """Apply `fit_decimal` to an array of integers or decimals."""
    target = decimal_type(new)
    if pa.types.is_integer(numbers.type):
        numbers = pc.cast(numbers, pa.decimal128(len(str(MAX_UINT64)), 0))
    source = numbers.type
    rounded = _round(numbers, target.scale)
    zero = pa.scalar(Decimal(0), rounded.type)
    if new.is_unsigned:
        rounded = pc.if_else(pc.less(rounded, zero), zero, rounded)
    whole_digits = target.precision - target.scale
    if whole_digits > source.precision - source.scale:
        return pc.cast(rounded, target)
    is_over = pc.greater_equal(pc.abs(rounded), pa.scalar(Decimal(10**whole_digits), rounded.type))
    largest = Decimal((0, (9,) * target.precision, -target.scale))
    nearest = pc.if_else(
        pc.less(rounded, zero), pa.scalar(largest.copy_negate(), target), pa.scalar(largest, target)
    )
    in_range = pc.cast(pc.if_else(is_over, zero, rounded), target)
    return pc.if_else(is_over, nearest, in_range)


def to_float(change: TypeChange, values: pa.Array) -> pa.Array:
    """Convert values to FLOAT or DOUBLE, rounded if the type has a scale."""
    new = change.new
    floats = _floats(values, change.old)
    if new.flen >= 0 and new.decimal >= 0:
        floats = _round_floats(floats, new.flen, new.decimal)
    if new.is_unsigned:
        floats = np.maximum(floats, 0)
    if new.tp == MySQLType.FLOAT:
        floats = np.clip(floats, -_MAX_FLOAT32, _MAX_FLOAT32)
    target = arrow_type(new)
    # Adding 0.0 turns negative zero, which rows do not have, into zero.
    return primitive((floats + 0.0).astype(target.to_pandas_dtype()), target)


def _floats(values: pa.Array, old: FieldType) -> _Floats:
    if old.tp in STRING_TYPES:
        numbers = map_distinct(pc.cast(values, pa.binary()), loose_float, pa.float64())
    else:
        numbers = _as_numbers(values, old)
        if pa.types.is_decimal(numbers.type):
            # Parsing the digits gives the nearest double; a direct cast may not.
            numbers = pc.cast(numbers, pa.string())
        numbers = pc.cast(numbers, pa.float64(), safe=False)
    result: _Floats = numbers.to_numpy()
    return result


def _round_floats(floats: _Floats, flen: int, scale: int) -> _Floats:
    """Round to `scale` digits and clamp to the range of FLOAT(flen, scale)."""
    shift = 10.0**scale
    largest = 10.0 ** (flen - scale) - float(f"1e-{scale}")
    with np.errstate(over="ignore"):  # A number that overflows has no fraction.
        shifted = floats * shift
    rounded = np.where(np.isinf(shifted), floats, np.rint(shifted) / shift)
    return np.clip(rounded, -largest, largest)
