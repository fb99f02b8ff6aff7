"""Evaluate terms by Spark's rules: values, and the conditions that choose rows or values.

Logic has three values: NULL operands make a comparison, and NOT of it, unknown; `<=>` and IS NULL
never are. Strings compare by their bytes, NaN equals itself and is greater than other numbers, and
numbers of different types compare by value. Comparisons for which Spark would cast differently (a
string to a number, a date to a timestamp) are unsupported.

A branch of CASE or COALESCE that may raise is evaluated only for the rows for which Spark evaluates
it. All branches have one type. String results are dictionary-encoded; the dictionary joins those of
the branches and may contain duplicates.

A function of a dictionary-encoded string column is evaluated once for each dictionary value.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pyspark_theflash.base.errors import UnsupportedError
from pyspark_theflash.read.pushdown.function import applied
from pyspark_theflash.read.pushdown.term import (
    ARITHMETIC,
    COMPARISONS,
    ColumnTerm,
    FunctionTerm,
    LiteralKind,
    LiteralTerm,
    Term,
    column_names,
    distinct,
)
from pyspark_theflash.read.pushdown.value import (
    LITERAL_TYPES,
    TEXT_BITS,
    WHERE,
    Batch,
    Constant,
    Exact,
    Mask,
    Ordered,
    Other,
    Rows,
    Texts,
    Value,
    both,
    computed,
    constant_ints,
    ordered_floats,
    valid_of,
    validity,
)

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
_CONDITIONS: Final = frozenset(
    {"and", "or", "not", "in", "is null", "is not null", *COMPARISONS, *MATCHES}
)
_NEVER_RAISE: Final = frozenset({"case", "coalesce", *_CONDITIONS})
_TAKE_COST_TEXT: Final = 2
_TAKE_COST_NUMBER: Final = 32
"""Selecting one value by index costs as much as comparing this many consecutive ones."""
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


def rows_for_which(term: Term, batch: Batch, among: Mask | None = None) -> Mask:
    """Return the mask of the rows, of those in `among` (None: all), for which a condition is true.

    Values of rows outside `among` may be evaluated, but raise no errors.

    Raises:
        UnsupportedError: The result could differ from Spark's. Also raised for an empty batch.
        ColumnNotFoundError: The condition names a column that is not in the batch.
        SqlOverflowError: A number does not fit its type.
    """
    conjuncts = sorted(_conjuncts(term), key=lambda each: _cost(each, batch))
    rest, mask = batch, np.ones(batch.rows, np.bool_) if among is None else among
    places: npt.NDArray[np.int64] | None = None
    for at, conjunct in enumerate(conjuncts):
        count = int(np.count_nonzero(mask))
        is_wide = _width(conjunct, rest) >= TEXT_BITS
        take_cost = _TAKE_COST_TEXT if is_wide else _TAKE_COST_NUMBER
        if count < rest.rows and (count * take_cost < rest.rows or _is_computed(conjunct)):
            # An empty batch evaluates every conjunct, so that unsupported ones raise.
            if not count:
                break
            # Computed values may raise, so they are computed for the remaining rows only.
            indices = np.flatnonzero(mask)
            places = indices if places is None else places[indices]
            names = [name for each in conjuncts[at:] for name in column_names(each)]
            rest, mask = rest.only(distinct(names), indices), np.ones(count, np.bool_)
        mask = mask & truth(conjunct, rest).true
    if places is None:
        return mask
    result = np.zeros(batch.rows, np.bool_)
    result[places[mask]] = True
    return result


def _conjuncts(term: Term) -> Iterator[Term]:
    """Yield the operands of nested ANDs."""
    if isinstance(term, FunctionTerm) and term.name == "and" and len(term.arguments) >= 2:
        for argument in term.arguments:
            yield from _conjuncts(argument)
    else:
        yield term


def _cost(term: Term, batch: Batch) -> tuple[bool, int]:
    """Return the sort key of a conjunct: computed ones last, as they may raise; then by width."""
    if not isinstance(term, FunctionTerm):
        return False, 0
    return _is_computed(term), _width(term, batch)


def _width(term: Term, batch: Batch) -> int:
    """Return the bits per value of the widest column."""
    return max((batch.width(name) for name in column_names(term)), default=0)


def _is_computed(term: Term) -> bool:
    return isinstance(term, FunctionTerm) and any(
        isinstance(a, FunctionTerm) for a in term.arguments
    )


def evaluate(term: Term, batch: Batch) -> Value:
    """Evaluate a term for each row.

    Raises:
        UnsupportedError: The result could differ from Spark's. Also raised for an empty batch.
        ColumnNotFoundError: The term names a column that is not in the batch.
        SqlOverflowError: A result does not fit its type.
    """
    if isinstance(term, ColumnTerm):
        return batch.column(term.name)
    if isinstance(term, LiteralTerm):
        return Constant(term)
    if term.name in _CONDITIONS:
        return _truths(truth(term, batch))
    if term.name == "case":
        return _case(term.arguments, batch)
    if term.name == "coalesce":
        return _coalesce(term.arguments, batch)
    arguments = [evaluate(argument, batch) for argument in term.arguments]
    is_cast = term.name.startswith("as ")
    if arguments and not is_cast and all(isinstance(each, Constant) for each in arguments):
        raise UnsupportedError(f"{term.name} of literals only", WHERE)
    if term.name in ARITHMETIC and len(arguments) == 2:
        return computed(term.name, *arguments)
    return applied(term.name, arguments, batch.rows)


def truth(term: Term, batch: Batch) -> Truth:
    """Evaluate a condition; see `rows_for_which`."""
    if isinstance(term, LiteralTerm) and term.kind in (LiteralKind.BOOL, LiteralKind.NULL):
        return Truth.same(None if term.value is None else bool(term.value), batch.rows)
    if not isinstance(term, FunctionTerm):
        raise UnsupportedError("a column or literal as a condition", WHERE)
    name, arguments = term.name, term.arguments
    is_list, is_unary = name in ("and", "or", "in"), name in ("not", "is null", "is not null")
    count = len(arguments)
    if count < 2 if is_list else count != (1 if is_unary else 2):
        raise UnsupportedError(f"{name} of {count} arguments", WHERE)
    left, right = arguments[0], arguments[-1]
    if name in ("and", "or"):
        every, some = np.logical_and.reduce, np.logical_or.reduce
        true, false = (every, some) if name == "and" else (some, every)
        truths = [truth(argument, batch) for argument in arguments]
        return Truth(true([t.true for t in truths]), false([t.false for t in truths]))
    if name == "not":
        inner = truth(left, batch)
        return Truth(inner.false, inner.true)
    if is_unary:
        missing = _is_null(left, batch)
        return Truth.of(missing if name == "is null" else ~missing)
    if name == "in":
        return _is_in(left, arguments[1:], batch)
    if name in MATCHES:
        return _matched(name, evaluate(left, batch), evaluate(right, batch), batch.rows)
    if name not in COMPARISONS:
        raise UnsupportedError(f"{name} as a condition", WHERE)
    operator = "=" if name == "<=>" else name
    outcome = _compared(operator, evaluate(left, batch), evaluate(right, batch), batch.rows)
    if name == "<=>":
        return Truth.of(outcome.true | (_is_null(left, batch) & _is_null(right, batch)))
    return outcome


def _is_null(term: Term, batch: Batch) -> Mask:
    if isinstance(term, ColumnTerm):
        valid = valid_of(batch.array(term.name))
    else:
        value = evaluate(term, batch)
        if isinstance(value, Constant):
            return np.full(batch.rows, value.literal.kind is LiteralKind.NULL)
        valid = validity(value)
    return np.zeros(batch.rows, np.bool_) if valid is None else ~valid


def _compared(name: str, left: Value, right: Value, rows: int) -> Truth:
    if isinstance(left, Constant):
        if isinstance(right, Constant):
            raise UnsupportedError(f"{name} of two literals", WHERE)
        return _compared(_SWAPPED.get(name, name), right, left, rows)
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


def _matched(name: str, value: Value, pattern: Value, rows: int) -> Truth:
    if not isinstance(value, Texts) or not isinstance(pattern, Constant):
        raise UnsupportedError(f"{name} of other arguments than a string and a literal", WHERE)
    if pattern.literal.kind is LiteralKind.NULL:
        return Truth.same(None, rows)
    text = _text(pattern.literal, value).as_py()
    return _each_text(value, lambda texts: MATCHES[name](texts, text))


def _is_in(term: Term, choices: Sequence[Term], batch: Batch) -> Truth:
    value = evaluate(term, batch)
    literals = [choice for choice in choices if isinstance(choice, LiteralTerm)]
    if len(literals) < len(choices) or isinstance(value, Constant):
        raise UnsupportedError("IN of other arguments than a column and literals", WHERE)
    non_null = [literal for literal in literals if literal.kind is not LiteralKind.NULL]
    matches = _among(value, non_null, batch.rows) if non_null else Truth.same(False, batch.rows)
    if len(non_null) < len(literals):
        # For rows that equal no other choice, equality with NULL is unknown.
        return Truth(matches.true, np.zeros(batch.rows, np.bool_))
    return matches


def _among(value: Rows, literals: Sequence[LiteralTerm], rows: int) -> Truth:
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
    return values.dictionary_decode() if pa.types.is_dictionary(values.type) else values


def _arrow_truth(outcome: pa.Array) -> Truth:
    """Convert Arrow booleans."""
    true: npt.NDArray[np.bool_] = pc.fill_null(outcome, False).to_numpy(zero_copy_only=False)
    valid = valid_of(outcome)
    return Truth(true, ~true if valid is None else ~true & valid)


# -- values that conditions choose


def _truths(truths: Truth) -> Other:
    return Other(pa.array(truths.true, mask=~(truths.true | truths.false)), pa.bool_())


def _case(arguments: Sequence[Term], batch: Batch) -> Rows:
    if len(arguments) < 2:
        raise UnsupportedError("a CASE without branches", WHERE)
    parts: list[Rows] = []
    chosen = np.full(batch.rows, -1, np.int16)
    rest = np.ones(batch.rows, np.bool_)
    for at in range(0, len(arguments) - 1, 2):
        condition = arguments[at]
        selected = rest & _true_rows(condition, batch, rest)
        parts.append(_branch(arguments[at + 1], batch, selected))
        chosen[selected] = at // 2
        rest &= ~selected
    if len(arguments) % 2:
        parts.append(_branch(arguments[-1], batch, rest))
        chosen[rest] = len(parts) - 1
    return _choose(parts, chosen)


def _coalesce(arguments: Sequence[Term], batch: Batch) -> Rows:
    if not arguments:
        raise UnsupportedError("a COALESCE without arguments", WHERE)
    parts: list[Rows] = []
    chosen = np.full(batch.rows, -1, np.int16)
    rest = np.ones(batch.rows, np.bool_)
    for term in arguments:
        parts.append(_branch(term, batch, rest))
        valid = validity(parts[-1])
        selected = rest if valid is None else rest & valid
        chosen[selected] = len(parts) - 1
        rest = rest & ~selected
    return _choose(parts, chosen)


def _true_rows(condition: Term, batch: Batch, among: Mask) -> Mask:
    """Return the rows of `among` for which a condition is true."""
    if not _may_raise(condition):
        return truth(condition, batch).true
    mask = np.zeros(batch.rows, np.bool_)
    indices = np.flatnonzero(among)
    mask[indices] = truth(condition, _only(condition, batch, indices)).true
    return mask


def _branch(term: Term, batch: Batch, among: Mask) -> Rows:
    """Evaluate a term for the rows `among`; the values of other rows are arbitrary."""
    if not _may_raise(term):
        result = evaluate(term, batch)
    else:
        indices = np.flatnonzero(among)
        result = evaluate(term, _only(term, batch, indices))
        if not isinstance(result, Constant):
            result = _spread(result, indices, batch.rows)
    if isinstance(result, Constant):
        raise UnsupportedError("a literal without a type", WHERE)
    return result


def _only(term: Term, batch: Batch, places: npt.NDArray[np.int64]) -> Batch:
    return batch.only(distinct(list(column_names(term))), places)


def _may_raise(term: Term) -> bool:
    """Return whether the term computes anything beyond comparing columns and literals."""
    if not isinstance(term, FunctionTerm):
        return False
    if term.name.startswith("as ") and isinstance(term.arguments[0], LiteralTerm):
        return False
    return term.name not in _NEVER_RAISE or any(map(_may_raise, term.arguments))


def _spread(values: Rows, indices: npt.NDArray[np.int64], rows: int) -> Rows:
    """Return the values at their row indices; arbitrary elsewhere."""
    to = np.zeros(rows, np.int64)
    to[indices] = np.arange(len(indices))
    if isinstance(values, Exact | Ordered):
        if not len(indices):
            return type(values)(np.zeros(rows, np.int64), values.type, np.zeros(rows, np.bool_))
        valid = None if values.valid is None else values.valid[to]
        return type(values)(values.ints[to], values.type, valid)
    if not len(indices):
        return type(values)(pa.nulls(rows, values.values.type), values.type)
    return type(values)(values.values.take(pa.array(to)), values.type)


def _choose(parts: Sequence[Rows], chosen: npt.NDArray[np.int16]) -> Rows:
    """Select for each row the value of the part `chosen`; NULL where it is -1."""
    if any(part.type != parts[0].type for part in parts):
        raise UnsupportedError("a choice between values of different types", WHERE)
    texts = [part for part in parts if isinstance(part, Texts)]
    if len(texts) == len(parts):
        return _choose_texts(texts, chosen)
    numbers = [part for part in parts if isinstance(part, Exact | Ordered)]
    if len(numbers) == len(parts):
        return _choose_numbers(numbers, chosen)
    raise UnsupportedError(f"a choice of {parts[0].type}", WHERE)


def _choose_numbers(parts: Sequence[Exact | Ordered], chosen: npt.NDArray[np.int16]) -> Rows:
    wide = any(part.ints.dtype == object for part in parts)
    ints: npt.NDArray[Any] = np.zeros(len(chosen), object if wide else np.int64)
    valid = chosen >= 0
    for at, part in enumerate(parts):
        rows = chosen == at
        np.copyto(ints, part.ints, where=rows)
        if part.valid is not None:
            valid &= part.valid | ~rows
    return type(parts[0])(ints, parts[0].type, None if valid.all() else valid)


def _choose_texts(parts: Sequence[Texts], chosen: npt.NDArray[np.int16]) -> Texts:
    places = np.zeros(len(chosen), np.int64)
    valid = chosen >= 0
    words: list[pa.Array] = []
    count = 0
    for at, part in enumerate(parts):
        values, rows = part.values, chosen == at
        if not pa.types.is_dictionary(values.type):
            values = pc.dictionary_encode(values)
        indices = values.indices
        if indices.null_count:
            valid &= indices.is_valid().to_numpy(zero_copy_only=False) | ~rows
            indices = pc.fill_null(indices, 0)
        here = indices.to_numpy(zero_copy_only=False).astype(np.int64)
        np.copyto(places, here + count, where=rows)
        words.append(values.dictionary)
        count += len(values.dictionary)
    mask = None if valid.all() else ~valid
    indices = pa.array(places.astype(np.int32), mask=mask)
    return Texts(pa.DictionaryArray.from_arrays(indices, pa.concat_arrays(words)), parts[0].type)
