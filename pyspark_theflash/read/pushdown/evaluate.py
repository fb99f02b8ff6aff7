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

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pyspark_theflash.base.errors import UnsupportedError
from pyspark_theflash.read.pushdown.choose import choose, spread
from pyspark_theflash.read.pushdown.compare import MATCHES, Truth, compared, is_among, matched
from pyspark_theflash.read.pushdown.function import applied
from pyspark_theflash.read.pushdown.memory import row_bytes, row_slices
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
    Mask,
    Other,
    Rows,
    Value,
    computed,
    valid_of,
    validity,
)
from pyspark_theflash.tidb.expression.allowance import arrow_limits

_CONDITIONS: Final = frozenset(
    {"and", "or", "not", "in", "is null", "is not null", *COMPARISONS, *MATCHES}
)
_NEVER_RAISE: Final = frozenset({"case", "coalesce", *_CONDITIONS})
_TAKE_COST_TEXT: Final = 2
_TAKE_COST_NUMBER: Final = 32
"""Selecting one value by index costs as much as comparing this many consecutive ones."""


def rows_for_which(term: Term, batch: Batch, among: Mask | None = None) -> Mask:
    """Return the mask of the rows, of those in `among` (None: all), for which a condition is true.

    Values of rows outside `among` may be evaluated, but raise no errors.

    Raises:
        UnsupportedError: The result could differ from Spark's. Also raised for an empty batch.
        ColumnNotFoundError: The condition names a column that is not in the batch.
        SqlOverflowError: A number does not fit its type.
        SqlMemoryError: The evaluation needs more memory than the budget.
    """
    slices = list(row_slices(batch.rows, row_bytes(term, batch), batch.budget))
    with arrow_limits(WHERE):
        if len(slices) <= 1:
            return _rows_for_which(term, batch, among)
        masks = (
            _rows_for_which(
                term,
                batch.slice(start, count),
                None if among is None else among[start : start + count],
            )
            for start, count in slices
        )
        return np.concatenate(list(masks))


def _rows_for_which(term: Term, batch: Batch, among: Mask | None) -> Mask:
    named = [(each, list(column_names(each))) for each in _conjuncts(term)]
    named.sort(key=lambda each: _cost(each[0], each[1], batch))
    rest, mask = batch, np.ones(batch.rows, np.bool_) if among is None else among
    places: npt.NDArray[np.int64] | None = None
    last_use = {name.lower(): at for at, (_, names) in enumerate(named) for name in names}
    for at, (conjunct, names) in enumerate(named):
        count = int(np.count_nonzero(mask))
        is_wide = _width(names, rest) >= TEXT_BITS
        take_cost = _TAKE_COST_TEXT if is_wide else _TAKE_COST_NUMBER
        if count < rest.rows and (count * take_cost < rest.rows or _is_computed(conjunct)):
            # An empty batch evaluates every conjunct, so that unsupported ones raise.
            if not count:
                break
            # Computed values may raise, so they are computed for the remaining rows only.
            indices = np.flatnonzero(mask)
            places = indices if places is None else places[indices]
            left = [name for name, last in last_use.items() if last >= at]
            rest, mask = rest.only(left, indices), np.ones(count, np.bool_)
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


def _cost(term: Term, names: Iterable[str], batch: Batch) -> tuple[bool, int]:
    """Return the sort key of a conjunct: computed ones last, as they may raise; then by width."""
    if not isinstance(term, FunctionTerm):
        return False, 0
    return _is_computed(term), _width(names, batch)


def _width(names: Iterable[str], batch: Batch) -> int:
    """Return the bits per value of the widest column."""
    return max((batch.width(name) for name in names), default=0)


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
    batch.budget.check()
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
    batch.budget.check()
    name, arguments = term.name, term.arguments
    is_list, is_unary = name in ("and", "or", "in"), name in ("not", "is null", "is not null")
    count = len(arguments)
    if count < 2 if is_list else count != (1 if is_unary else 2):
        raise UnsupportedError(f"{name} of {count} arguments", WHERE)
    left, right = arguments[0], arguments[-1]
    if name in ("and", "or"):
        return _joined(name, arguments, batch)
    if name == "not":
        inner = truth(left, batch)
        return Truth(inner.false, inner.true)
    if is_unary:
        missing = _is_null(left, batch)
        return Truth.of(missing if name == "is null" else ~missing)
    if name == "in":
        return _is_in(left, arguments[1:], batch)
    if name in MATCHES:
        return matched(name, evaluate(left, batch), evaluate(right, batch), batch.rows)
    if name not in COMPARISONS:
        raise UnsupportedError(f"{name} as a condition", WHERE)
    operator = "=" if name == "<=>" else name
    outcome = compared(operator, evaluate(left, batch), evaluate(right, batch), batch.rows)
    if name == "<=>":
        return Truth.of(outcome.true | (_is_null(left, batch) & _is_null(right, batch)))
    return outcome


def _joined(name: str, conditions: Sequence[Term], batch: Batch) -> Truth:
    """Evaluate AND or OR, one condition after the other."""
    every, some = np.logical_and, np.logical_or
    true, false = (every, some) if name == "and" else (some, every)
    joined = truth(conditions[0], batch)
    for condition in conditions[1:]:
        outcome = truth(condition, batch)
        joined = Truth(true(joined.true, outcome.true), false(joined.false, outcome.false))
    return joined


def _is_null(term: Term, batch: Batch) -> Mask:
    if isinstance(term, ColumnTerm):
        valid = valid_of(batch.array(term.name))
    else:
        value = evaluate(term, batch)
        if isinstance(value, Constant):
            return np.full(batch.rows, value.literal.kind is LiteralKind.NULL)
        valid = validity(value)
    return np.zeros(batch.rows, np.bool_) if valid is None else ~valid


def _is_in(term: Term, choices: Sequence[Term], batch: Batch) -> Truth:
    value = evaluate(term, batch)
    literals = [choice for choice in choices if isinstance(choice, LiteralTerm)]
    if len(literals) < len(choices) or isinstance(value, Constant):
        raise UnsupportedError("IN of other arguments than a column and literals", WHERE)
    non_null = [literal for literal in literals if literal.kind is not LiteralKind.NULL]
    matches = is_among(value, non_null, batch.rows) if non_null else Truth.same(False, batch.rows)
    if len(non_null) < len(literals):
        # For rows that equal no other choice, equality with NULL is unknown.
        return Truth(matches.true, np.zeros(batch.rows, np.bool_))
    return matches


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
    return choose(parts, chosen, batch.budget)


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
    return choose(parts, chosen, batch.budget)


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
            result = spread(result, indices, batch.rows)
    if isinstance(result, Constant):
        raise UnsupportedError("a literal without a type", WHERE)
    return result


def _only(term: Term, batch: Batch, places: npt.NDArray[np.int64]) -> Batch:
    return batch.only(distinct(list(column_names(term))), places)


def _may_raise(term: Term) -> bool:
    """Return whether the term computes anything beyond comparing columns and literals."""
    if not isinstance(term, FunctionTerm):
        return False
    if term.name.startswith("as ") and isinstance(next(iter(term.arguments), None), LiteralTerm):
        return False
    return term.name not in _NEVER_RAISE or any(map(_may_raise, term.arguments))
