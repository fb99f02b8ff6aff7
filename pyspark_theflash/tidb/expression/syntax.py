"""Syntax tree of an expression: literals, columns and calls.

Operators (`+`, `and`, `in`), CASE and CAST are calls as well, so one table of functions evaluates
all of them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, TypeAlias

from pyspark_theflash.tidb.codec.field_type import FieldType


@dataclass(frozen=True, slots=True)
class Literal:
    """A value. Bytes with `is_number` are `0x41` or `b'01'`, numbers in numeric contexts."""

    value: int | Decimal | float | str | bytes | None
    is_number: bool = False


@dataclass(frozen=True, slots=True)
class Column:
    """A column, by lower-case name."""

    name: str


@dataclass(frozen=True, slots=True)
class Call:
    """A function or operator, by lower-case name; `type` is the target of a CAST.

    CASE is `case(condition, result, ..., otherwise)`; `CASE a WHEN b` is converted to the condition
    `a = b`.
    """

    name: str
    arguments: tuple["Node", ...]
    type: FieldType | None = None


Node: TypeAlias = Literal | Column | Call
_FEW: Final = 3


def calls(node: Node) -> Iterator[Call]:
    """Yield all functions and operators."""
    pending = [node]
    while pending:
        current = pending.pop()
        if isinstance(current, Call):
            yield current
            pending.extend(current.arguments)


def list_size(node: Node) -> int:
    """Return the number of arguments in long lists, except for candidates of IN."""
    counts = (len(call.arguments) for call in calls(node) if call.name != "in")
    return sum(count for count in counts if count > _FEW)


def factor_count(node: Node) -> int:
    """Return the number of multiplications and divisions."""
    return sum(call.name in ("*", "/") for call in calls(node))


def column_names(node: Node) -> Iterator[str]:
    """Yield the names of the columns in order of appearance, with repetitions."""
    pending = [node]
    while pending:
        current = pending.pop()
        if isinstance(current, Column):
            yield current.name
        elif isinstance(current, Call):
            pending.extend(reversed(current.arguments))
