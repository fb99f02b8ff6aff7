"""Comparison and logical operators, with three-valued logic."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import reduce
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pyspark_theflash.base.errors import UnsupportedError
from pyspark_theflash.tidb.codec.collation import is_bytewise, sort_keys
from pyspark_theflash.tidb.codec.reader import Mask
from pyspark_theflash.tidb.expression.allowance import check_time, require
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
from pyspark_theflash.tidb.expression.vector import (
    INTEGERS,
    Kind,
    Vector,
    booleans,
    null_of,
)


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


_KEY_BYTES: Final = 4
"""Bytes of a sort key for each byte of the text."""


def _text_keys(left: Vector, right: Vector) -> tuple[Any, Any]:
    for each in (left, right):
        require(_KEY_BYTES * each.data.nbytes)
    try:
        keys = [sort_keys(v.data, v.collation) for v in as_texts([left, right])]
    except UnsupportedError as error:
        raise LackingError(error.what) from None
    return pc.cast(keys[0], pa.binary()), pc.cast(keys[1], pa.binary())


def beside(left: Any, right: Any) -> tuple[Any, Any]:  # noqa: ANN401 (Arrow arrays)
    """Return operands of an Arrow function, with a constant of one row as a scalar."""
    if len(left) == len(right):
        return left, right
    return (left[0], right) if len(left) == 1 else (left, right[0])


_MATCH_STEPS: Final = 1 << 31
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
        result = np.asarray(pc.fill_null(getattr(pc, name)(*beside(*keys)), False))
    return booleans(result, left.null | right.null)


def _null_result(operands: Sequence[Vector]) -> Vector | None:
    """Return NULL for all rows if an operand is NULL throughout, else None."""
    if not any(v.kind is Kind.NULL for v in operands):
        return None
    null = np.ones(max(map(len, operands)), np.bool_)
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
    constants = [candidate for candidate in candidates if candidate.is_constant]
    others = [candidate for candidate in candidates if not candidate.is_constant]
    results = [_among_constants(value, constants)] if constants else []
    for other in others:
        check_time()
        results = [reduce(_or, [*results, equal([value, other])])]
    return results[0]


def _or(left: Vector, right: Vector) -> Vector:
    return logical_or([left, right])


def _among_constants(value: Vector, constants: Sequence[Vector]) -> Vector:
    """Return whether the values equal one of the constants: a look-up per type of comparison."""
    missing = [each for each in constants if each.null[0]]
    if value.kind is Kind.NULL or len(missing) == len(constants):
        equality = [equal([value, each]) for each in constants[:1]]
        return replace(equality[0], null=np.ones(len(equality[0]), np.bool_))
    one = value.take(np.zeros(1, np.int64))
    kinds: dict[Any, list[tuple[Vector, Vector]]] = {}
    for constant in constants:
        if not constant.null[0]:
            is_common = _are_common(value, constant)
            left, right = (one, constant) if is_common else common(one, constant)
            key = left.kind, right.kind, right.is_bytes, right.collation, right.coercibility
            kinds.setdefault(key, []).append((constant, right))
    is_equal, null = np.zeros(len(value), np.bool_), value.null
    for pairs in kinds.values():
        check_time()
        left, _ = common(value, pairs[0][0])
        # A text that is no time is NULL beside times.
        choices = [right for _, right in pairs if not right.null[0]]
        missing += [right for _, right in pairs if right.null[0]]
        null = null | left.null
        if choices:
            is_equal |= _is_among(left, choices) & ~left.null
    return booleans(is_equal, (null | bool(missing)) & ~is_equal)


def _are_common(left: Vector, right: Vector) -> bool:
    """Return whether two operands compare without a conversion."""
    if left.number is not None or right.number is not None:
        return False
    if left.kind is right.kind is Kind.TEXT:
        return True
    are_years = left.is_year is not False or right.is_year is not False
    return not are_years and left.kind in INTEGERS and right.kind in INTEGERS


def _is_among(values: Vector, choices: Sequence[Vector]) -> Mask:
    """Return whether values equal one of the constants, which are of a common kind."""
    if values.kind is Kind.TEXT:
        data = pa.concat_arrays([choice.data for choice in choices])
        null = np.zeros(len(choices), np.bool_)
        keys = _text_keys(values, replace(choices[0], data=data, null=null, number=None))
        return np.asarray(pc.is_in(keys[0], value_set=keys[1]))
    if values.kind is Kind.DECIMAL:
        digits = max(v.digits for v in [values, *choices])
        among = {rescale(v.data, v.digits, digits)[0] for v in choices}
        unscaled = rescale(to_objects(values.data, values.null), values.digits, digits)
        return np.fromiter((each in among for each in unscaled), np.bool_, len(values))
    numbers = [choice.data[0].item() for choice in choices]
    if values.kind is not Kind.REAL:
        bounds = np.iinfo(values.data.dtype)
        numbers = [each for each in numbers if bounds.min <= each <= bounds.max]
    return np.isin(values.data, np.array(numbers, values.data.dtype))


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
        text = _ascii_pattern(pattern.constant())
        return booleans(_matched(value, text, escape.constant()), null)
    return booleans(_matched(value, pattern.constant(), escape.constant()), null)


def _ascii_pattern(pattern: bytes) -> str:
    """Return a pattern for bytes, if characters and bytes are the same for it.

    `_` is a character to TiDB, which decodes the bytes as UTF-8, and a byte to TiKV.
    """
    if not pattern.isascii() or b"_" in pattern:
        raise LackingError("LIKE on bytes with `_` or with non-ASCII characters")
    return pattern.decode()


def _matched(value: Vector, pattern: str, escape: str) -> Mask:
    """Match texts with a pattern. Arrow's time is at most the product of their sizes.

    Raises:
        LackingError: It may be too long for a single text.
    """
    expression = _like_expression(pattern, escape)
    sizes = pc.binary_length(value.data)
    if len(expression) * (pc.max(sizes).as_py() or 0) > _MATCH_STEPS:
        raise LackingError("LIKE with a pattern as long as this, on texts as long as these,")
    steps = len(expression) * (pc.sum(sizes).as_py() or 0)
    count = max(len(value) * _MATCH_STEPS // max(steps, 1), 1)
    parts = []
    for start in range(0, len(value), count):
        check_time()
        matches = pc.match_substring_regex(value.data.slice(start, count), expression)
        parts.append(np.asarray(pc.fill_null(matches, False)))
    return np.concatenate(parts)


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
