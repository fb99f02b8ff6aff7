"""Numeric functions."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

from pyspark_theflash.tidb.codec.reader import Mask
from pyspark_theflash.tidb.expression.convert import (
    INT64_MAX,
    INT64_MIN,
    MAX_PRECISION,
    MAX_SCALE,
    objects_of,
    rescale,
    to_number,
    to_objects,
    to_python_ints,
    to_real,
    to_signed,
    whole_numbers,
)
from pyspark_theflash.tidb.expression.failure import LackingError
from pyspark_theflash.tidb.expression.vector import (
    INTEGERS,
    Kind,
    Vector,
    decimals,
    integers,
    null_of,
    reals,
)


def _numeric(vector: Vector) -> Vector:
    """Convert to a number; unlike in arithmetic, times also become DOUBLE."""
    if vector.is_bit and vector.number is not None:
        if (vector.number.data[~vector.null] > INT64_MAX).any():
            raise LackingError("a function of a BIT beyond BIGINT")
        return vector.number
    if vector.kind in INTEGERS or vector.kind is Kind.DECIMAL or vector.kind is Kind.REAL:
        return vector
    if vector.kind is Kind.NULL:
        return to_number(vector)
    return to_real(vector)


def absolute(operands: Sequence[Vector]) -> Vector:
    """`ABS`."""
    number = _numeric(operands[0])
    if number.kind is Kind.REAL:
        return reals(np.abs(number.data), number.null)
    if number.kind is Kind.DECIMAL:
        return replace(number, data=np.abs(number.data))
    return whole_numbers(np.abs(objects_of(number)), number.null, number.kind)


def _to_whole(
    on_reals: Callable[[Any], Any], on_decimals: Callable[[Any, int], Any]
) -> Callable[[Sequence[Vector]], Vector]:
    def apply(operands: Sequence[Vector]) -> Vector:
        number = _numeric(operands[0])
        if number.kind in INTEGERS:
            return number
        if number.kind is Kind.REAL:
            return reals(on_reals(np.where(number.null, 0.0, number.data)), number.null)
        whole = on_decimals(to_objects(number.data, number.null), 10**number.digits)
        if ((whole >= INT64_MIN) & (whole <= INT64_MAX)).all():
            return integers(whole.astype(np.int64), number.null)
        return decimals(whole, number.null, 0)

    return apply


ceiling: Final = _to_whole(np.ceil, lambda unscaled, power: -(-unscaled // power))
floor: Final = _to_whole(np.floor, lambda unscaled, power: unscaled // power)


def round_number(operands: Sequence[Vector]) -> Vector:
    """`ROUND`, DECIMAL half away from zero and DOUBLE half to even, as TiDB does."""
    number, null = _numeric(operands[0]), null_of(operands)
    places = operands[1] if len(operands) > 1 else None
    if number.kind is Kind.DECIMAL:
        return _round_decimals(number, places, null)
    if number.kind in INTEGERS and places is None:
        return number
    values = np.where(null, 0, number.data).astype(np.float64)
    digits = to_signed(places).astype(np.float64) if places is not None else 0.0
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        shift = np.float64(10.0) ** digits
        scaled = values * shift
        rounded = np.rint(scaled) / shift
    rounded = np.where(np.isinf(scaled), values, np.where(np.isnan(rounded), 0.0, rounded))
    if number.kind is Kind.REAL:
        return reals(rounded, null)
    return whole_numbers(to_python_ints(rounded), null, number.kind)


def _round_decimals(number: Vector, places: Vector | None, null: Mask) -> Vector:
    if places is None:
        digits = 0
    elif places.is_constant:
        digits = max(-MAX_PRECISION, min(int(to_signed(places)[0]), MAX_SCALE))
    else:
        raise LackingError("ROUND of a DECIMAL to a number of digits that is not a constant")
    rounded = rescale(to_objects(number.data, null), number.digits, digits)
    if digits < 0:
        rounded = rounded * 10**-digits
    return decimals(rounded, null, max(digits, 0))


def sign(operands: Sequence[Vector]) -> Vector:
    """`SIGN`."""
    real = to_real(operands[0])
    return integers(np.sign(np.where(real.null, 0.0, real.data)).astype(np.int64), real.null)
