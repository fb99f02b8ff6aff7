"""Comparisons and logic, with NULL as the third truth value.

What two operands compare as, after `GetAccurateCmpType` in TiDB: texts by their collation; times
with times, and with texts, which are read as times; integers and decimals exactly; all else as
DOUBLE.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa

from pyspark_theflash.codec.collation import is_bytewise, sort_keys
from pyspark_theflash.errors import UnsupportedError
from pyspark_theflash.expression.convert import (
    objects_of,
    rescale,
    to_decimal,
    to_duration,
    to_objects,
    to_real,
    to_text,
    to_time,
    to_truth,
)
from pyspark_theflash.expression.failure import LackingError
from pyspark_theflash.expression.vector import (
    INTEGERS,
    Kind,
    Vector,
    booleans,
    derive_collation,
    null_of,
    pc,
)

_EXACT: Final = INTEGERS | {Kind.DECIMAL}


def _plain(vector: Vector) -> Vector:
    """A BIT column compares as the number that it is."""
    return vector.number if vector.is_bit and vector.number is not None else vector


def _as_number(vector: Vector) -> Vector:
    """An ENUM or SET beside a number is its index."""
    return vector.number if vector.number is not None else vector


def comparison_kind(left: Vector, right: Vector) -> Kind:
    """What two operands, neither of them NULL throughout, are compared as."""
    kinds = {left.kind, right.kind}
    if kinds == {Kind.TEXT} or len(kinds) == 1:
        return left.kind
    if Kind.TIME in kinds and kinds <= {Kind.TIME, Kind.TEXT, Kind.DURATION}:
        return Kind.TIME
    if kinds == {Kind.DURATION, Kind.TEXT}:
        text = left if left.kind is Kind.TEXT else right
        return Kind.DURATION if text.is_constant else Kind.TEXT
    numbers = _as_number(left), _as_number(right)
    if {v.kind for v in numbers} <= _EXACT:
        return Kind.DECIMAL
    for text, other in (numbers, numbers[::-1]):
        if text.kind is Kind.TEXT and text.is_constant and other.kind in _EXACT:
            return Kind.DECIMAL
    return Kind.REAL


def _common(left: Vector, right: Vector) -> tuple[Vector, Vector]:
    """The operands as what they are compared as; a text that is no time is NULL among times."""
    left, right = _plain(left), _plain(right)
    kind = comparison_kind(left, right)
    if kind is Kind.TEXT:
        return to_text(left), to_text(right)
    if kind is Kind.TIME:
        return to_time(left), to_time(right)
    if kind is Kind.DURATION:
        return to_duration(left), to_duration(right)
    left, right = _as_number(left), _as_number(right)
    if kind is Kind.REAL:
        return to_real(left), to_real(right)
    if left.kind in INTEGERS and right.kind in INTEGERS:
        return left, right
    return to_decimal(left), to_decimal(right)


def _keys(left: Vector, right: Vector) -> tuple[Any, Any]:
    """Arrays that order as operands of a common kind do: NumPy's, or Arrow's for texts."""
    if left.kind is Kind.TEXT:
        return _text_keys(left, right)
    if left.kind is Kind.DECIMAL:
        digits = max(left.digits, right.digits)
        values = to_objects(left.data, left.null), to_objects(right.data, right.null)
        return rescale(values[0], left.digits, digits), rescale(values[1], right.digits, digits)
    if left.kind is right.kind:
        return left.data, right.data
    return objects_of(left), objects_of(right)


def _text_keys(left: Vector, right: Vector) -> tuple[Any, Any]:
    collation, _ = derive_collation([left, right])
    values = left.data, right.data
    if left.is_bytes or right.is_bytes:
        values = tuple(pc.cast(v, pa.binary()) for v in values)
    try:
        keys = [sort_keys(v, collation) for v in values]
    except UnsupportedError as error:
        raise LackingError(error.what) from None
    return pc.cast(keys[0], pa.binary()), pc.cast(keys[1], pa.binary())


_ON_ARRAYS: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "equal": np.equal,
    "less": np.less,
    "less_equal": np.less_equal,
}


def compare(name: str, left: Vector, right: Vector) -> Vector:
    """`equal`, `less` or `less_equal`; NULL where either operand is."""
    left, right = _common(left, right)
    keys = _keys(left, right)
    if isinstance(keys[0], np.ndarray):
        found = np.asarray(_ON_ARRAYS[name](*keys), np.bool_)
    else:
        found = np.asarray(pc.fill_null(getattr(pc, name)(*keys), False))
    return booleans(found, left.null | right.null)


def _null_result(operands: Sequence[Vector]) -> Vector | None:
    """NULL for all rows where an operand is nothing but NULL."""
    if not any(v.kind is Kind.NULL for v in operands):
        return None
    null = np.ones(len(operands[0]), np.bool_)
    return booleans(np.zeros(len(null), np.bool_), null)


def _comparison(
    name: str, *, swapped: bool = False, negated: bool = False
) -> Callable[[Sequence[Vector]], Vector]:
    def apply(operands: Sequence[Vector]) -> Vector:
        if (nothing := _null_result(operands)) is not None:
            return nothing
        left, right = reversed(operands) if swapped else operands
        found = compare(name, left, right)
        return logical_not([found]) if negated else found

    return apply


def logical_not(operands: Sequence[Vector]) -> Vector:
    """`NOT`."""
    truth = to_truth(operands[0])
    return booleans(truth.data == 0, truth.null)


equal: Final = _comparison("equal")
not_equal: Final = _comparison("equal", negated=True)
less: Final = _comparison("less")
less_equal: Final = _comparison("less_equal")
greater: Final = _comparison("less", swapped=True)
greater_equal: Final = _comparison("less_equal", swapped=True)


def null_safe_equal(operands: Sequence[Vector]) -> Vector:
    """`<=>`: two NULLs are equal, and nothing is NULL."""
    left, right = operands
    if Kind.NULL not in (left.kind, right.kind):
        left, right = _common(left, right)
    found = equal([left, right])
    both = left.null & right.null
    return booleans((found.data != 0) & ~found.null | both, np.zeros(len(both), np.bool_))


def logical_and(operands: Sequence[Vector]) -> Vector:
    """`AND`."""
    left, right = (to_truth(v) for v in operands)
    is_false = (left.data == 0) & ~left.null | (right.data == 0) & ~right.null
    return booleans(~is_false, (left.null | right.null) & ~is_false)


def logical_or(operands: Sequence[Vector]) -> Vector:
    """`OR`."""
    left, right = (to_truth(v) for v in operands)
    is_true = (left.data != 0) & ~left.null | (right.data != 0) & ~right.null
    return booleans(is_true, (left.null | right.null) & ~is_true)


def logical_xor(operands: Sequence[Vector]) -> Vector:
    """`XOR`."""
    left, right = (to_truth(v) for v in operands)
    return booleans(left.data != right.data, left.null | right.null)


def is_null(operands: Sequence[Vector]) -> Vector:
    """`IS NULL`."""
    return booleans(operands[0].null, np.zeros(len(operands[0]), np.bool_))


def is_true(operands: Sequence[Vector]) -> Vector:
    """`IS TRUE`."""
    truth = to_truth(operands[0])
    return booleans((truth.data != 0) & ~truth.null, np.zeros(len(truth), np.bool_))


def is_false(operands: Sequence[Vector]) -> Vector:
    """`IS FALSE`."""
    truth = to_truth(operands[0])
    return booleans((truth.data == 0) & ~truth.null, np.zeros(len(truth), np.bool_))


def is_in(operands: Sequence[Vector]) -> Vector:
    """`IN`."""
    value, *candidates = operands
    found = equal([value, candidates[0]])
    for candidate in candidates[1:]:
        found = logical_or([found, equal([value, candidate])])
    return found


def between(operands: Sequence[Vector]) -> Vector:
    """`BETWEEN`."""
    value, low, high = operands
    return logical_and([less_equal([low, value]), less_equal([value, high])])


def like(operands: Sequence[Vector]) -> Vector:
    """`LIKE` with a constant pattern.

    Raises:
        LackingError: a collation under which different bytes are equal; a pattern from a column.
    """
    value, pattern, escape = (to_text(v) for v in operands)
    null = null_of([value, pattern])
    collation, _ = derive_collation([value, pattern])
    if not is_bytewise(collation):
        raise LackingError(f"LIKE under collation {collation.collate}")
    if null.all():
        return booleans(null, null)
    if value.is_bytes or pattern.is_bytes:
        raise LackingError("LIKE on bytes")
    expression = _like_expression(pattern.constant(), escape.constant())
    found = pc.match_substring_regex(value.data, expression)
    return booleans(np.asarray(pc.fill_null(found, False)), null)


def _like_expression(pattern: str, escape: str) -> str:
    pieces, position = [], 0
    while position < len(pattern):
        character = pattern[position]
        if character == escape and position + 1 < len(pattern):
            position += 1
            pieces.append(re.escape(pattern[position]))
        else:
            pieces.append({"%": ".*", "_": "."}.get(character, re.escape(character)))
        position += 1
    return f"(?s)^{''.join(pieces)}$"
