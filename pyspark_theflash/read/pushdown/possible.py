"""Decide by bounds of columns which parts of a table may have rows for which a condition is true.

A comparison of a column with a constant is evaluated, by the rules of the condition, for the
smallest value of each part, or for the largest: no value is below 5 if the smallest is not. So
constants need no conversion, but the comparison must follow the order of the bounds: `ordered`
leaves out the other columns. Any other condition may be true.

The trees are those of Spark's filters (`term`) and of TiDB's conditions (`tidb.expression.syntax`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import reduce
from typing import Any, Final, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pyspark_theflash.base.errors import (
    SqlMemoryError,
    SqlOverflowError,
    UnrepresentableValueError,
    UnsupportedError,
)
from pyspark_theflash.read.pushdown.term import ColumnTerm, FunctionTerm, LiteralTerm, Term
from pyspark_theflash.read.pushdown.value import Mask
from pyspark_theflash.storage.engine.api import Bounds
from pyspark_theflash.tidb.codec.field_type import DATETIME_TYPES, MySQLType
from pyspark_theflash.tidb.codec.time import impossible
from pyspark_theflash.tidb.expression.syntax import Call, Column, Literal, Node, column_names
from pyspark_theflash.tidb.schema.model import ColumnInfo

Tree: TypeAlias = Term | Node
FEW: Final = 64
"""Lists of IN with more values are compared by their smallest and largest value only."""
_MIRRORED: Final = {"=": "=", "<=>": "<=>", "<": ">", "<=": ">=", ">": "<", ">=": "<="}
_LOW: Final = frozenset({"<", "<="})
_HIGH: Final = frozenset({">", ">="})
_UNORDERED: Final = frozenset({MySQLType.ENUM, MySQLType.SET, MySQLType.BIT, MySQLType.JSON})


@dataclass(frozen=True, slots=True)
class ColumnBounds:
    """Bounds of a column for each part, as in `Bounds`."""

    low: pa.Array
    high: pa.Array
    has_null: Mask


IsFalse: TypeAlias = Callable[[Any, str, pa.Array], Mask]
"""Evaluate a comparison for values of the column of this name: false, neither true nor NULL."""


def ordered(bounds: Bounds, columns: Sequence[ColumnInfo]) -> dict[str, ColumnBounds]:
    """Return the bounds by lower-case name, of columns with values in the order of the bounds.

    Dates that do not exist are stored above all others, and compare as smaller.
    """
    by_name = {}
    for column in columns:
        if column.id not in bounds.low or column.type.tp in _UNORDERED:
            continue
        low, high = bounds.low[column.id], bounds.high[column.id]
        if column.type.tp in DATETIME_TYPES:
            unordered = impossible(high)
            low, high = (pc.if_else(unordered, None, each) for each in (low, high))
        by_name[column.name.lower()] = ColumnBounds(low, high, bounds.has_null[column.id])
    return by_name


class PossibleParts:
    """Parts with these bounds by column, and the rules of a condition."""

    def __init__(self, parts: int, columns: Mapping[str, ColumnBounds], is_false: IsFalse) -> None:
        self._parts, self._columns, self._is_false = parts, columns, is_false

    def of(self, tree: Tree) -> Mask:
        """Return a mask of the parts that may have rows for which `tree` is true."""
        if not isinstance(tree, FunctionTerm | Call):
            return self._all
        name, arguments = tree.name, tree.arguments
        if name in ("and", "or"):
            both = np.logical_and if name == "and" else np.logical_or
            return reduce(both, map(self.of, arguments))
        if len(arguments) > 1 and name in _MIRRORED and _name(arguments[1]) is not None:
            name, arguments = _MIRRORED[name], arguments[::-1]
        own = self._columns.get(_name(arguments[0]) or "") if arguments else None
        if own is None or not all(map(_is_constant, arguments[1:])):
            return self._all
        if name == "is null":
            return own.has_null
        if name == "in":
            return self._among(tree, arguments, own)
        if name == "between":
            if not _are_alike(arguments[1:]):
                return self._all
            column, low, high = arguments
            return self._compared(tree, ">=", (column, low), own) & self._compared(
                tree, "<=", (column, high), own
            )
        return self._compared(tree, name, arguments, own) if name in _MIRRORED else self._all

    @property
    def _all(self) -> Mask:
        return np.ones(self._parts, np.bool_)

    def _among(self, tree: Any, arguments: Sequence[Any], own: ColumnBounds) -> Mask:  # noqa: ANN401 (a tree of either kind)
        column, *choices = arguments
        choices = [c for c in choices if not _is_literal(c) or c.value is not None]
        if not choices or not _are_alike(choices):
            return self._all
        if len(choices) > FEW:
            choices.sort(key=lambda each: each.value)
            ends = ((">=", choices[0]), ("<=", choices[-1]))
            first, last = (self._compared(tree, n, (column, c), own) for n, c in ends)
            return first & last
        masks = (self._compared(tree, "=", (column, choice), own) for choice in choices)
        return reduce(np.logical_or, masks)

    def _compared(
        self,
        tree: Any,  # noqa: ANN401 (a tree of either kind)
        name: str,
        arguments: Sequence[Any],
        own: ColumnBounds,
    ) -> Mask:
        """Return the parts in which the comparison may be true for a value."""
        if name not in _LOW | _HIGH:
            return self._compared(tree, "<=", arguments, own) & self._compared(
                tree, ">=", arguments, own
            )
        comparison = replace(tree, name=name, arguments=tuple(arguments))
        column = _name(arguments[0]) or ""
        try:
            is_false = self._is_false(comparison, column, own.low if name in _LOW else own.high)
        except (UnsupportedError, UnrepresentableValueError, SqlOverflowError, SqlMemoryError):
            # The values may be in rows that the scan does not evaluate.
            return self._all
        return ~is_false


def sought_values(tree: Tree) -> dict[str, Sequence[Any]]:
    """Return literals of which a column must equal one, by lower-case name."""
    if not isinstance(tree, FunctionTerm | Call):
        return {}
    name, arguments = tree.name, tree.arguments
    if name == "and":
        return {key: each for part in arguments for key, each in sought_values(part).items()}
    if name not in ("=", "<=>", "in") or not 2 <= len(arguments) <= FEW:
        return {}
    if _name(arguments[0]) is None:
        arguments = arguments[::-1]
    column, *values = arguments
    is_sought = _name(column) is not None and all(map(_is_literal, values))
    return {str(_name(column)): values} if is_sought else {}


def _name(tree: Tree) -> str | None:
    return tree.name.lower() if isinstance(tree, ColumnTerm | Column) else None


def _is_literal(tree: Tree) -> bool:
    return isinstance(tree, LiteralTerm | Literal)


def _is_constant(tree: Tree) -> bool:
    if isinstance(tree, ColumnTerm | FunctionTerm):
        return False
    return isinstance(tree, LiteralTerm) or not any(True for _ in column_names(tree))


def _are_alike(constants: Sequence[Any]) -> bool:
    """Return whether all are literals of one kind, which each compare as all together do."""
    kinds = {(type(getattr(c, "value", None)), getattr(c, "kind", None)) for c in constants}
    return len(kinds) == 1 and all(value in (int, str, bytes, Decimal) for value, _ in kinds)
