"""Conversion of operands before a comparison, as in TiDB's `builtin_compare.go`.

Texts compare by their collation; times with times, and with texts, which are parsed as times;
integers and decimals exactly; anything else as DOUBLE, including `0x41` with a constant number. A
constant compared with integers, decimals or a TIME column is converted to the type of the other
operand. The three operands of BETWEEN are converted together.
"""

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from functools import reduce
from typing import Final

import numpy as np

from pyspark_theflash.tidb.expression.collation import as_texts
from pyspark_theflash.tidb.expression.convert import (
    INT64_MAX,
    INT64_MIN,
    UINT64_MAX,
    full_years,
    plain,
    text_number,
    to_decimal,
    to_duration,
    to_real,
    to_text,
    to_time,
    whole_numbers,
)
from pyspark_theflash.tidb.expression.failure import LackingError, reject_in_condition
from pyspark_theflash.tidb.expression.vector import EXPLICIT, INTEGERS, Kind, Vector

_EXACT: Final = INTEGERS | {Kind.DECIMAL}
_TIMES: Final = frozenset({Kind.TIME, Kind.DURATION})
_STRINGS: Final = _TIMES | {Kind.TEXT, Kind.NULL}
# Every integer up to this bound is exact as DOUBLE.
_EXACT_DOUBLE: Final = 2**53
_CENTURY: Final = 100


def common(left: Vector, right: Vector) -> tuple[Vector, Vector]:
    """Convert two operands, neither of them NULL throughout, to a common kind.

    A text that is not a time is NULL when compared with times.

    Raises:
        LackingError: The conversion of a constant is not supported.
    """
    left, right = plain(left), plain(right)
    left, right = _refined(left, right), _refined(right, left)
    kind = _common_kind(left, right)
    _reject_chosen_texts([left, right])
    if kind is Kind.TEXT:
        _reject_named([left, right])
        return to_text(left), to_text(right)
    if kind is Kind.TIME:
        return to_time(left), to_time(right)
    if kind is Kind.DURATION:
        return to_duration(left), to_duration(right)
    are_constants = left.is_constant and right.is_constant
    is_real = are_constants and (left.is_hexadecimal or right.is_hexadecimal)
    left, right = _as_number(left), _as_number(right)
    if kind is Kind.REAL or is_real:
        return to_real(left), to_real(right)
    if left.kind in INTEGERS and right.kind in INTEGERS:
        return left, right
    return to_decimal(left), to_decimal(right)


def between_operands(operands: Sequence[Vector]) -> list[Vector]:
    """Convert the three operands of BETWEEN to their common kind. Raises `LackingError`."""
    operands = [plain(operand) for operand in operands]
    if any(v.is_year is not False for v in operands[1:]):
        _reject_chosen_number(operands[0])
    if operands[0].is_constant and any(v.is_year is not False for v in operands):
        reject_in_condition("a constant BETWEEN YEARs")
    if all(_as_literal_number(v).kind in INTEGERS for v in operands):
        return [_as_literal_number(v) for v in operands]
    _reject_chosen_texts(operands)
    has_times = any(v.kind in _TIMES for v in operands)
    if has_times and any(v.kind not in _STRINGS and not v.is_constant for v in operands):
        reject_in_condition("BETWEEN with columns of both times and numbers")
    kind = reduce(_kind_of_two, [_string_or_number(v) for v in operands])
    if kind is Kind.TEXT:
        if operands[0].kind is Kind.DURATION:
            converted = [to_duration(v) for v in operands]
        elif has_times:
            converted = [to_time(v) for v in operands]
        else:
            _reject_named(operands)
            converted = as_texts(operands)
    else:
        converted = [to_real(v) if kind is Kind.REAL else to_decimal(v) for v in operands]
    return [
        replace(new, is_constant=old.is_constant, is_column=False)
        for new, old in zip(converted, operands, strict=True)
    ]


