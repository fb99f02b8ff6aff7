"""What a partial aggregate asks for, and the SQL that answers it exactly.

A partial is what one region adds to an aggregate. Partials of all regions are put together by
`MERGED_BY`: counts and sums are summed, minima and maxima compared. An average is a sum and a
count.

    function     of                                   its type
    count        anything, or rows                    int64
    sum          integers                             decimal128(38, 0)
                 DECIMAL(p, s), expressions of them   decimal128(38, s)
                 FLOAT, DOUBLE                        float64, in an order of its own
    min, max     all but VECTOR                       the same

NULLs are left out, as in SQL; without groups there is one row even where there are no rows.
Expressions are `+`, `-` and `*` over decimals, in the types in which Spark computes them; one whose
type would cut digits off is refused. Sums that do not fit 38 digits raise. Texts compare by their
bytes, as in Spark, so groups and filters on them are Spark's.
"""

import datetime
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum
from typing import Final

import pyarrow as pa

from pyspark_theflash.codec.arrow import DECIMAL128_DIGITS
from pyspark_theflash.errors import ColumnNotFoundError, UnsupportedError
from pyspark_theflash.expression.evaluate import parse
from pyspark_theflash.expression.syntax import Call, Column, Literal, Node, column_names
from pyspark_theflash.query.connection import quoted

WHERE: Final = "aggregate"
_SPARK_MIN_SCALE: Final = 6
_ARITHMETIC: Final = ("+", "-", "*")
_COMPARED: Final = ("=", "<>", "<", "<=", ">", ">=")
_JOINED: Final = ("and", "or")
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\d( \d\d:\d\d:\d\d(\.\d{1,6})?)?")


class Function(str, Enum):
    """See the module."""

    COUNT = "count"
    SUM = "sum"
    MIN = "min"
    MAX = "max"


MERGED_BY: Final = {
    Function.COUNT: Function.SUM,
    Function.SUM: Function.SUM,
    Function.MIN: Function.MIN,
    Function.MAX: Function.MAX,
}


@dataclass(frozen=True, slots=True)
class Aggregate:
    """A function of an argument; COUNT of None counts rows."""

    function: Function
    argument: Node | None = None

    @classmethod
    def of(cls, function: str, argument: str | None = None) -> "Aggregate":
        """With the argument as text, a column or an expression.

        Raises:
            UnsupportedError: it is neither.
        """
        return cls(Function(function), None if argument is None else parse(argument, WHERE).tree)


@dataclass(frozen=True, slots=True)
class AggregateRequest:
    """Aggregates over the rows for which `filter` is true, by `groups`. Survives pickle."""

    groups: tuple[str, ...] = ()
    aggregates: tuple[Aggregate, ...] = ()
    filter: Node | None = None

    @property
    def columns(self) -> Sequence[str]:
        """The columns it reads, each once; those of expressions in lower case."""
        nodes = [a.argument for a in self.aggregates] + [self.filter]
        named = [name for node in nodes if node is not None for name in column_names(node)]
        return list({name.lower(): name for name in [*named, *self.groups]}.values())

    @property
    def is_row_count(self) -> bool:
        """Whether all that is asked is how many rows there are."""
        only = all(a == Aggregate(Function.COUNT) for a in self.aggregates)
        return only and not self.groups and self.filter is None

    @property
    def names(self) -> Sequence[str]:
        """The columns of a partial: the groups, then `a0`, `a1` ..."""
        return [*self.groups, *(f"a{at}" for at in range(len(self.aggregates)))]


