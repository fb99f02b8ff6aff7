"""Convert a plan request's filter, aggregation and order from the API's messages and back."""

import base64
import re
from collections.abc import Callable
from decimal import Decimal
from functools import lru_cache
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
"""All of it goes into each ticket."""
WHERE: Final = "filter"
_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,100}")
_DECIMAL: Final = re.compile(r"[+-]?(?=\.?[0-9])[0-9]{0,100}(\.[0-9]{0,100})?")
_TRUTHS: Final = {"true": True, "false": False}


def pushed_of(request: message.PlanRequest) -> Pushdown:
    """What a request has done.

    Raises:
        OptionError: a literal that is none of its type, or things that do not go together.
        UnsupportedError: what there is no such thing of, or too much.
    """
    check_extent(request)
    filter = None if request.filter is None else _term(request.filter)
    aggregation = None
    if request.aggregation is not None:
        aggregates = tuple(map(_aggregate, request.aggregation.aggregates))
        keys = tuple(map(_term, request.aggregation.keys))
        aggregation = Aggregation(request.aggregation.groups, aggregates, keys)
    order = tuple(SortKey(k.column, k.descending, k.nulls_first) for k in request.order)
    return Pushdown(filter, aggregation, request.limit, order)


@lru_cache(16)
def sealed_text(request: message.PlanRequest) -> str:
    """A request as a text for a ticket; remembered, for all splits of a plan have the same.

    Raises:
        UnsupportedError: it is too large.
    """
    body = encode(request)
    if len(body) > SEALED_BYTES_MAX:
        raise UnsupportedError(f"a filter of more than {SEALED_BYTES_MAX} bytes", "request")
    return base64.b64encode(body).decode()


def sealed_request(text: str) -> message.PlanRequest:
    """Inverse of `sealed_text`. Raises what taking a text apart raises (`tidb.codec.document`)."""
    return decode(message.PlanRequest, base64.b64decode(text, validate=True))


def _aggregate(told: message.Aggregate) -> Aggregate:
    if told.function not in {function.value for function in AggregateFunction}:
        raise UnsupportedError(f"the aggregate {told.function[:40]!r}", "aggregation")
    argument = None if told.argument is None else _term(told.argument)
    return Aggregate(AggregateFunction(told.function), argument)


def _term(told: message.Expression) -> Term:
    if told.name == "column":
        return ColumnTerm(told.column)
    if told.name != "literal":
        return FunctionTerm(told.name[:40], tuple(map(_term, told.arguments)))
    if told.literal is None:
        raise OptionError(WHERE, "a literal without a value")
    literal = told.literal
    if literal.type not in {kind.value for kind in LiteralKind}:
        raise UnsupportedError(f"a literal of type {literal.type[:40]!r}", WHERE)
    kind = LiteralKind(literal.type)
    try:
        return LiteralTerm(kind, _READ.get(kind, _integer)(literal))
    except (ValueError, LookupError):
        raise OptionError(WHERE, f"a literal that is no {kind.value}") from None


def _integer(literal: message.Literal) -> int:
    return int(_matching(_INTEGER, literal.text))


def _decimal(literal: message.Literal) -> Decimal:
    return Decimal(_matching(_DECIMAL, literal.text))


def _double(literal: message.Literal) -> float:
    return float(literal.text)


def _float(literal: message.Literal) -> float:
    """Of 32 bits: what `repr` says of one is that one, told in fewer digits."""
    with np.errstate(over="ignore"):
        return float(np.float32(literal.text))


def _matching(pattern: "re.Pattern[str]", text: str) -> str:
    if not pattern.fullmatch(text):
        raise ValueError("not such a number")
    return text


_READ: Final[dict[LiteralKind, Callable[[message.Literal], Any]]] = {
    LiteralKind.NULL: lambda literal: None,
    LiteralKind.BOOL: lambda literal: _TRUTHS[literal.text],
    LiteralKind.FLOAT: _float,
    LiteralKind.DOUBLE: _double,
    LiteralKind.DECIMAL: _decimal,
    LiteralKind.STRING: lambda literal: literal.text,
    LiteralKind.BINARY: lambda literal: literal.bytes,
}
