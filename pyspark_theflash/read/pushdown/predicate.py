"""Which rows a condition is true for, by Spark's rules.

A condition is true, false or, where a NULL leaves it open, neither. AND, OR and NOT go by that, so
`NOT (a = 1)` leaves a NULL out as `a = 1` does; `<=>` and IS NULL are never open. Texts compare by
their bytes, NaN equals itself and is above all numbers, numbers compare by what they are whatever
their types. What Spark would first convert to something else (a text to a number, a date to a
timestamp) is refused.

A text column that comes as a dictionary is looked at once for each of its values.
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
    TEXT_BITS,
    WHERE,
    Batch,
    Constant,
    Exact,
    Mask,
    Ordered,
    Rows,
    Texts,
    Value,
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
_TAKEN_TEXT: Final = 2
_TAKEN_NUMBER: Final = 32
"""To take a value from its place takes as long as to compare so many that stand in a row."""
_SHORT_BITS: Final = 16
_FLOAT_EXACT: Final = 1 << 24
"""Up to here every whole number is a float, too."""
_INT64: Final = (-(1 << 63), (1 << 63) - 1)
_ORDERED_KINDS: Final = {
    LiteralKind.DATE: pa.date32(),
    LiteralKind.TIMESTAMP: pa.timestamp("us", tz="UTC"),
    LiteralKind.TIMESTAMP_NTZ: pa.timestamp("us"),
    LiteralKind.DURATION: pa.duration("us"),
    LiteralKind.FLOAT: pa.float32(),
    LiteralKind.DOUBLE: pa.float64(),
}


@dataclass(frozen=True, slots=True)
class Truth:
    """For which rows something is true and for which it is false; for the others it is open."""

    true: Mask
    false: Mask

    @classmethod
    def of(cls, outcome: Mask, known: Mask | None = None) -> "Truth":
        """`outcome` where it is known; None: everywhere."""
        return cls(outcome, ~outcome) if known is None else cls(outcome & known, ~outcome & known)

    @classmethod
    def same(cls, outcome: bool | None, rows: int) -> "Truth":
        """The same for all rows."""
        return cls(np.full(rows, outcome is True), np.full(rows, outcome is False))


def rows_for_which(term: Term, batch: Batch, among: Mask | None = None) -> Mask:
    """The rows for which a condition is true, of those `among`; None: of all.

    What others hold may be looked at, but does not raise.

    Raises:
        UnsupportedError: it cannot be told exactly as Spark would; the same for no rows at all.
        ColumnNotFoundError: it names a column that the batch lacks.
        SqlOverflowError: a number in it does not fit its type.
    """
    conjuncts = sorted(_conjuncts(term), key=lambda each: _cost(each, batch))
    left, found = batch, np.ones(batch.rows, np.bool_) if among is None else among
    places: npt.NDArray[np.int64] | None = None
    for at, conjunct in enumerate(conjuncts):
        count = int(np.count_nonzero(found))
        if count < left.rows and (_pays(conjunct, left, count) or _is_computed(conjunct)):
            # Without any rows at all every conjunct is looked at, to be refused.
            if not count:
                break
            # No others may raise.
            taken = np.flatnonzero(found)
            places = taken if places is None else places[taken]
            names = [name for each in conjuncts[at:] for name in column_names(each)]
            left, found = left.only(distinct(names), taken), np.ones(count, np.bool_)
        found = found & truth(conjunct, left).true
    if places is None:
        return found
    kept = np.zeros(batch.rows, np.bool_)
    kept[places[found]] = True
    return kept


def _conjuncts(term: Term) -> Iterator[Term]:
    """What must all be true for a condition to be."""
    if isinstance(term, FunctionTerm) and term.name == "and" and len(term.arguments) >= 2:
        for argument in term.arguments:
            yield from _conjuncts(argument)
    else:
        yield term


def _cost(term: Term, batch: Batch) -> tuple[bool, int]:
    """What is computed comes last, for it may raise; else the widest column tells."""
    if not isinstance(term, FunctionTerm):
        return False, 0
    return _is_computed(term), _width(term, batch)


def _pays(term: Term, batch: Batch, count: int) -> bool:
    """Whether to take `count` rows and look at these is quicker than to look at all."""
    taken = _TAKEN_TEXT if _width(term, batch) >= TEXT_BITS else _TAKEN_NUMBER
    return count * taken < batch.rows


def _width(term: Term, batch: Batch) -> int:
    """How many bits the widest of its columns has."""
    return max((batch.width(name) for name in column_names(term)), default=0)


def _is_computed(term: Term) -> bool:
    return isinstance(term, FunctionTerm) and any(
        isinstance(a, FunctionTerm) for a in term.arguments
    )


def value_in(batch: Batch, term: Term) -> Value:
    """A column, a literal, or what a condition computes of them.

    Raises:
        UnsupportedError: it is something else, or not exact.
        SqlOverflowError: a result that its type does not hold.
    """
    if isinstance(term, ColumnTerm):
        return batch.column(term.name)
    if isinstance(term, LiteralTerm):
        return Constant(term)
    arguments = [value_in(batch, argument) for argument in term.arguments]
    if term.name in ARITHMETIC and len(arguments) == 2:
        return computed(term.name, *arguments)
    return applied(term.name, arguments, batch.rows)


def truth(term: Term, batch: Batch) -> Truth:
    """See `rows_for_which`."""
    if isinstance(term, LiteralTerm) and term.kind in (LiteralKind.BOOL, LiteralKind.NULL):
        return Truth.same(None if term.value is None else bool(term.value), batch.rows)
    if not isinstance(term, FunctionTerm):
        raise UnsupportedError("a condition that compares nothing", WHERE)
    name, arguments = term.name, term.arguments
    if name in ("and", "or"):
        _check_count(term, len(arguments) >= 2)
        return _joined(name, [truth(argument, batch) for argument in arguments])
    if name == "not":
        _check_count(term, len(arguments) == 1)
        inner = truth(arguments[0], batch)
        return Truth(inner.false, inner.true)
    if name in ("is null", "is not null"):
        _check_count(term, len(arguments) == 1)
        missing = _is_null(arguments[0], batch)
        return Truth.of(missing if name == "is null" else ~missing)
    if name == "in":
        _check_count(term, len(arguments) >= 2)
        return _is_in(arguments[0], arguments[1:], batch)
    _check_count(term, len(arguments) == 2)
    left, right = arguments
    if name in MATCHES:
        return _matched(name, value_in(batch, left), value_in(batch, right), batch.rows)
    if name not in COMPARISONS:
        raise UnsupportedError(f"{name} as a condition", WHERE)
    if name == "<=>":
        return _same(left, right, batch)
    return _compared(name, value_in(batch, left), value_in(batch, right), batch.rows)


def _check_count(term: FunctionTerm, is_right: bool) -> None:
    if not is_right:
        raise UnsupportedError(f"{term.name} of {len(term.arguments)} arguments", WHERE)


def _joined(name: str, truths: Sequence[Truth]) -> Truth:
    trues, falses = [t.true for t in truths], [t.false for t in truths]
    if name == "and":
        return Truth(np.logical_and.reduce(trues), np.logical_or.reduce(falses))
    return Truth(np.logical_or.reduce(trues), np.logical_and.reduce(falses))


def _is_null(term: Term, batch: Batch) -> Mask:
    if isinstance(term, ColumnTerm):
        valid = valid_of(batch.array(term.name))
        return np.zeros(batch.rows, np.bool_) if valid is None else ~valid
    value = value_in(batch, term)
    if isinstance(value, Constant):
        return np.full(batch.rows, value.literal.kind is LiteralKind.NULL)
    valid = validity(value)
    return np.zeros(batch.rows, np.bool_) if valid is None else ~valid


def _same(left: Term, right: Term, batch: Batch) -> Truth:
    """`<=>`: equal, or both NULL."""
    equal = _compared("=", value_in(batch, left), value_in(batch, right), batch.rows)
    return Truth.of(equal.true | (_is_null(left, batch) & _is_null(right, batch)))


def _compared(name: str, left: Value, right: Value, rows: int) -> Truth:
    if isinstance(left, Constant):
        if isinstance(right, Constant):
            raise UnsupportedError(f"{name} of literals alone", WHERE)
        return _compared(_SWAPPED.get(name, name), right, left, rows)
    if isinstance(right, Constant):
        return _with_literal(name, left, right.literal, rows)
    if isinstance(left, Texts) and isinstance(right, Texts) and left.type == right.type:
        return _told(_ARROW[name](_dense(left.values), _dense(right.values)))
    left, right = _as_floats(left, right.type), _as_floats(right, left.type)
    if isinstance(left, Exact) and isinstance(right, Exact):
        scale = max(left.scale, right.scale)
        outcome = _NUMPY[name](left.scaled(scale), right.scaled(scale))
    elif isinstance(left, Ordered) and isinstance(right, Ordered) and _alike(left.type, right.type):
        outcome = _NUMPY[name](left.ints, right.ints)
    else:
        raise UnsupportedError(f"comparing {left.type} with {right.type}", WHERE)
    valid = [v for v in (left.valid, right.valid) if v is not None]
    return Truth.of(outcome.astype(np.bool_), np.logical_and.reduce(valid) if valid else None)


def _as_floats(value: Rows, other: pa.DataType) -> Rows:
    """Integers beside floats become floats, as in Spark, which has `float` beside a `bigint`."""
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
    value = _as_floats(value, _ORDERED_KINDS.get(literal.kind, pa.null()))
    if isinstance(value, Texts):
        wanted = _text(literal, value)
        return _each_text(value, lambda texts: _ARROW[name](texts, wanted))
    if isinstance(value, Exact):
        number, scale = constant_ints(literal)
        return Truth.of(_with_number(name, value, number, scale), value.valid)
    if isinstance(value, Ordered):
        return Truth.of(_NUMPY[name](value.ints, _ordered(literal, value)), value.valid)
    raise UnsupportedError(f"comparing {value.type} with anything", WHERE)


def _with_number(name: str, value: Exact, number: int, scale: int) -> Mask:
    """Compare with `number` / 10 ** `scale`, in whole numbers of the column."""
    shift = value.scale - scale
    low = number * 10**shift if shift >= 0 else number // 10**-shift
    is_whole = shift >= 0 or not number % 10**-shift
    if not is_whole:
        # It lies above `low` and below the next: nothing is equal to it.
        if name in ("=", "<>"):
            return np.full(len(value.ints), name == "<>")
        name = {"<": "<=", ">=": ">"}.get(name, name)
    if value.ints.dtype != object and not _INT64[0] <= low <= _INT64[1]:
        is_true = {"=": False, "<>": True}.get(name, name.startswith("<") == (low > 0))
        return np.full(len(value.ints), is_true)
    outcome: Mask = _NUMPY[name](value.ints, low).astype(np.bool_)
    return outcome


def _ordered(literal: LiteralTerm, value: Ordered) -> int:
    """A literal among such values."""
    is_float, number = pa.types.is_floating(value.type), literal.value
    known = _ORDERED_KINDS.get(literal.kind, pa.null())
    is_exact = (
        literal.kind is LiteralKind.INT and isinstance(number, int) and abs(number) <= _FLOAT_EXACT
    )
    if not _alike(known, value.type) and not (is_float and is_exact):
        raise UnsupportedError(f"comparing {value.type} with a {literal.kind.value}", WHERE)
    if is_float:
        return int(ordered_floats(np.array([number], np.float64))[0])
    if not isinstance(number, int) or not _INT64[0] <= number <= _INT64[1]:
        raise UnsupportedError(f"such a {literal.kind.value}", WHERE)
    return number


def _text(literal: LiteralTerm, value: Texts) -> pa.Scalar:
    kinds = {LiteralKind.STRING: pa.string(), LiteralKind.BINARY: pa.binary()}
    if kinds.get(literal.kind) != value.type:
        raise UnsupportedError(f"comparing {value.type} with a {literal.kind.value}", WHERE)
    return pa.scalar(literal.value, value.type)


def _matched(name: str, value: Value, pattern: Value, rows: int) -> Truth:
    if not isinstance(value, Texts) or not isinstance(pattern, Constant):
        raise UnsupportedError(f"{name} of anything but a text and a literal", WHERE)
    if pattern.literal.kind is LiteralKind.NULL:
        return Truth.same(None, rows)
    wanted = _text(pattern.literal, value).as_py()
    return _each_text(value, lambda texts: MATCHES[name](texts, wanted))


def _is_in(term: Term, choices: Sequence[Term], batch: Batch) -> Truth:
    value = value_in(batch, term)
    literals = [choice for choice in choices if isinstance(choice, LiteralTerm)]
    if len(literals) < len(choices) or isinstance(value, Constant):
        raise UnsupportedError("in with anything but a value and literals", WHERE)
    told = [literal for literal in literals if literal.kind is not LiteralKind.NULL]
    found = _among(value, told, batch.rows) if told else Truth.same(False, batch.rows)
    if len(told) < len(literals):
        # The NULL may be equal to what no other was.
        return Truth(found.true, np.zeros(batch.rows, np.bool_))
    return found


def _among(value: Rows, literals: Sequence[LiteralTerm], rows: int) -> Truth:
    for kind in {literal.kind for literal in literals}:
        value = _as_floats(value, _ORDERED_KINDS.get(kind, pa.null()))
    if isinstance(value, Texts):
        texts = pa.array([_text(each, value).as_py() for each in literals], value.type)
        # Of a null it would say false.
        return _each_text(
            value, lambda v: pc.if_else(v.is_valid(), pc.is_in(v, value_set=texts), None)
        )
    if isinstance(value, Exact):
        return Truth.of(_among_numbers(value, literals), value.valid)
    if isinstance(value, Ordered):
        wanted = np.array([_ordered(each, value) for each in literals], np.int64)
        return Truth.of(np.isin(value.ints, wanted), value.valid)
    raise UnsupportedError(f"comparing {value.type} with anything", WHERE)


def _among_numbers(value: Exact, literals: Sequence[LiteralTerm]) -> Mask:
    numbers = []
    for number, scale in map(constant_ints, literals):
        shift = value.scale - scale
        if shift >= 0:
            numbers.append(number * 10**shift)
        elif not number % 10**-shift:
            numbers.append(number // 10**-shift)
    if value.ints.dtype == object:
        wanted = frozenset(numbers)
        return np.fromiter((n in wanted for n in value.ints), np.bool_, len(value.ints))
    known = [n for n in numbers if _INT64[0] <= n <= _INT64[1]]
    return np.isin(value.ints, np.array(known, np.int64))


def _each_text(value: Texts, told: Callable[[pa.Array], pa.Array]) -> Truth:
    """What `told` says of each text, of a dictionary of each value once."""
    values = value.values
    if not pa.types.is_dictionary(values.type):
        return _told(told(values))
    once = _told(told(values.dictionary))
    if not len(values.dictionary):
        return Truth.same(None, len(values))
    at = pc.fill_null(values.indices, 0).to_numpy(zero_copy_only=False)
    valid = valid_of(values)
    true, false = once.true[at], once.false[at]
    return Truth(true, false) if valid is None else Truth(true & valid, false & valid)


def _dense(values: pa.Array) -> pa.Array:
    return values.dictionary_decode() if pa.types.is_dictionary(values.type) else values


def _told(outcome: pa.Array) -> Truth:
    """Arrow's truth."""
    true: npt.NDArray[np.bool_] = pc.fill_null(outcome, False).to_numpy(zero_copy_only=False)
    valid = valid_of(outcome)
    return Truth(true, ~true if valid is None else ~true & valid)
