"""Comparison of values by Spark's rules; see `read.pushdown.evaluate`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pyspark_theflash.base.errors import UnsupportedError
from pyspark_theflash.read.pushdown.term import LiteralKind, LiteralTerm
from pyspark_theflash.read.pushdown.value import (
    LITERAL_TYPES,
    WHERE,
    Constant,
    Exact,
    Mask,
    Ordered,
    Rows,
    Texts,
    Value,
    both,
    constant_ints,
    ordered_floats,
    valid_of,
)
from pyspark_theflash.tidb.expression.allowance import reserve_decoded

_SWAPPED: Final = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}
_NUMPY: Final[dict[str, Callable[..., Any]]] = {
    "=": np.equal,
    "<>": np.not_equal,
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
}
_ARROW: Final[dict[str, Callable[..., Any]]] = {
    "=": pc.equal,
    "<>": pc.not_equal,
    "<": pc.less,
    "<=": pc.less_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
}
MATCHES: Final[dict[str, Callable[..., Any]]] = {
    "starts with": pc.starts_with,
    "ends with": pc.ends_with,
    "contains": pc.match_substring,
}
_SHORT_BITS: Final = 16
_FLOAT_EXACT: Final = 1 << 24
"""Integers up to this absolute value are exact in float32."""
_INT64: Final = (-(1 << 63), (1 << 63) - 1)


@dataclass(frozen=True, slots=True)
class Truth:
    """Rows for which a condition is true and rows for which it is false; unknown for the others."""

    true: Mask
    false: Mask

    @classmethod
    def of(cls, outcome: Mask, valid: Mask | None = None) -> "Truth":
        """Return `outcome`, unknown where `valid` is false."""
        return cls(outcome, ~outcome) if valid is None else cls(outcome & valid, ~outcome & valid)

    @classmethod
    def same(cls, outcome: bool | None, rows: int) -> "Truth":
        """Return one outcome for all rows."""
        return cls(np.full(rows, outcome is True), np.full(rows, outcome is False))


def compared(name: str, left: Value, right: Value, rows: int) -> Truth:
    """Compare two values. Raises `UnsupportedError`."""
    if isinstance(left, Constant):
        if isinstance(right, Constant):
            raise UnsupportedError(f"{name} of two literals", WHERE)
        return compared(_SWAPPED.get(name, name), right, left, rows)
    if isinstance(right, Constant):
        return _with_literal(name, left, right.literal, rows)
    if isinstance(left, Texts) and isinstance(right, Texts) and left.type == right.type:
        return _arrow_truth(_ARROW[name](_dense(left.values), _dense(right.values)))
    left, right = _as_floats(left, right.type), _as_floats(right, left.type)
    if isinstance(left, Exact) and isinstance(right, Exact):
        scale = max(left.scale, right.scale)
        outcome = _NUMPY[name](left.scaled(scale), right.scaled(scale))
    elif isinstance(left, Ordered) and isinstance(right, Ordered) and _alike(left.type, right.type):
        outcome = _NUMPY[name](left.ints, right.ints)
    else:
        raise UnsupportedError(f"comparing {left.type} with {right.type}", WHERE)
    return Truth.of(outcome.astype(np.bool_), both(left.valid, right.valid))


def _as_floats(value: Rows, other: pa.DataType) -> Rows:
    """Convert integers that Spark compares with `other` as doubles.

    That is with doubles, and tinyint and smallint with floats; Spark compares wider integers as
    float.
    """
    if not isinstance(value, Exact) or not pa.types.is_integer(value.type):
        return value
    if other != pa.float64() and not (
        other == pa.float32() and value.type.bit_width <= _SHORT_BITS
    ):
        return value
    return Ordered.of_floats(value.ints.astype(np.float64), pa.float64(), value.valid)


def _alike(left: pa.DataType, right: pa.DataType) -> bool:
    are_floats = pa.types.is_floating(left) and pa.types.is_floating(right)
    return are_floats or bool(left == right)


def _with_literal(name: str, value: Rows, literal: LiteralTerm, rows: int) -> Truth:
    if literal.kind is LiteralKind.NULL:
        return Truth.same(None, rows)
    value = _as_floats(value, LITERAL_TYPES.get(literal.kind, pa.null()))
    if isinstance(value, Texts):
        scalar = _text(literal, value)
        return _each_text(value, lambda texts: _ARROW[name](texts, scalar))
    if isinstance(value, Exact):
        number, scale = constant_ints(literal)
        return Truth.of(_with_number(name, value, number, scale), value.valid)
    if isinstance(value, Ordered):
        return Truth.of(_NUMPY[name](value.ints, _ordered(literal, value)), value.valid)
    raise UnsupportedError(f"comparing {value.type}", WHERE)


def _with_number(name: str, value: Exact, number: int, scale: int) -> Mask:
    """Compare with `number` / 10 ** `scale`, rescaled to the integers of the column."""
    shift = value.scale - scale
    low = number * 10**shift if shift >= 0 else number // 10**-shift
    is_whole = shift >= 0 or not number % 10**-shift
    if not is_whole:
        # The literal lies between `low` and `low` + 1, so no value equals it.
        if name in ("=", "<>"):
            return np.full(len(value.ints), name == "<>")
        name = {"<": "<=", ">=": ">"}.get(name, name)
    if value.ints.dtype != object and not _INT64[0] <= low <= _INT64[1]:
        is_true = {"=": False, "<>": True}.get(name, name.startswith("<") == (low > 0))
        return np.full(len(value.ints), is_true)
    outcome: Mask = _NUMPY[name](value.ints, low).astype(np.bool_)
    return outcome


def _ordered(literal: LiteralTerm, value: Ordered) -> int:
    """Return a literal as an integer of `Ordered.ints`."""
    is_float, number = pa.types.is_floating(value.type), literal.value
    literal_type = LITERAL_TYPES.get(literal.kind, pa.null())
    is_exact = (
        literal.kind is LiteralKind.INT and isinstance(number, int) and abs(number) <= _FLOAT_EXACT
    )
    if not _alike(literal_type, value.type) and not (is_float and is_exact):
        raise UnsupportedError(
            f"comparing {value.type} with a literal of kind {literal.kind.value}", WHERE
        )
    if is_float:
        return int(ordered_floats(np.array([number], np.float64))[0])
    if not isinstance(number, int) or not _INT64[0] <= number <= _INT64[1]:
        raise UnsupportedError(f"a {literal.kind.value} outside of 64 bits", WHERE)
    return number


def _text(literal: LiteralTerm, value: Texts) -> pa.Scalar:
    if LITERAL_TYPES.get(literal.kind) != value.type:
        raise UnsupportedError(
            f"comparing {value.type} with a literal of kind {literal.kind.value}", WHERE
        )
    return pa.scalar(literal.value, value.type)


def matched(name: str, value: Value, pattern: Value, rows: int) -> Truth:
    """Match strings with a literal. Raises `UnsupportedError`."""
    if not isinstance(value, Texts) or not isinstance(pattern, Constant):
        raise UnsupportedError(f"{name} of other arguments than a string and a literal", WHERE)
    if pattern.literal.kind is LiteralKind.NULL:
        return Truth.same(None, rows)
    text = _text(pattern.literal, value).as_py()
    return _each_text(value, lambda texts: MATCHES[name](texts, text))


def is_among(value: Rows, literals: Sequence[LiteralTerm], rows: int) -> Truth:
    """Return whether values equal one of the literals. Raises `UnsupportedError`."""
    for kind in {literal.kind for literal in literals}:
        value = _as_floats(value, LITERAL_TYPES.get(kind, pa.null()))
    if isinstance(value, Texts):
        texts = pa.array([_text(each, value).as_py() for each in literals], value.type)
        # pc.is_in is false, not null, for a null.
        return _each_text(
            value, lambda v: pc.if_else(v.is_valid(), pc.is_in(v, value_set=texts), None)
        )
    if isinstance(value, Exact):
        return Truth.of(_among_numbers(value, literals), value.valid)
    if isinstance(value, Ordered):
        choices = np.array([_ordered(each, value) for each in literals], np.int64)
        return Truth.of(np.isin(value.ints, choices), value.valid)
    raise UnsupportedError(f"comparing {value.type}", WHERE)


def _among_numbers(value: Exact, literals: Sequence[LiteralTerm]) -> Mask:
    numbers = []
    for number, scale in map(constant_ints, literals):
        shift = value.scale - scale
        if shift >= 0:
            numbers.append(number * 10**shift)
        elif not number % 10**-shift:
            numbers.append(number // 10**-shift)
    if value.ints.dtype == object:
        choices = frozenset(numbers)
        return np.fromiter((n in choices for n in value.ints), np.bool_, len(value.ints))
    in_range = [n for n in numbers if _INT64[0] <= n <= _INT64[1]]
    return np.isin(value.ints, np.array(in_range, np.int64))


def _each_text(value: Texts, function: Callable[[pa.Array], pa.Array]) -> Truth:
    """Evaluate `function` for the strings, or once for each dictionary value."""
    values = value.values
    if not pa.types.is_dictionary(values.type):
        return _arrow_truth(function(values))
    by_word = _arrow_truth(function(values.dictionary))
    if not len(values.dictionary):
        return Truth.same(None, len(values))
    at = pc.fill_null(values.indices, 0).to_numpy(zero_copy_only=False)
    valid = valid_of(values)
    true, false = by_word.true[at], by_word.false[at]
    return Truth(true, false) if valid is None else Truth(true & valid, false & valid)


def _dense(values: pa.Array) -> pa.Array:
    if not pa.types.is_dictionary(values.type):
        return values
    reserve_decoded(values)
    return values.dictionary_decode()


def _arrow_truth(outcome: pa.Array) -> Truth:
    """Convert Arrow booleans."""
    true: npt.NDArray[np.bool_] = pc.fill_null(outcome, False).to_numpy(zero_copy_only=False)
    valid = valid_of(outcome)
    return Truth(true, ~true if valid is None else ~true & valid)
