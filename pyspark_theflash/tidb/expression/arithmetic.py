"""Arithmetic and bit operators: + - * / DIV % & | ^ ~ << >>.

The result is DOUBLE if either operand is, else DECIMAL if either is, else an integer, unsigned if
either operand is. An integer result out of range is an error, as in TiDB; division by zero is NULL.
"""

import operator
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

from pyspark_theflash.tidb.codec.reader import Mask, Words
from pyspark_theflash.tidb.expression.convert import (
    INT64_MIN,
    MAX_SCALE,
    Objects,
    objects_of,
    rescale,
    to_decimal,
    to_integer,
    to_number,
    to_objects,
    to_real,
    whole_numbers,
)
from pyspark_theflash.tidb.expression.failure import LackingError
from pyspark_theflash.tidb.expression.vector import (
    Array,
    Kind,
    Vector,
    decimals,
    integers,
    null_of,
    reals,
)

_GROUP_DIGITS: Final = 9
_DIVISION_DIGITS: Final = 4
_WORD_BITS: Final = 64


def _common_kind(left: Vector, right: Vector) -> Kind:
    kinds = {left.kind, right.kind}
    if Kind.REAL in kinds:
        return Kind.REAL
    if Kind.DECIMAL in kinds:
        return Kind.DECIMAL
    return Kind.UINT if Kind.UINT in kinds else Kind.INT


def _ring(
    on_reals: Callable[[Any, Any], Any], on_integers: Callable[[Any, Any], Any]
) -> Callable[[Sequence[Vector]], Vector]:
    """Return the function of `+`, `-` or `*`, which are exact on integers of any size."""

    def apply(operands: Sequence[Vector]) -> Vector:
        left, right = (to_number(v) for v in operands)
        null, kind = null_of(operands), _common_kind(left, right)
        if kind is Kind.REAL:
            with np.errstate(over="ignore"):
                return reals(on_reals(_real(left), _real(right)), null)
        if kind is Kind.DECIMAL:
            return _ring_decimals(on_integers, to_decimal(left), to_decimal(right), null)
        if left.kind is right.kind is Kind.INT and _is_small(left) and _is_small(right):
            return integers(on_integers(left.data, right.data), null)
        exact = on_integers(objects_of(left), objects_of(right))
        return whole_numbers(exact, null, kind)

    return apply


def _is_small(vector: Vector) -> bool:
    """Return whether the sum and product of two such vectors fit in int64."""
    return bool((np.abs(vector.data) < 2**31).all()) and bool((vector.data != INT64_MIN).all())


def _real(vector: Vector) -> Array:
    return np.where(vector.null, 0.0, to_real(vector).data)


def _ring_decimals(
    on_integers: Callable[[Any, Any], Any], left: Vector, right: Vector, null: Mask
) -> Vector:
    values = to_objects(left.data, null), to_objects(right.data, null)
    if on_integers is np.multiply:
        digits = left.digits + right.digits
        product = on_integers(*values)
        if digits > MAX_SCALE:
            # TiDB truncates a product to its scale.
            product = _truncated(product, digits - MAX_SCALE)
        result = decimals(product, null, min(digits, MAX_SCALE), _shown(operator.add, left, right))
        return replace(result, is_mixed=left.is_mixed or right.is_mixed)
    digits = max(left.digits, right.digits)
    aligned = rescale(values[0], left.digits, digits), rescale(values[1], right.digits, digits)
    result = decimals(on_integers(*aligned), null, digits, _shown(max, left, right))
    return replace(result, is_mixed=left.is_mixed or right.is_mixed)


def _shown(combine: Callable[[int, int], int], left: Vector, right: Vector) -> int:
    """Return the displayed digits of a result if an operand is a quotient, else -1."""
    if left.shown < 0 and right.shown < 0:
        return -1
    return min(combine(left.shown_digits, right.shown_digits), MAX_SCALE)


def _truncated(unscaled: Objects, digits: int) -> Objects:
    magnitude = np.abs(unscaled) // 10**digits
    result: Objects = np.where(unscaled < 0, -magnitude, magnitude)
    return result


add: Final = _ring(np.add, np.add)
subtract: Final = _ring(np.subtract, np.subtract)
multiply: Final = _ring(np.multiply, np.multiply)


def divide(operands: Sequence[Vector]) -> Vector:
    """`/`: DECIMAL with four more digits than the dividend, or DOUBLE."""
    left, right = (to_number(v) for v in operands)
    null = null_of(operands)
    if _common_kind(left, right) is Kind.REAL:
        divisor = _real(right)
        null = null | (divisor == 0)
        with np.errstate(over="ignore"):
            return reals(_real(left) / np.where(null, 1.0, divisor), null)
    left, right = to_decimal(left), to_decimal(right)
    digits = _quotient_digits(left.digits, right.digits)
    quotient, null = _divided(left, right, digits, null)
    shown = min(left.shown_digits + _DIVISION_DIGITS, MAX_SCALE)
    return replace(decimals(quotient, null, digits, shown), is_mixed=left.is_mixed)


