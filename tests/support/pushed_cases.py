"""Rows of every type that is compared, and filters, aggregates and orders of them."""

import random
from collections.abc import Callable
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, Final

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from pyspark_theflash.service.wire.message import (
    Aggregate,
    Aggregation,
    Expression,
    Literal,
    SortKey,
)
from pyspark_theflash.tidb.codec.narrow import narrowed

UTC: Final = timezone.utc
TYPES: Final[dict[str, pa.DataType]] = {
    "tiny": pa.int8(),
    "big": pa.int64(),
    "huge": pa.uint64(),
    "price": pa.decimal128(10, 2),
    "wide": pa.decimal128(38, 6),
    "widest": pa.decimal256(60, 3),
    "single": pa.float32(),
    "double": pa.float64(),
    "day": pa.date32(),
    "moment": pa.timestamp("us", "UTC"),
    "local": pa.timestamp("us"),
    "span": pa.duration("us"),
    "name": pa.string(),
    "data": pa.binary(),
}
EXACT: Final = ("tiny", "big", "huge", "price", "wide", "widest")
DECIMALS: Final = ("price", "wide")
FLOATS: Final = ("single", "double")
GROUPED: Final = tuple(name for name in TYPES if name != "single")
_EDGES: Final[dict[str, list[Any]]] = {
    "tiny": [-128, -1, 0, 1, 127],
    "big": [-(2**63), 2**63 - 1, -1, 0, 1, 128],
    "huge": [0, 1, 2**63, 2**64 - 1],
    "price": [Decimal(n) for n in ("-99999999.99", "99999999.99", "0.00", "0.01", "1.00")],
    "wide": [Decimal(n) for n in ("0.000001", "-1.000000", "1.000000", "9" * 32, "-" + "9" * 32)],
    "widest": [Decimal(n) for n in ("0.001", "-1.000", "1.000", "9" * 57)],
    "single": [0.0, -0.0, 0.5, -1.0, float("inf"), float("-inf"), float("nan")],
    "double": [0.0, -0.0, 0.1, -1.0, 1e300, float("inf"), float("-inf"), float("nan")],
    "day": [date(1, 1, 1), date(1970, 1, 1), date(9999, 12, 31)],
    "moment": [datetime(1969, 12, 31, 23, 59, 59, 999999, UTC), datetime(2024, 2, 29, tzinfo=UTC)],
    "local": [datetime(1000, 1, 1), datetime(2024, 2, 29, 0, 0, 0, 1)],
    "span": [timedelta(0), timedelta(microseconds=-1), timedelta(hours=838)],
    "name": ["", "a", "A", "ab", "é", "🙂", "\uffff", "a\0b"],
    "data": [b"", b"\x00", b"\xff", b"a"],
}


def rows(size: int = 12, *, narrow: bool = False) -> st.SearchStrategy[dict[str, pa.Array]]:
    """Columns of some rows, by a seed; the texts as dictionaries or not.

    `narrow`: decimals may be narrow, like those that are only computed with.
    """
    are_narrow = st.booleans() if narrow else st.just(False)
    seeds, counts = st.integers(0, 1 << 30), st.integers(0, size)
    return st.builds(_arrays, seeds, counts, st.booleans(), are_narrow)


def _arrays(
    seed: int, count: int, with_dictionaries: bool, are_narrow: bool
) -> dict[str, pa.Array]:
    chance = random.Random(seed)
    made = {}
    for name, tp in TYPES.items():
        choices = [None, *_EDGES[name]]
        # A slice, so that buffers have an offset.
        values = [chance.choice(choices) for _ in range(count + 1)]
        made[name] = pa.array(values, tp, from_pandas=False).slice(1)
    if with_dictionaries:
        for name in ("name", "data"):
            made[name] = made[name].dictionary_encode()
    return {name: narrowed(values) for name, values in made.items()} if are_narrow else made


def column(name: str) -> Expression:
    """A column."""
    return Expression("column", column=name)


def literal(kind: str, text: str = "", data: bytes = b"") -> Expression:
    """A literal."""
    return Expression("literal", literal=Literal(kind, text, data))


def call(name: str, *arguments: Expression) -> Expression:
    """An operator."""
    return Expression(name, arguments=arguments)


NULL: Final = literal("null")


def literals(name: str) -> st.SearchStrategy[Expression]:
    """Literals that a column is compared with."""
    if name in EXACT:
        values = st.sampled_from([v for each in EXACT for v in _EDGES[each]])
        values |= st.sampled_from([300, -(2**63) - 1, 2**64, Decimal("0.005"), Decimal("-0.999")])
        return values.map(_number)
    if name in FLOATS:
        numbers = st.sampled_from(_EDGES["double"]).map(lambda v: literal("double", repr(v)))
        singles = st.sampled_from([0.1, -0.0, 1e-45, float("nan")])
        return (
            numbers
            | singles.map(lambda v: literal("float", repr(v)))
            | st.just(literal("int", "1"))
        )
    values = st.sampled_from(_EDGES[name])
    return values.map(_PLAIN[name])


