"""Convert a plan request's filter, aggregation and order from the API's messages and back."""

import base64
import re
from collections.abc import Callable
from decimal import Decimal
from functools import lru_cache, partial
from typing import Any, Final

import numpy as np

from pyspark_theflash.base.errors import OptionError, UnsupportedError
from pyspark_theflash.read.pushdown.pushdown import Pushdown
from pyspark_theflash.read.pushdown.term import (
    Aggregate,
    AggregateFunction,
    Aggregation,
    ColumnTerm,
    FunctionTerm,
    LiteralKind,
    LiteralTerm,
    SortKey,
    Term,
)
from pyspark_theflash.service.wire import message
from pyspark_theflash.service.wire.protobuf import check_extent, decode, encode

SEALED_BYTES_MAX: Final = 256 << 10
"""The size limit of pushed-down operations, which every ticket contains."""
WHERE: Final = "filter"
_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,100}")
_DECIMAL: Final = re.compile(r"[+-]?(?=\.?[0-9])[0-9]{0,100}(\.[0-9]{0,100})?")
_TRUTHS: Final = {"true": True, "false": False}


def pushed_of(request: message.PlanRequest) -> Pushdown:
    """Convert a request's pushed-down operations.

    Raises:
        OptionError: A literal is invalid, or operations contradict each other.
        UnsupportedError: An operation is unknown, or the expressions are too large.
    """
    check_extent(request)
    filter = None if request.filter is None else _term(request.filter)
    aggregation = None
    if request.aggregation is not None:
        aggregates = tuple(map(_aggregate, request.aggregation.aggregates))
        keys = tuple(map(_term, request.aggregation.keys))
        aggregation = Aggregation(request.aggregation.groups, aggregates, keys)
    order: dict[str, SortKey] = {}
    for key in request.order:
        # Later keys of the same column do not change the order.
        name = key.column.lower()
        order.setdefault(name, SortKey(key.column, key.descending, key.nulls_first))
    return Pushdown(filter, aggregation, request.limit, tuple(order.values()))


@lru_cache(2)
def sealed_text(request: message.PlanRequest) -> str:
    """Encode a request for a ticket. Cached, because all splits of a plan have the same one.

    Raises:
        UnsupportedError: It is too large.
    """
    body = encode(request)
    if len(body) > SEALED_BYTES_MAX:
        raise UnsupportedError(f"a filter of more than {SEALED_BYTES_MAX} bytes", "request")
    return base64.b64encode(body).decode()


@lru_cache(2)
def sealed_request(text: str) -> message.PlanRequest:
    """Inverse of `sealed_text`. Raises `CodecError` or one of `SHAPE_ERRORS`."""
    return decode(message.PlanRequest, base64.b64decode(text, validate=True))


def _aggregate(aggregate: message.Aggregate) -> Aggregate:
    if aggregate.function not in {function.value for function in AggregateFunction}:
        raise UnsupportedError(f"the aggregate {aggregate.function[:40]!r}", "aggregation")
    argument = None if aggregate.argument is None else _term(aggregate.argument)
    return Aggregate(AggregateFunction(aggregate.function), argument)


def _term(expression: message.Expression) -> Term:
    if expression.name == "column":
        return ColumnTerm(expression.column)
    if expression.name != "literal":
        return FunctionTerm(expression.name[:40], tuple(map(_term, expression.arguments)))
    if expression.literal is None:
        raise OptionError(WHERE, "a literal without a value")
    literal = expression.literal
    if literal.type not in {kind.value for kind in LiteralKind}:
        raise UnsupportedError(f"a literal of type {literal.type[:40]!r}", WHERE)
    kind = LiteralKind(literal.type)
    try:
        return LiteralTerm(kind, _READ.get(kind, _integer)(literal))
    except (ValueError, LookupError):
        raise OptionError(WHERE, f"a literal that is not of type {kind.value}") from None


def _integer(literal: message.Literal) -> int:
    return int(_matching(_INTEGER, literal.text))


def _signed(bits: int, literal: message.Literal) -> int:
    """Parse a signed integer of so many bits."""
    value = _integer(literal)
    if not -1 << bits - 1 <= value < 1 << bits - 1:
        raise ValueError("out of range")
    return value


def _float(literal: message.Literal) -> float:
    """Parse a number of 32 bits, whose text may have fewer digits than its value in 64."""
    with np.errstate(over="ignore"):
        return float(np.float32(literal.text))


def _matching(pattern: "re.Pattern[str]", text: str) -> str:
    if not pattern.fullmatch(text):
        raise ValueError("not a number")
    return text


_READ: Final[dict[LiteralKind, Callable[[message.Literal], Any]]] = {
    LiteralKind.NULL: lambda literal: None,
    LiteralKind.BOOL: lambda literal: _TRUTHS[literal.text],
    LiteralKind.FLOAT: _float,
    LiteralKind.DOUBLE: lambda literal: float(literal.text),
    LiteralKind.DECIMAL: lambda literal: Decimal(_matching(_DECIMAL, literal.text)),
    LiteralKind.STRING: lambda literal: literal.text,
    LiteralKind.BINARY: lambda literal: literal.bytes,
    LiteralKind.DATE: partial(_signed, 32),
    LiteralKind.TIMESTAMP: partial(_signed, 64),
    LiteralKind.TIMESTAMP_NTZ: partial(_signed, 64),
    LiteralKind.DURATION: partial(_signed, 64),
}
