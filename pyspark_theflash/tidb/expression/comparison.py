"""Comparison and logical operators, with three-valued logic."""

import re
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pyspark_theflash.base.errors import UnsupportedError
from pyspark_theflash.tidb.codec.collation import is_bytewise, sort_keys
from pyspark_theflash.tidb.codec.reader import Mask
from pyspark_theflash.tidb.expression.collation import as_texts
from pyspark_theflash.tidb.expression.convert import (
    objects_of,
    rescale,
    to_objects,
    to_text,
    to_truth,
)
from pyspark_theflash.tidb.expression.failure import LackingError
from pyspark_theflash.tidb.expression.operands import among_operands, between_operands, common
from pyspark_theflash.tidb.expression.vector import Kind, Vector, booleans, null_of


def _keys(left: Vector, right: Vector) -> tuple[Any, Any]:
    """Return arrays that order like operands of a common kind: NumPy, or Arrow for texts."""
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
    try:
        keys = [sort_keys(v.data, v.collation) for v in as_texts([left, right])]
    except UnsupportedError as error:
        raise LackingError(error.what) from None
    return pc.cast(keys[0], pa.binary()), pc.cast(keys[1], pa.binary())


_ON_ARRAYS: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "equal": np.equal,
    "less": np.less,
    "less_equal": np.less_equal,
}


def compare(name: str, left: Vector, right: Vector) -> Vector:
    """Compute `equal`, `less` or `less_equal`; NULL where either operand is NULL."""
    left, right = common(left, right)
    keys = _keys(left, right)
    if isinstance(keys[0], np.ndarray):
        result = np.asarray(_ON_ARRAYS[name](*keys), np.bool_)
    else:
        result = np.asarray(pc.fill_null(getattr(pc, name)(*keys), False))
    return booleans(result, left.null | right.null)


def _null_result(operands: Sequence[Vector]) -> Vector | None:
    """Return NULL for all rows if an operand is NULL throughout, else None."""
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
        result = compare(name, left, right)
        return logical_not([result]) if negated else result

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
    """`<=>`: two NULLs are equal, and the result is never NULL."""
    left, right = operands
    if Kind.NULL not in (left.kind, right.kind):
        left, right = common(left, right)
    equality = equal([left, right])
    both = left.null & right.null
    return booleans((equality.data != 0) & ~equality.null | both, np.zeros(len(both), np.bool_))


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
    value, *candidates = among_operands(operands)
    result = equal([value, candidates[0]])
    for candidate in candidates[1:]:
        result = logical_or([result, equal([value, candidate])])
    return result


def between(operands: Sequence[Vector]) -> Vector:
    """`BETWEEN`."""
    value, low, high = between_operands(operands)
    return logical_and([less_equal([low, value]), less_equal([value, high])])


def like(operands: Sequence[Vector]) -> Vector:
    """`LIKE` with a constant pattern.

    Raises:
        LackingError: The pattern is not a constant, or the collation equates different bytes.
    """
    value, pattern = as_texts(operands[:2])
    escape = to_text(operands[2])
    null = null_of([value, pattern])
    if not is_bytewise(value.collation):
        raise LackingError(f"LIKE under collation {value.collation.collate}")
    if null.all():
        return booleans(null, null)
    if value.is_bytes:
        return booleans(_bytes_like(value, pattern.constant(), escape.constant()), null)
    expression = _like_expression(pattern.constant(), escape.constant())
    matches = pc.match_substring_regex(value.data, expression)
    return booleans(np.asarray(pc.fill_null(matches, False)), null)


def _bytes_like(value: Vector, pattern: bytes, escape: str) -> Mask:
    """Match bytes with a pattern, if characters and bytes are the same for it.

    `_` is a character to TiDB, which decodes the bytes as UTF-8, and a byte to TiKV.
    """
    if not pattern.isascii() or b"_" in pattern:
        raise LackingError("LIKE on bytes with `_` or with non-ASCII characters")
    expression = re.compile(_like_expression(pattern.decode(), escape))
    matches = [
        each is not None and expression.fullmatch(each.decode("latin-1")) is not None
        for each in value.data.to_pylist()
    ]
    return np.array(matches, np.bool_)


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