def _quotient_digits(left: int, right: int) -> int:
    """Return the digits of a quotient: TiDB divides groups of nine digits and retains all."""
    groups = -(-left // _GROUP_DIGITS), -(-right // _GROUP_DIGITS)
    spare = sum(groups) * _GROUP_DIGITS - left - right
    digits = sum(groups) * _GROUP_DIGITS + max(_DIVISION_DIGITS - spare, 0)
    return -(-digits // _GROUP_DIGITS) * _GROUP_DIGITS


def _divided(left: Vector, right: Vector, digits: int, null: Mask) -> tuple[Objects, Mask]:
    """Return the quotient truncated to `digits`, NULL where the divisor is zero."""
    divisor = to_objects(right.data, null)
    null = null | np.asarray(divisor == 0, np.bool_)
    divisor = np.where(null, 1, divisor)
    shift = digits + right.digits - left.digits
    dividend = to_objects(left.data, null) * 10 ** max(shift, 0)
    divisor = divisor * 10 ** max(-shift, 0)
    magnitude = np.abs(dividend) // np.abs(divisor)
    return np.where((dividend < 0) != (divisor < 0), -magnitude, magnitude), null


def divide_whole(operands: Sequence[Vector]) -> Vector:
    """`DIV`. Raises `LackingError`: An operand is a text that is not a constant."""
    if any(v.kind is Kind.TEXT and v.number is None and not v.is_constant for v in operands):
        raise LackingError("DIV of a text, whose digits depend on its type")
    left, right = (to_number(v) for v in operands)
    unsigned = Kind.UINT in (left.kind, right.kind)
    quotient, null = _divided(to_decimal(left), to_decimal(right), 0, null_of(operands))
    return whole_numbers(quotient, null, Kind.UINT if unsigned else Kind.INT)


def remainder(operands: Sequence[Vector]) -> Vector:
    """`%`: has the sign of the dividend, and is unsigned if the dividend is."""
    left, right = (to_number(v) for v in operands)
    null, kind = null_of(operands), _common_kind(left, right)
    if kind is Kind.REAL:
        divisor = _real(right)
        null = null | (divisor == 0)
        return reals(np.fmod(_real(left), np.where(null, 1.0, divisor)), null)
    if kind is Kind.DECIMAL:
        left, right = to_decimal(left), to_decimal(right)
        digits = max(left.digits, right.digits)
        values = _modulo(
            rescale(left.data, left.digits, digits), rescale(right.data, right.digits, digits), null
        )
        result = decimals(*values, digits, _shown(max, left, right))
        return replace(result, is_mixed=left.is_mixed or right.is_mixed)
    if left.kind is right.kind is Kind.INT:
        null = null | (right.data == 0)
        # -2^63 % -1 overflows.
        divisor = np.where(null | (right.data == -1), 1, right.data)
        return integers(np.fmod(left.data, divisor), null)
    values = _modulo(objects_of(left), objects_of(right), null)
    return whole_numbers(*values, left.kind)


def _modulo(left: Objects, right: Objects, null: Mask) -> tuple[Objects, Mask]:
    left, right = to_objects(left, null), to_objects(right, null)
    null = null | np.asarray(right == 0, np.bool_)
    magnitude = np.abs(left) % np.where(null, 1, np.abs(right))
    return np.where(left < 0, -magnitude, magnitude), null


def negate(operands: Sequence[Vector]) -> Vector:
    """Unary minus."""
    number = to_number(operands[0])
    if number.kind is Kind.REAL:
        return reals(-number.data, number.null)
    if number.kind is Kind.DECIMAL:
        return replace(number, data=-number.data)
    if number.is_constant and number.kind is Kind.UINT and number.data[0] > 2**63:
        return decimals(-objects_of(number), number.null, 0)
    return whole_numbers(-objects_of(number), number.null, Kind.INT)


def _words(vector: Vector) -> Words:
    """Return the 64 bits of integers."""
    whole = to_integer(vector)
    data: Words = whole.data.view(np.uint64)
    return data


def _bitwise(
    function: Callable[[Words, Words], Words],
) -> Callable[[Sequence[Vector]], Vector]:
    def apply(operands: Sequence[Vector]) -> Vector:
        return integers(function(*(_words(v) for v in operands)), null_of(operands))

    return apply


def _shifted(function: Callable[[Words, Words], Words]) -> Callable[[Words, Words], Words]:
    def shift(words: Words, places: Words) -> Words:
        inside = places < _WORD_BITS
        moved = function(words, np.where(inside, places, np.uint64(0)))
        return np.where(inside, moved, np.uint64(0))

    return shift


bit_and: Final = _bitwise(np.bitwise_and)
bit_or: Final = _bitwise(np.bitwise_or)
bit_xor: Final = _bitwise(np.bitwise_xor)
shift_left: Final = _bitwise(_shifted(np.left_shift))
shift_right: Final = _bitwise(_shifted(np.right_shift))


def bit_not(operands: Sequence[Vector]) -> Vector:
    """`~`."""
    return integers(~_words(operands[0]), operands[0].null)