def among_operands(operands: Sequence[Vector]) -> list[Vector]:
    """Convert the value and candidates of IN, using the common collation of all of them.

    Raises:
        LackingError: A YEAR is compared with small integers and other types.
    """
    value, *candidates = operands = [plain(operand) for operand in operands]
    others = [v for v in candidates if not (v.is_bytes and v.is_constant)]
    has_number = any(v.kind not in (Kind.TEXT, Kind.NULL) for v in operands)
    if has_number and any(v.kind in _TIMES or v.kind is Kind.TEXT for v in others):
        _reject_hexadecimal(operands)
    if value.kind is Kind.TEXT:
        text_operands = [v for v in operands if v.kind is Kind.TEXT]
        _reject_named(text_operands)
        converted = iter(as_texts(text_operands, operands))
        if all(v.kind is Kind.TEXT or v.kind is Kind.NULL for v in operands):
            operands = [next(converted) if v.kind is Kind.TEXT else v for v in operands]
        else:
            # TiDB expands it to `=`, casting only candidates that have other collations.
            casts = [(v, next(converted) if v.kind is Kind.TEXT else v) for v in operands]
            operands = [value, *(_recast(*pair) for pair in casts[1:])]
    if value.is_constant and value.kind in INTEGERS:
        # Unlike `=`, IN converts the candidates to the type of a constant.
        of_rows = replace(value, is_constant=False)
        operands = [value, *(_refined(_as_literal_number(v), of_rows) for v in operands[1:])]
    if len(candidates) > 1 and any(v.is_year for v in operands):
        # All integers: compared without expanding two-digit years.
        if all(v.kind in INTEGERS or v.kind is Kind.NULL for v in operands):
            return [replace(v, is_year=False) for v in operands]
        if any(v.kind in INTEGERS and v.is_constant and v.data[0] < _CENTURY for v in operands):
            raise LackingError("a YEAR IN small integers and other types")
    return operands


def _recast(candidate: Vector, cast: Vector) -> Vector:
    is_same = candidate.collation.collate == cast.collation.collate
    return candidate if is_same else replace(cast, coercibility=EXPLICIT)


def _reject_chosen_texts(operands: Sequence[Vector]) -> None:
    """Reject the comparison of a time with a text from IF, CASE or similar."""
    has_times = any(v.kind in _TIMES for v in operands)
    if has_times and any(v.kind is Kind.TEXT and v.is_choice for v in operands):
        reject_in_condition("comparing a time with a text from IF, CASE or similar")


def _reject_chosen_number(value: Vector) -> None:
    """Reject a number chosen by IF, CASE or similar and compared with a YEAR.

    TiDB expands two-digit years of constants only, which is what it makes of a choice that it can
    decide when it plans.
    """
    is_number = value.kind in _EXACT or value.kind is Kind.REAL
    if is_number and value.is_choice and not value.is_constant and value.is_year is False:
        reject_in_condition("a choice of numbers compared with a YEAR")


def _reject_named(operands: Sequence[Vector]) -> None:
    """Reject the comparison of an ENUM or SET with bytes, where TiDB and TiKV differ."""
    has_names = any(v.is_named for v in operands)
    if has_names and any(v.is_bytes for v in operands):
        raise LackingError("an ENUM or SET compared with bytes")


def _reject_hexadecimal(operands: Sequence[Vector]) -> None:
    """Reject `0x41` or `b'1'` in a list of several kinds."""
    if any(v.is_hexadecimal for v in operands):
        reject_in_condition("a hexadecimal or bit literal among other types")


def _as_number(vector: Vector) -> Vector:
    """Return the index of an ENUM or SET that is compared with a number."""
    if vector.is_named and not vector.is_column:
        reject_in_condition("comparing a number with an ENUM or SET from IF, CASE or similar")
    return vector.number if vector.number is not None else vector


def _as_literal_number(vector: Vector) -> Vector:
    """Return the number of `0x41`, which is one if all other operands are integers."""
    return _as_number(vector) if vector.is_hexadecimal else vector


