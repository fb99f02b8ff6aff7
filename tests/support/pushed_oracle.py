"""Filters, aggregates and orders, evaluated row by row on Python's values.

Independent of `pyspark_theflash.read.sql`: it uses the API's messages and rows as dictionaries.
"""

import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Any

from pyspark_theflash.service.wire.message import Aggregation, Expression, Literal, SortKey

Row = Mapping[str, Any]
EPOCH = datetime(1970, 1, 1)


def keeps(expression: Expression, row: Row) -> bool:
    """Return whether a condition is true for a row, and not unknown."""
    return truth(expression, row) is True


def truth(expression: Expression, row: Row) -> bool | None:
    """Return true, false, or None for unknown."""
    name, arguments = expression.name, expression.arguments
    if name == "and":
        truths = [truth(each, row) for each in arguments]
        return False if False in truths else None if None in truths else True
    if name == "or":
        truths = [truth(each, row) for each in arguments]
        return True if True in truths else None if None in truths else False
    if name == "not":
        inner = truth(arguments[0], row)
        return None if inner is None else not inner
    values = [value(each, row) for each in arguments]
    if name == "is null":
        return values[0] is None
    if name == "is not null":
        return values[0] is not None
    if name == "<=>":
        if None in values:
            return values[0] is values[1]
        return truth_of("=", *values)
    if name == "in":
        truths = [truth_of("=", values[0], each) for each in values[1:]]
        return True if True in truths else None if None in truths else False
    return truth_of(name, *values)


def truth_of(name: str, left: Any, right: Any) -> bool | None:
    """Evaluate a comparison of two values."""
    if left is None or right is None:
        return None
    if name in ("starts with", "ends with", "contains"):
        matches = {
            "starts with": left.startswith(right),
            "ends with": left.endswith(right),
            "contains": right in left,
        }
        return bool(matches[name])
    if isinstance(left, float) or isinstance(right, float):
        left, right = float(left), float(right)
    a, b = _key(left), _key(right)
    comparisons = {"=": a == b, "<>": a != b, "<": a < b, "<=": a <= b, ">": a > b, ">=": a >= b}
    return bool(comparisons[name])


def value(expression: Expression, row: Row) -> Any:
    """Evaluate a column, a literal, or arithmetic."""
    if expression.name == "column":
        (cell,) = [v for name, v in row.items() if name.lower() == expression.column.lower()]
        return cell
    if expression.name == "literal":
        assert expression.literal is not None
        return literal_value(expression.literal)
    left, right = (value(each, row) for each in expression.arguments)
    if left is None or right is None:
        return None
    a, b = Fraction(left), Fraction(right)
    return {"+": a + b, "-": a - b, "*": a * b}[expression.name]


def literal_value(literal: Literal) -> Any:
    """Convert a literal to Python's value."""
    kind, text = literal.type, literal.text
    if kind == "null":
        return None
    if kind == "binary":
        return literal.bytes
    if kind == "string":
        return text
    if kind == "float":
        return struct.unpack("f", struct.pack("f", float(text)))[0]
    if kind == "double":
        return float(text)
    if kind == "date":
        return date(1970, 1, 1) + timedelta(int(text))
    if kind == "timestamp":
        return (EPOCH + timedelta(microseconds=int(text))).replace(tzinfo=timezone.utc)
    if kind == "timestamp_ntz":
        return EPOCH + timedelta(microseconds=int(text))
    if kind == "duration":
        return timedelta(microseconds=int(text))
    return Decimal(text) if kind == "decimal" else int(text)


def _key(given: Any) -> Any:
    """Return a value that compares as in Spark."""
    if isinstance(given, str):
        return given.encode()
    if isinstance(given, float):
        return (1, 0) if math.isnan(given) else (0, given)
    if isinstance(given, int | Decimal):
        return Fraction(given)
    return given


def aggregated(aggregation: Aggregation, rows: Iterable[Row]) -> dict[tuple[Any, ...], list[Any]]:
    """Return the aggregates by group (see `group_key`), exact sums as fractions."""
    groups: dict[tuple[Any, ...], list[Row]] = {} if aggregation.groups else {(): []}
    for row in rows:
        groups.setdefault(tuple(group_key(row[g]) for g in aggregation.groups), []).append(row)
    return {
        key: [_aggregate(a.function, a.argument, members) for a in aggregation.aggregates]
        for key, members in groups.items()
    }


def group_key(given: Any) -> Any:
    """Return the key of a group: zero has no sign, and NaN is one value."""
    if isinstance(given, float):
        return "NaN" if math.isnan(given) else given + 0.0
    return given


def _aggregate(function: str, argument: Expression | None, rows: Sequence[Row]) -> Any:
    if argument is None:
        return len(rows)
    values = [v for v in (value(argument, row) for row in rows) if v is not None]
    if function == "count":
        return len(values)
    if not values:
        return None
    if function == "sum":
        # There is no exact sum of infinities.
        return sum(values) if isinstance(values[0], float) else sum(map(Fraction, values))
    return (min if function == "min" else max)(values, key=_key)


def merged(
    aggregation: Aggregation, partials: Iterable[Mapping[str, Any]]
) -> dict[tuple[Any, ...], list[Any]]:
    """Merge partial aggregates, as a receiver does."""
    groups: dict[tuple[Any, ...], list[Any]] = {}
    for partial in partials:
        key = tuple(group_key(partial[g]) for g in aggregation.groups)
        values = [_exactly(partial[f"a{at}"]) for at in range(len(aggregation.aggregates))]
        if key not in groups:
            groups[key] = values
            continue
        for at, aggregate in enumerate(aggregation.aggregates):
            groups[key][at] = _both(aggregate.function, groups[key][at], values[at])
    return groups


def _both(function: str, left: Any, right: Any) -> Any:
    if left is None or right is None:
        return left if right is None else right
    if function in ("count", "sum"):
        return left + right
    return (min if function == "min" else max)(left, right, key=_key)


def _exactly(given: Any) -> Any:
    return Fraction(given) if isinstance(given, Decimal) else given


def same(left: Any, right: Any) -> bool:
    """Return whether two aggregates are equal; sums of floats approximately."""
    if isinstance(left, float) and isinstance(right, float):
        if math.isnan(left) or math.isnan(right) or math.isinf(left) or math.isinf(right):
            return bool(_key(left) == _key(right))
        return math.isclose(left, right, rel_tol=1e-9, abs_tol=1e-9)
    if isinstance(left, Decimal | Fraction | int) and isinstance(right, Decimal | Fraction | int):
        with localcontext() as context:
            context.prec = 200
            return Fraction(left) == Fraction(right)
    return bool(left == right)


def sort_key(order: Sequence[SortKey], row: Row) -> list[Any]:
    """Return the sort key of a row for an order."""
    return [_Place(row[key.column], key) for key in order]


class _Place:
    """A value's place in an order."""

    def __init__(self, given: Any, key: SortKey) -> None:
        self.rank = (given is None) != key.nulls_first
        self.value = None if given is None else _key(given)
        self.descending = key.descending

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Place) and (self.rank, self.value) == (other.rank, other.value)

    def __lt__(self, other: "_Place") -> bool:
        if self.rank != other.rank:
            return self.rank < other.rank
        if self.value is None or other.value is None:
            return False
        return bool(self.value > other.value if self.descending else self.value < other.value)