@dataclass(slots=True)
class AggregateQuery:
    """The SQL of a request over rows of `schema`; values are parameters."""

    request: AggregateRequest
    schema: pa.Schema
    parameters: list[object] = field(default_factory=list)
    types: list[pa.DataType] = field(default_factory=list)
    """Of the columns of a partial."""
    wide: bool = False

    def over(self, source: str, *, wide: bool = False) -> str:
        """The statement; `source` is a SELECT.

        DuckDB computes with decimals of up to 18 digits in 64 bits, which is quick, and raises
        where a result does not fit. With `wide` it computes in 128 bits.

        Raises:
            ColumnNotFoundError: there is no such column.
            UnsupportedError: it would not be exact.
        """
        self.parameters, self.types, self.wide = [], [], wide
        groups = [self._group(name) for name in self.request.groups]
        results = [*groups, *(self._aggregate(a) for a in self.request.aggregates)]
        shown = [f"{s} AS {quoted(n)}" for s, n in zip(results, self.request.names, strict=True)]
        text = f"SELECT {', '.join(shown)} FROM ({source})"  # noqa: S608 (names are quoted)
        if self.request.filter is not None:
            text += f" WHERE {self._condition(self.request.filter)}"
        return text + (f" GROUP BY {', '.join(groups)}" if groups else "")

    def merging(self, source: str) -> str:
        """The statement that puts partials together; `source` is the table that has them."""
        groups = [quoted(name) for name in self.request.groups]
        names = self.request.names[len(groups) :]
        merged = [
            f"{_merged(aggregate.function, name)} AS {name}"
            for name, aggregate in zip(names, self.request.aggregates, strict=True)
        ]
        text = f"SELECT {', '.join([*groups, *merged])} FROM {quoted(source)}"  # noqa: S608
        return text + (f" GROUP BY {', '.join(groups)}" if groups else "")

    # -- the parts of the statement

    def _field(self, name: str) -> pa.Field:
        found = [f for f in self.schema if f.name.lower() == name.lower()]
        if not found:
            raise ColumnNotFoundError(WHERE, name, tuple(self.schema.names))
        return found[0]

    def _group(self, name: str) -> str:
        found = self._field(name)
        tp = _value_type(found.type)
        if pa.types.is_floating(tp) or pa.types.is_nested(tp):
            # Zero has two signs, which are one group; of which it is shown cannot be told.
            raise UnsupportedError(f"grouping by {tp}", f"column {found.name}")
        self.types.append(tp)
        return quoted(found.name)

    def _aggregate(self, aggregate: Aggregate) -> str:
        function, argument = aggregate.function, aggregate.argument
        if argument is None:
            if function is not Function.COUNT:
                raise UnsupportedError(f"{function.value} of nothing", WHERE)
            self.types.append(pa.int64())
            return "count(*)"
        text, tp = self._value(argument)
        if function is Function.COUNT:
            self.types.append(pa.int64())
        elif function is Function.SUM:
            self.types.append(_sum_type(tp))
        elif pa.types.is_nested(tp):
            raise UnsupportedError(f"{function.value} of {tp}", WHERE)
        else:
            self.types.append(tp)
        return f"{function.value}({text})"

    def _value(self, node: Node) -> tuple[str, pa.DataType]:
        """A column, a number or arithmetic."""
        node = _folded(node)
        if isinstance(node, Column):
            found = self._field(node.name)
            return quoted(found.name), _value_type(found.type)
        if isinstance(node, Literal):
            number = _number(node)
            self.parameters.append(number)
            return "?", _literal_type(number)
        if node.name not in _ARITHMETIC or len(node.arguments) != 2:
            raise UnsupportedError(f"{node.name}()", WHERE)
        (left, left_type), (right, right_type) = map(self._value, node.arguments)
        for tp in (left_type, right_type):
            if not pa.types.is_decimal(tp):
                raise UnsupportedError(f"{node.name} of {tp}", WHERE)
        if self.wide:
            left = f"CAST({left} AS DECIMAL({DECIMAL128_DIGITS}, {left_type.scale}))"
        return f"({left} {node.name} {right})", _spark_type(node.name, left_type, right_type)

    def _condition(self, node: Node) -> str:
        """Comparisons of columns with values, joined by AND, OR, NOT."""
        if not isinstance(node, Call):
            raise UnsupportedError("a condition that compares nothing", WHERE)
        name, arguments = node.name, node.arguments
        if name in _JOINED:
            return f"({f' {name.upper()} '.join(map(self._condition, arguments))})"
        if name == "not":
            return f"(NOT {self._condition(arguments[0])})"
        found = self._compared_column(node)
        text, rest = quoted(found.name), arguments[1:]
        if name == "is null":
            return f"({text} IS NULL)"
        values = [self._compared_value(value, found) for value in rest]
        if name == "in":
            return f"({text} IN ({', '.join(values)}))"
        if name == "between":
            return f"({text} BETWEEN {values[0]} AND {values[1]})"
        if name in _COMPARED:
            return f"({text} {name} {values[0]})"
        raise UnsupportedError(name, WHERE)

    def _compared_column(self, node: Call) -> pa.Field:
        column = node.arguments[0]
        if not isinstance(column, Column):
            raise UnsupportedError("a condition that does not begin with a column", WHERE)
        return self._field(column.name)

    def _compared_value(self, node: Node, column: pa.Field) -> str:
        node = _folded(node)
        if not isinstance(node, Literal):
            raise UnsupportedError("a comparison with anything but values", WHERE)
        self.parameters.append(_comparable(node, _value_type(column.type), column.name))
        return "?"


