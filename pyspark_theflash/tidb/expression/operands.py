"""What operands that are compared become first, after `builtin_compare.go` in TiDB.

Texts compare by their collation; times with times, and with texts, which are read as times;
integers and decimals exactly; all else as DOUBLE, also `0x41` beside a constant number. A constant
beside integers, decimals or a column of TIME becomes what stands beside it. The three operands of
BETWEEN are converted together.
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
from pyspark_theflash.tidb.expression.failure import LackingError, refuse_in_condition
from pyspark_theflash.tidb.expression.vector import EXPLICIT, INTEGERS, Kind, Vector

_EXACT: Final = INTEGERS | {Kind.DECIMAL}
_TIMES: Final = frozenset({Kind.TIME, Kind.DURATION})
_STRINGS: Final = _TIMES | {Kind.TEXT, Kind.NULL}
# Up to here each integer is a DOUBLE.
_EXACT_DOUBLE: Final = 2**53
_CENTURY: Final = 100


def common(left: Vector, right: Vector) -> tuple[Vector, Vector]:
    """Two operands, neither of them NULL throughout, as what they are compared as.

    A text that is no time is NULL among times.

    Raises:
        LackingError: what TiDB makes of a constant is not known here.
    """
    left, right = plain(left), plain(right)
    left, right = _refined(left, right), _refined(right, left)
    kind = _common_kind(left, right)
    _refuse_chosen_texts([left, right])
    if kind is Kind.TEXT:
        _refuse_named([left, right])
        return to_text(left), to_text(right)
    if kind is Kind.TIME:
        return to_time(left), to_time(right)
    if kind is Kind.DURATION:
        return to_duration(left), to_duration(right)
    of_constants = left.is_constant and right.is_constant
    is_real = of_constants and (left.is_hexadecimal or right.is_hexadecimal)
    left, right = _as_number(left), _as_number(right)
    if kind is Kind.REAL or is_real:
        return to_real(left), to_real(right)
    if left.kind in INTEGERS and right.kind in INTEGERS:
        return left, right
    return to_decimal(left), to_decimal(right)


def between_operands(operands: Sequence[Vector]) -> list[Vector]:
    """The operands of BETWEEN as the one kind that all three are compared as.

    Raises:
        LackingError: a conversion that is not known here.
    """
    operands = [plain(operand) for operand in operands]
    if operands[0].is_constant and any(v.is_year is not False for v in operands):
        refuse_in_condition("a constant BETWEEN YEARs")
    if all(_as_literal_number(v).kind in INTEGERS for v in operands):
        return [_as_literal_number(v) for v in operands]
    _refuse_chosen_texts(operands)
    has_times = any(v.kind in _TIMES for v in operands)
    if has_times and any(v.kind not in _STRINGS and not v.is_constant for v in operands):
        refuse_in_condition("times and numbers of columns in one BETWEEN")
    kind = reduce(_kind_of_two, [_string_or_number(v) for v in operands])
    if kind is Kind.TEXT:
        if operands[0].kind is Kind.DURATION:
            converted = [to_duration(v) for v in operands]
        elif has_times:
            converted = [to_time(v) for v in operands]
        else:
            _refuse_named(operands)
            converted = as_texts(operands)
    else:
        converted = [to_real(v) if kind is Kind.REAL else to_decimal(v) for v in operands]
    return [
        replace(new, is_constant=old.is_constant, is_column=False)
        for new, old in zip(converted, operands, strict=True)
    ]


def among_operands(operands: Sequence[Vector]) -> list[Vector]:
    """The value and candidates of IN, with the collation that all of them have together.

    Raises:
        LackingError: a YEAR, small integers, and something else.
    """
    value, *candidates = operands = [plain(operand) for operand in operands]
    others = [v for v in candidates if not (v.is_bytes and v.is_constant)]
    has_number = any(v.kind not in (Kind.TEXT, Kind.NULL) for v in operands)
    if has_number and any(v.kind in _TIMES or v.kind is Kind.TEXT for v in others):
        _refuse_hexadecimal(operands)
    if value.kind is Kind.TEXT:
        of_text = [v for v in operands if v.kind is Kind.TEXT]
        _refuse_named(of_text)
        found = iter(as_texts(of_text, operands))
        if all(v.kind is Kind.TEXT or v.kind is Kind.NULL for v in operands):
            operands = [next(found) if v.kind is Kind.TEXT else v for v in operands]
        else:
            # TiDB makes `=` of it, and casts the candidates of other collations only.
            casts = [(v, next(found) if v.kind is Kind.TEXT else v) for v in operands]
            operands = [value, *(_recast(*pair) for pair in casts[1:])]
    if len(candidates) > 1 and any(v.is_year for v in operands):
        # Integers are compared as they are then, with 70 for one, unless there is something else.
        if all(v.kind in INTEGERS or v.kind is Kind.NULL for v in operands):
            return [replace(v, is_year=False) for v in operands]
        if any(v.kind in INTEGERS and v.is_constant and v.data[0] < _CENTURY for v in operands):
            raise LackingError("a YEAR IN small integers and something else")
    return operands


def _recast(candidate: Vector, cast: Vector) -> Vector:
    is_same = candidate.collation.collate == cast.collation.collate
    return candidate if is_same else replace(cast, coercibility=EXPLICIT)


def _refuse_chosen_texts(operands: Sequence[Vector]) -> None:
    """Raise for a text that IF, CASE or the like has chosen, compared with a time."""
    has_times = any(v.kind in _TIMES for v in operands)
    if has_times and any(v.kind is Kind.TEXT and v.is_choice for v in operands):
        refuse_in_condition("a choice of texts beside a time")


def _refuse_named(operands: Sequence[Vector]) -> None:
    """Raise for an ENUM or SET compared with bytes, where TiDB and TiKV differ."""
    has_names = any(v.is_named for v in operands)
    if has_names and any(v.is_bytes for v in operands):
        raise LackingError("an ENUM or SET compared with bytes")


def _refuse_hexadecimal(operands: Sequence[Vector]) -> None:
    """Raise for `0x41` or `b'1'` in a list of several kinds."""
    if any(v.is_hexadecimal for v in operands):
        refuse_in_condition("a number in hexadecimal or bits beside other kinds")


def _as_number(vector: Vector) -> Vector:
    """An ENUM or SET beside a number is its index."""
    if vector.is_named and not vector.is_column:
        refuse_in_condition("an ENUM or SET of a choice beside a number")
    return vector.number if vector.number is not None else vector


def _as_literal_number(vector: Vector) -> Vector:
    """`0x41` is a number where all others are integers."""
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
    """A constant as what it is beside integers that are not."""
    if value.is_constant and other.is_year is None:
        raise LackingError("a constant beside a choice of YEAR or another number")
    if not value.is_constant or other.kind not in INTEGERS or value.null[0]:
        return value
    if other.is_year:
        return _beside_year(value)
    if other.is_constant:
        return value
    if other.kind is Kind.UINT and value.kind not in INTEGERS and to_real(value).data[0] < 0:
        raise LackingError("a negative constant that is no integer beside unsigned integers")
    if value.kind is Kind.REAL:
        return _beside_integers(value, Decimal(float(value.data[0])), other)
    if value.kind is Kind.TEXT and value.number is None:
        number = text_number(value.constant())
        return value if number is None else _beside_integers(value, number, other)
    return value


def _beside_integers(value: Vector, number: Decimal, other: Vector) -> Vector:
    """A constant that is an integer as one, so that no digit is lost.

    Raises:
        LackingError: it is as large as some of the integers, but not one of them: whether TiDB
            compares all digits depends on the column.
    """
    low, high = (0, UINT64_MAX) if other.kind is Kind.UINT else (INT64_MIN, INT64_MAX)
    if low <= number <= high and number == number.to_integral_value():
        integers = np.full(len(value), int(number), object)
        return replace(whole_numbers(integers, value.null, other.kind), is_constant=True)
    if abs(number) >= _EXACT_DOUBLE and float(low) <= float(number) <= float(high):
        raise LackingError("a constant that is none of the large integers beside it")
    return value


def _beside_year(value: Vector) -> Vector:
    """A constant integer of up to two digits is a year of 1970 to 2069.

    Raises:
        LackingError: a time, or what may be a year of two digits and is no integer.
    """
    if value.kind in INTEGERS:
        years = full_years(value.data.astype(object))
        return replace(value, data=years.astype(value.data.dtype))
    if value.kind in _TIMES:
        raise LackingError("a constant time beside a YEAR")
    number = to_real(value).data[0]
    if value.kind is Kind.TEXT and abs(number) >= _EXACT_DOUBLE:
        refuse_in_condition("a text of a large number beside a YEAR")
    if -1 < number < _CENTURY:
        raise LackingError("a constant of up to two digits that is no integer beside a YEAR")
    return value


def _string_or_number(vector: Vector) -> Kind:
    """What BETWEEN takes an operand for."""
    if vector.kind in _STRINGS:
        return Kind.TEXT
    return Kind.INT if vector.kind in INTEGERS else vector.kind


def _kind_of_two(left: Kind, right: Kind) -> Kind:
    if left is right:
        return left
    return Kind.DECIMAL if {left, right} <= _EXACT else Kind.REAL