def _common_kind(left: Vector, right: Vector) -> Kind:
    kinds = {left.kind, right.kind}
    if len(kinds) == 1:
        return left.kind
    if Kind.TIME in kinds and kinds <= {Kind.TIME, Kind.TEXT, Kind.DURATION}:
        return Kind.TIME
    for one, other in ((left, right), (right, left)):
        if one.is_year is not False and other.kind is Kind.TIME:
            return Kind.TIME
        if one.is_column and one.kind is Kind.DURATION and other.is_constant:
            return Kind.DURATION
    if kinds == {Kind.DURATION, Kind.TEXT}:
        return Kind.TEXT
    numbers = _as_number(left), _as_number(right)
    if {v.kind for v in numbers} <= _EXACT:
        return Kind.DECIMAL
    for text, other in (numbers, numbers[::-1]):
        is_constant = text.is_constant and not other.is_constant
        if is_constant and text.kind is Kind.TEXT and other.kind is Kind.DECIMAL:
            return Kind.DECIMAL
    return Kind.REAL


def _refined(value: Vector, other: Vector) -> Vector:
    """Convert a constant that is compared with integers of rows."""
    if other.is_year is not False:
        _reject_chosen_number(value)
    if value.is_constant and other.is_year is None:
        raise LackingError("comparing a constant with mixed YEARs and numbers")
    if not value.is_constant or other.kind not in INTEGERS or value.null[0]:
        return value
    if other.is_year:
        return _beside_year(value)
    if other.is_constant:
        return value
    if other.kind is Kind.UINT and value.kind not in INTEGERS and to_real(value).data[0] < 0:
        raise LackingError("comparing unsigned integers with a negative non-integer constant")
    if value.kind is Kind.REAL:
        return _beside_integers(value, Decimal(float(value.data[0])), other)
    if value.kind is Kind.TEXT and value.number is None:
        number = text_number(value.constant())
        return value if number is None else _beside_integers(value, number, other)
    return value


def _beside_integers(value: Vector, number: Decimal, other: Vector) -> Vector:
    """Convert an integral constant to an integer, so that no digit is lost.

    Raises:
        LackingError: It is large and, as DOUBLE, in the range of the integers, but not one of
            them; whether TiDB compares all digits depends on the column.
    """
    low, high = (0, UINT64_MAX) if other.kind is Kind.UINT else (INT64_MIN, INT64_MAX)
    if low <= number <= high and number == number.to_integral_value():
        integers = np.full(len(value), int(number), object)
        return replace(whole_numbers(integers, value.null, other.kind), is_constant=True)
    if number.copy_abs() >= _EXACT_DOUBLE and float(low) <= float(number) <= float(high):
        raise LackingError("comparing integers with a large constant that is not of their type")
    return value


def _beside_year(value: Vector) -> Vector:
    """Expand a constant integer of up to two digits to a year from 1970 to 2069.

    Raises:
        LackingError: It is a time, or a non-integer that may be a two-digit year.
    """
    if value.kind in INTEGERS:
        years = full_years(value.data.astype(object))
        return replace(value, data=years.astype(value.data.dtype))
    if value.kind in _TIMES:
        raise LackingError("comparing a YEAR with a constant time")
    number = to_real(value).data[0]
    if value.kind is Kind.TEXT and abs(number) >= _EXACT_DOUBLE:
        reject_in_condition("comparing a YEAR with a text of a large number")
    if -1 < number < _CENTURY:
        raise LackingError("comparing a YEAR with a non-integer constant of up to two digits")
    return value


def _string_or_number(vector: Vector) -> Kind:
    """Return the kind of an operand for BETWEEN: TEXT, INT or another number."""
    if vector.kind in _STRINGS:
        return Kind.TEXT
    return Kind.INT if vector.kind in INTEGERS else vector.kind


def _kind_of_two(left: Kind, right: Kind) -> Kind:
    if left is right:
        return left
    return Kind.DECIMAL if {left, right} <= _EXACT else Kind.REAL
