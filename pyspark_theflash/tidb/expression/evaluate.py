"""Evaluation of an expression for all rows of a batch.

One evaluator, with an allow-list of functions, serves partition functions, generated columns and
conditions. It raises for unsupported operations and never approximates. Time zone and session
variables are those of a replica: UTC and TiDB's default SQL mode.

IF, CASE, IFNULL and COALESCE evaluate each branch only for the rows that select it, so an
unselected branch cannot fail.

Rows are evaluated in slices of bounded memory (`tidb/expression/allowance.py`). Constants are
evaluated for one row. They are repeated for all rows only for functions that need it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pyspark_theflash.base.budget import DEFAULT_BUDGET, Budget
from pyspark_theflash.base.errors import UnrepresentableValueError, UnsupportedError, invariant
from pyspark_theflash.tidb.codec.arrow import arrow_type
from pyspark_theflash.tidb.codec.field_type import ColumnFlag, FieldType, MySQLType
from pyspark_theflash.tidb.codec.narrow import widened
from pyspark_theflash.tidb.codec.reader import Mask
from pyspark_theflash.tidb.expression.allowance import (
    SLICE_ROWS,
    arrow_limits,
    check_time,
    current_budget,
    decoded_bytes,
    in_slices,
    require,
    reserve,
)
from pyspark_theflash.tidb.expression.cast import cast
from pyspark_theflash.tidb.expression.choice import Rows, assemble, truth_rows
from pyspark_theflash.tidb.expression.comparison import equal
from pyspark_theflash.tidb.expression.convert import to_integer, to_truth
from pyspark_theflash.tidb.expression.failure import (
    LackingError,
    OutOfRangeError,
    reject_in_condition,
)
from pyspark_theflash.tidb.expression.functions import FUNCTIONS, MAX_ARGUMENTS
from pyspark_theflash.tidb.expression.load import load_column, load_literal
from pyspark_theflash.tidb.expression.parser import parse_text
from pyspark_theflash.tidb.expression.store import store_column
from pyspark_theflash.tidb.expression.syntax import (
    Call,
    Column,
    Literal,
    Node,
    calls,
    column_names,
    factor_count,
    list_size,
)
from pyspark_theflash.tidb.expression.vector import Kind, Vector

TypedArray: TypeAlias = tuple[pa.Array, FieldType]
"""Column in storage form (`tidb/codec/arrow.py`), or as stored in a file, and its type."""

_BRANCHING: Final = {
    "if": (3, 3),
    "ifnull": (2, 2),
    "nullif": (2, 2),
    "coalesce": (1, MAX_ARGUMENTS),
    "case": (3, MAX_ARGUMENTS),
}


_TAKE_CONSTANTS: Final = frozenset(
    {"=", "<>", "<", "<=", ">", ">=", "<=>", "in", "between", "like"}
    | {"concat", "concat_ws", "replace", "trim"}
)
"""Functions whose operands may be constants of one row."""
_VALUE_BYTES: Final = {kind: 72 if kind is Kind.DECIMAL else 9 for kind in Kind}
"""Memory of one value, besides the characters of a text; Python integers for DECIMAL."""
_ARGUMENT_BYTES: Final = 24
"""Memory of one more argument, mostly a column or constant."""
_CACHED_LENGTH: Final = 1 << 10
"""Longer texts, which mostly conditions have, take up to 30 times their size."""
_FACTOR_BYTES: Final = 32
"""Memory that a product or quotient adds to a DECIMAL."""
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Expression:
    """Parsed expression. `columns` are the distinct names it refers to, in lower case."""

    text: str
    tree: Node
    columns: tuple[str, ...]


def parse(text: str, where: str = "expression") -> Expression:
    """Parse an expression as TiDB stores it in TableInfo. Results of short texts are cached.

    Raises:
        UnsupportedError: The expression is not supported; the message starts with `where`.
    """
    with _named(where):
        return _parse(text) if len(text) <= _CACHED_LENGTH else _parse.__wrapped__(text)


@lru_cache(maxsize=1024)
def _parse(text: str) -> Expression:
    tree = parse_text(text)
    _check_known(tree)
    return Expression(text, tree, tuple(dict.fromkeys(column_names(tree))))


def _check_known(tree: Node) -> None:
    """Raise for calls of unknown functions or with a wrong number of arguments."""
    pending = [tree]
    while pending:
        node = pending.pop()
        if not isinstance(node, Call):
            continue
        pending.extend(node.arguments)
        if node.name == "cast":
            continue
        function = FUNCTIONS.get(node.name)
        fewest, most = (
            (function.fewest, function.most) if function else _BRANCHING.get(node.name, (1, 0))
        )
        if fewest > most:
            raise LackingError(f"function {node.name.upper()}")
        if not fewest <= len(node.arguments) <= most:
            raise LackingError(f"function {node.name.upper()} of {len(node.arguments)} arguments")


def evaluate(
    expression: Expression,
    columns: Mapping[str, TypedArray],
    result_type: FieldType,
    where: str,
    rows: int | None = None,
) -> pa.Array:
    """Evaluate an expression for each row, as a column of `result_type` in storage form.

    Args:
        columns: At least `expression.columns`, by lower-case name.
        result_type: The type that results are cast to.
        where: The table and column, for error messages.
        rows: The number of rows; required only without columns.

    Within a slice of `allowance.in_slices`, the budget is that of the slice.

    Raises:
        UnsupportedError: An operation is not supported, or the results exceed a limit of Arrow.
        SqlMemoryError: A result needs more memory than the budget.
        UnrepresentableValueError: A result is out of range, which is an error in TiDB as well.
    """
    if rows is None:
        invariant(bool(columns), "the number of rows needs columns or `rows`")
        rows = len(next(iter(columns.values()))[0])
    if rows == 0:
        return pa.nulls(0, arrow_type(result_type))

    def stored(scope: RowScope) -> pa.Array:
        result = store_column(_full(expression.tree, scope), result_type)
        reserve(result.nbytes)
        return result

    slices = []
    for values in _in_slices(expression, columns, rows, where, current_budget(), stored):
        reserve(values.nbytes)
        slices.append(values)
    if len(slices) == 1:
        return slices[0]
    with arrow_limits(where):
        return pa.concat_arrays(slices)


def evaluate_integers(
    expression: Expression,
    columns: Mapping[str, TypedArray],
    rows: int,
    where: str,
    budget: Budget = DEFAULT_BUDGET,
) -> tuple[npt.NDArray[np.int64] | npt.NDArray[np.uint64], Mask]:
    """Evaluate an expression as integers, for `rows` > 0 rows.

    Returns:
        int64[rows] or uint64[rows], by the expression's own type; and bool[rows], true for NULL.

    Raises:
        UnsupportedError: An operation is not supported.
        UnrepresentableValueError: A result is out of range.
        SqlMemoryError: A value needs more memory than the budget.
    """

    def integers(scope: RowScope) -> Vector:
        return to_integer(_full(expression.tree, scope))

    slices = list(_in_slices(expression, columns, rows, where, budget, integers))
    if len(slices) == 1:
        return slices[0].data, slices[0].null
    invariant(len({each.kind for each in slices}) == 1, "integers of rows have different types")
    data = np.concatenate([each.data for each in slices])
    return data, np.concatenate([each.null for each in slices])


def _in_slices(
    expression: Expression,
    columns: Mapping[str, TypedArray],
    rows: int,
    where: str,
    budget: Budget,
    evaluate: Callable[["RowScope"], _Result],
) -> Iterator[_Result]:
    """Yield the results for consecutive slices of the rows."""

    def of_slice(start: int, count: int) -> _Result:
        part = {name: (v.slice(start, count), tp) for name, (v, tp) in columns.items()}
        return evaluate(RowScope(part, count))

    value_bytes = _VALUE_BYTES[Kind.DECIMAL] + _FACTOR_BYTES * factor_count(expression.tree)
    count = 1 + sum(1 for _ in calls(expression.tree))
    size_bytes = count * value_bytes + list_size(expression.tree) * _ARGUMENT_BYTES
    slice_rows = max(min(SLICE_ROWS, budget.step_bytes // size_bytes), 1)
    with _named(where):
        yield from in_slices(rows, budget, where, of_slice, slice_rows)


@contextmanager
def _named(where: str) -> Iterator[None]:
    """Convert internal errors to public ones that name `where`."""
    try:
        yield
    except LackingError as error:
        raise UnsupportedError(str(error), where) from None
    except OutOfRangeError as error:
        raise UnrepresentableValueError(where, "a value out of range", str(error)) from None


class RowScope:
    """Columns of a set of rows, loaded on first use."""

    def __init__(self, columns: Mapping[str, TypedArray], rows: int) -> None:
        self.rows = rows
        self._columns = columns
        self._loaded: dict[str, Vector] = {}

    def column(self, name: str) -> Vector:
        """Return the values of a column."""
        if name not in self._loaded:
            if name not in self._columns:
                raise LackingError(f"column {name}, which the table does not have,")
            values, tp = self._columns[name]
            loaded = load_column(_plain(values, tp), tp)
            self._loaded[name] = replace(loaded, is_column=True)
        return self._loaded[name]

    def is_not_null(self, node: Node) -> bool:
        """Return whether a node is a column declared NOT NULL, and not ENUM or SET."""
        if not isinstance(node, Column) or node.name not in self._columns:
            return False
        tp = self._columns[node.name][1]
        is_named = tp.tp in (MySQLType.ENUM, MySQLType.SET)
        return bool(tp.flag & ColumnFlag.NOT_NULL) and not is_named

    def take(self, rows: Rows) -> "RowScope":
        """Return the scope of the selected rows."""
        chosen = pa.array(rows)
        return RowScope({n: (v.take(chosen), t) for n, (v, t) in self._columns.items()}, len(rows))

    def nulls(self) -> "RowScope":
        """Return a scope of one row in which all columns are NULL."""
        columns = {n: (pa.nulls(1, arrow_type(t)), t) for n, (_, t) in self._columns.items()}
        return RowScope(columns, 1)


def _plain(values: pa.Array, tp: FieldType) -> pa.Array:
    """Convert a column of a file, which may be a dictionary or narrow, to storage form."""
    if not pa.types.is_dictionary(values.type):
        return widened(values, arrow_type(tp))
    reserve(decoded_bytes(values))
    return values.dictionary_decode()


def _full(node: Node, scope: RowScope) -> Vector:
    """Evaluate a node to one value per row."""
    if scope.rows == 0:
        # A branch that no row selects still contributes to the result type.
        return _full(node, scope.nulls()).take(np.zeros(0, np.int64))
    vector = _evaluate(node, scope)
    return vector.spread(scope.rows) if vector.is_constant else vector


def _evaluate(node: Node, scope: RowScope) -> Vector:
    """Evaluate a node to one value per row, or to a single value if it is constant."""
    if isinstance(node, Literal):
        return load_literal(node)
    if isinstance(node, Column):
        return scope.column(node.name)
    if node.name in _BRANCHING:
        check_time()
        is_constant = _is_folded(node, scope)
        branched = _branch(node, scope.nulls() if is_constant else scope)
        _reserve(branched)
        if branched.kind is Kind.NULL:
            reject_in_condition("IF, CASE or similar with only NULL")
        return replace(branched, is_constant=is_constant, is_column=False, is_choice=True)
    check_time()
    operands = [_evaluate(argument, scope) for argument in node.arguments]
    is_constant = all(v.is_constant for v in operands)
    if not is_constant:
        operands = [_repeated(v, node, scope.rows) if v.is_constant else v for v in operands]
    applied = _apply(node, operands)
    _reserve(applied)
    is_choice = node.name in ("greatest", "least")
    return replace(applied, is_constant=is_constant, is_column=False, is_choice=is_choice)


def _repeated(constant: Vector, node: Call, rows: int) -> Vector:
    """Return the operand of a call for a constant: one row, or as many rows as others have."""
    if node.name in _TAKE_CONSTANTS:
        return constant
    if constant.kind is not Kind.TEXT:
        return constant.shared(rows)
    require(rows * constant.data.nbytes)
    repeated = constant.spread(rows)
    _reserve(repeated)
    return repeated


def _reserve(vector: Vector) -> None:
    reserve(_VALUE_BYTES[vector.kind] * len(vector))
    if vector.kind is Kind.TEXT:
        reserve(vector.data.nbytes)


def _is_folded(node: Call, scope: RowScope) -> bool:
    """Return whether TiDB folds a branching call: the conditions and the result are constant."""
    if _is_constant(node):
        return True
    first, *others = node.arguments
    if node.name == "ifnull" and _is_constant(first):
        return not _evaluate(first, scope).null[0] or _is_constant(others[0])
    if node.name not in ("if", "case"):
        return False
    *pairs, otherwise = node.arguments
    for condition, result in zip(pairs[::2], pairs[1::2], strict=True):
        if not _is_constant(condition):
            return False
        truth = to_truth(_evaluate(condition, scope))
        if truth.data[0] and not truth.null[0]:
            return _is_constant(result)
    return _is_constant(otherwise)


def _is_constant(node: Node) -> bool:
    return not any(True for _ in column_names(node))


def _apply(node: Call, operands: Sequence[Vector]) -> Vector:
    if node.type is not None:
        return cast(operands[0], node.type)
    return replace(FUNCTIONS[node.name].apply(operands), is_year=False)


def _branch(node: Call, scope: RowScope) -> Vector:
    if node.name == "ifnull" and scope.is_not_null(node.arguments[0]):
        # As in TiDB, the other argument does not contribute to the type.
        return _full(node.arguments[0], scope)
    if node.name == "coalesce" or node.name == "ifnull":
        return _coalesce(node.arguments, scope)
    if node.name == "nullif":
        value, other = (_full(argument, scope) for argument in node.arguments)
        years = value.is_year is not False or other.is_year is not False
        if years and (value.is_constant or other.is_constant):
            reject_in_condition("NULLIF of a YEAR and a constant")
        equality = equal([value, other])
        chosen = value.with_null((equality.data != 0) & ~equality.null)
        if value.is_named:
            return replace(chosen, number=None, is_mixed=True)
        # `0x41` converts to a number only as a literal, not as a result.
        is_cut = value.is_hexadecimal and not other.is_constant
        return replace(chosen, number=None) if is_cut else chosen
    pieces: list[tuple[Rows, Vector]] = []
    remaining, within = np.arange(scope.rows), scope
    *pairs, otherwise = node.arguments
    for condition, result in zip(pairs[::2], pairs[1::2], strict=True):
        holds, fails = truth_rows(to_truth(_full(condition, within)))
        pieces.append((remaining[holds], _full(result, within.take(holds))))
        remaining, within = remaining[fails], within.take(fails)
    pieces.append((remaining, _full(otherwise, within)))
    return assemble(pieces, scope.rows)


def _coalesce(arguments: Sequence[Node], scope: RowScope) -> Vector:
    pieces: list[tuple[Rows, Vector]] = []
    remaining, within = np.arange(scope.rows), scope
    for argument in arguments:
        value = _full(argument, within)
        present, missing = np.flatnonzero(~value.null), np.flatnonzero(value.null)
        pieces.append((remaining[present], value.take(present)))
        remaining, within = remaining[missing], within.take(missing)
    return replace(assemble(pieces, scope.rows), single=False)