def _value_type(tp: pa.DataType) -> pa.DataType:
    return tp.value_type if pa.types.is_dictionary(tp) else tp


def _folded(node: Node) -> Node:
    """A negative number is one, too."""
    if isinstance(node, Call) and node.name == "negate":
        inner = _folded(node.arguments[0])
        if isinstance(inner, Literal) and isinstance(inner.value, int | Decimal):
            return Literal(-inner.value)
    return node


def _number(literal: Literal) -> Decimal:
    """A literal among decimals; an integer as Spark widens it, to the digits that it has."""
    if isinstance(literal.value, int | Decimal):
        return Decimal(literal.value)
    raise UnsupportedError("arithmetic with anything but exact numbers", WHERE)


def _literal_type(number: Decimal) -> pa.DataType:
    _, digits, exponent = number.as_tuple()
    scale = max(-int(exponent), 0)
    precision = max(len(digits) + max(int(exponent), 0), scale, 1)
    if precision > DECIMAL128_DIGITS:
        raise UnsupportedError("a number of more than 38 digits", WHERE)
    return pa.decimal128(precision, scale)


def _spark_type(operator: str, left: pa.DataType, right: pa.DataType) -> pa.DataType:
    """What Spark computes it in: `DecimalType.adjustPrecisionScale`, where it cuts off nothing."""
    if operator == "*":
        precision, scale = left.precision + right.precision + 1, left.scale + right.scale
    else:
        scale = max(left.scale, right.scale)
        whole = max(left.precision - left.scale, right.precision - right.scale)
        precision = whole + scale + 1
    if precision <= DECIMAL128_DIGITS:
        return pa.decimal128(precision, scale)
    kept = max(DECIMAL128_DIGITS - (precision - scale), min(scale, _SPARK_MIN_SCALE))
    if kept < scale:
        raise UnsupportedError(f"{operator} with {scale} digits after the point", WHERE)
    return pa.decimal128(DECIMAL128_DIGITS, scale)


def _sum_type(tp: pa.DataType) -> pa.DataType:
    if pa.types.is_decimal(tp):
        return pa.decimal128(DECIMAL128_DIGITS, tp.scale)
    if pa.types.is_integer(tp):
        return pa.decimal128(DECIMAL128_DIGITS, 0)
    if pa.types.is_floating(tp):
        return pa.float64()
    raise UnsupportedError(f"a sum of {tp}", WHERE)


def _comparable(literal: Literal, tp: pa.DataType, name: str) -> object:
    """The value as Python has it, of a kind that compares exactly with the column."""
    value = literal.value
    is_number = isinstance(value, int | Decimal)
    if is_number and (pa.types.is_integer(tp) or pa.types.is_decimal(tp)):
        return value
    if isinstance(value, str):
        if pa.types.is_string(tp):
            return value
        if (pa.types.is_date(tp) or pa.types.is_timestamp(tp)) and _TIME.fullmatch(value):
            return _moment(value, tp, name)
    raise UnsupportedError(f"comparing {tp} with such a value", f"column {name}")


def _moment(text: str, tp: pa.DataType, name: str) -> object:
    try:
        moment = datetime.datetime.fromisoformat(text.ljust(26, "0") if "." in text else text)
    except ValueError:
        raise UnsupportedError(
            "comparing with a date that does not exist", f"column {name}"
        ) from None
    if pa.types.is_date(tp):
        if moment.time() != datetime.time():
            raise UnsupportedError("comparing a date with a time of day", f"column {name}")
        return moment.date()
    return moment.replace(tzinfo=datetime.timezone.utc) if tp.tz else moment


def _merged(function: Function, name: str) -> str:
    text = f"{MERGED_BY[function].value}({name})"
    # Of no partials at all there are no rows, too. A sum of counts is a HUGEINT.
    return f"CAST(coalesce({text}, 0) AS BIGINT)" if function is Function.COUNT else text
