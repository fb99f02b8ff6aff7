"""Filters that Spark pushes, applied to batches before they go to Spark.

Spark hands filters to a Python source if `spark.sql.python.filterPushdown.enabled` is set. Every
filter stays with Spark as well: here rows are only left out early, which saves their way through
Python and the JVM. So a filter that is not understood costs nothing but time, and one that is must
keep every row that Spark would keep.

Compared are values as Spark has them. Left to Spark are floats, where NaN equals itself and is the
largest of all, and instants, whose literals come without their time zone.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql.datasource import (
    EqualNullSafe,
    EqualTo,
    Filter,
    GreaterThan,
    GreaterThanOrEqual,
    In,
    IsNotNull,
    IsNull,
    LessThan,
    LessThanOrEqual,
    Not,
    StringContains,
    StringEndsWith,
    StringStartsWith,
)

_Expression: TypeAlias = Any
"""`pyarrow.compute.Expression`, which has no types."""
_INSTANT: Final = pa.timestamp("us", tz="UTC")
_COMPARISONS: Final[Mapping[type[Filter], Callable[[Any, Any], Any]]] = {
    EqualTo: lambda column, value: column == value,
    EqualNullSafe: lambda column, value: column == value,
    GreaterThan: lambda column, value: column > value,
    GreaterThanOrEqual: lambda column, value: column >= value,
    LessThan: lambda column, value: column < value,
    LessThanOrEqual: lambda column, value: column <= value,
}
_STRINGS: Final[Mapping[type[Filter], Callable[[Any, str], Any]]] = {
    StringStartsWith: pc.starts_with,
    StringEndsWith: pc.ends_with,
    StringContains: pc.match_substring,
}


def prefilter(filters: Sequence[Filter], schema: pa.Schema) -> _Expression | None:
    """What rows of `schema` must satisfy, as far as it is understood; None where nothing is."""
    expressions = [e for f in filters if (e := _expression(f, schema)) is not None]
    result = None
    for expression in expressions:
        result = expression if result is None else result & expression
    return result


def _column(one: Filter) -> str | None:
    target = one.child if isinstance(one, Not) else one
    path: tuple[str, ...] = getattr(target, "attribute", ())
    return path[0] if len(path) == 1 else None


def _expression(one: Filter, schema: pa.Schema) -> _Expression | None:
    name = _column(one)
    if name is None or name not in schema.names:
        return None
    tp = schema.field(name).type
    if isinstance(one, IsNull):
        return pc.field(name).is_null()
    if isinstance(one, IsNotNull):
        return pc.field(name).is_valid()
    if isinstance(one, Not):
        # Of NULL both are unknown, so a negation is as good as what it negates; but for `<=>`,
        # which always knows.
        is_known = isinstance(one.child, EqualNullSafe)
        inner = None if is_known else _compared(one.child, name, tp)
        return None if inner is None else ~inner
    return _compared(one, name, tp)


def _compared(one: Filter, name: str, tp: pa.DataType) -> _Expression | None:
    column = pc.field(name)
    if pa.types.is_floating(tp) or pa.types.is_nested(tp) or tp == _INSTANT:
        return None
    if (compare := _STRINGS.get(type(one))) is not None and pa.types.is_string(tp):
        return compare(column, _value(one))
    if isinstance(one, In):
        values = _scalars([v for v in _value(one) if v is not None], tp)
        return None if values is None else column.isin(values)
    if (compare := _COMPARISONS.get(type(one))) is not None and _value(one) is not None:
        value = _scalars([_value(one)], tp)
        return None if value is None else compare(column, value[0])
    return None


def _value(one: Filter) -> Any:  # noqa: ANN401 (a literal of any type)
    return getattr(one, "value", None)


def _scalars(values: Sequence[Any], tp: pa.DataType) -> "pa.Array | None":
    """Literals in the column's type; None where they do not fit it exactly."""
    try:
        return pa.array(values, tp)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return None