def _number(value: Any) -> Expression:
    if isinstance(value, int):
        return literal("int", str(value))
    return literal("decimal", f"{value:f}")


def _microseconds(value: Any) -> str:
    span = (
        value if isinstance(value, timedelta) else value - datetime(1970, 1, 1, tzinfo=value.tzinfo)
    )
    return str(span // timedelta(microseconds=1))


_PLAIN: Final[dict[str, Callable[[Any], Expression]]] = {
    "day": lambda v: literal("date", str((v - date(1970, 1, 1)).days)),
    "moment": lambda v: literal("timestamp", _microseconds(v)),
    "local": lambda v: literal("timestamp_ntz", _microseconds(v)),
    "span": lambda v: literal("duration", _microseconds(v)),
    "name": lambda v: literal("string", v),
    "data": lambda v: literal("binary", data=v),
}
_COMPARISONS: Final = st.sampled_from(["=", "<>", "<", "<=", ">", ">=", "<=>"])


@st.composite
def comparisons(draw: st.DrawFn) -> Expression:
    """A condition without AND, OR, NOT."""
    name = draw(st.sampled_from(sorted(TYPES)))
    what = draw(st.sampled_from(["literal", "literal", "columns", "in", "null", "match", "sum"]))
    value = column(name.upper())
    if what == "null":
        return call(draw(st.sampled_from(["is null", "is not null"])), value)
    if what == "match" and name == "name":
        pattern = draw(st.just(NULL) | literals("name"))
        return call(draw(st.sampled_from(["starts with", "ends with", "contains"])), value, pattern)
    if what == "columns":
        family = next((f for f in (EXACT, FLOATS) if name in f), (name,))
        return call(draw(_COMPARISONS), value, column(draw(st.sampled_from(family))))
    if what == "in":
        choices = draw(st.lists(literals(name) | st.just(NULL), min_size=1, max_size=4))
        return call("in", value, *choices)
    if what == "sum" and name in EXACT:
        return call(draw(_COMPARISONS), computed(draw), draw(literals(name)))
    other = draw(literals(name) | st.just(NULL))
    pair = (value, other) if draw(st.booleans()) else (other, value)
    return call(draw(_COMPARISONS), *pair)


def computed(draw: st.DrawFn) -> Expression:
    """Arithmetic that fits."""
    one = call(draw(st.sampled_from("+-*")), column("price"), literal("decimal", "1.5"))
    if draw(st.booleans()):
        return call(draw(st.sampled_from("+-")), literal("int", "1"), column("price"))
    return call(draw(st.sampled_from("+-*")), one, column("price"))


CONDITIONS: Final = st.recursive(
    comparisons(),
    lambda inner: (
        st.builds(lambda a: call("not", a), inner)
        | st.builds(
            lambda name, parts: call(name, *parts),
            st.sampled_from(["and", "or"]),
            st.lists(inner, min_size=2, max_size=3),
        )
    ),
    max_leaves=5,
)


@st.composite
def aggregations(draw: st.DrawFn) -> Aggregation:
    """Aggregates whose sums fit."""
    groups = tuple(draw(st.lists(st.sampled_from(GROUPED), max_size=3, unique=True)))
    aggregates = []
    for _ in range(draw(st.integers(1, 3))):
        function = draw(st.sampled_from(["count", "sum", "min", "max"]))
        name = draw(st.sampled_from(sorted(TYPES)))
        if function == "count" and draw(st.booleans()):
            aggregates.append(Aggregate("count"))
        elif function == "sum":
            summed = draw(
                st.sampled_from(
                    ["tiny", "big", "huge", "price", "wide", "widest", "double", "single"]
                )
            )
            argument = computed(draw) if draw(st.booleans()) else column(summed)
            aggregates.append(Aggregate("sum", argument))
        else:
            aggregates.append(Aggregate(function, column(name)))
    return Aggregation(groups, tuple(aggregates))


ORDERS: Final = st.lists(
    st.builds(SortKey, st.sampled_from(sorted(TYPES)), st.booleans(), st.booleans()),
    min_size=1,
    max_size=3,
    unique_by=lambda key: key.column,
).map(tuple)


def python_rows(columns: dict[str, pa.Array]) -> list[dict[str, Any]]:
    """Return the rows as Python's values."""
    lists = {name: values.to_pylist() for name, values in columns.items()}
    lists["single"] = [None if v is None else float(np.float32(v)) for v in lists["single"]]
    return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]
