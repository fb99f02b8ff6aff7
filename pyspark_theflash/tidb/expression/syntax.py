"""What an expression says: a tree of literals, columns and calls.

Operators are calls too (`+`, `and`, `in`), as are CASE and CAST, so that one table of functions
evaluates all of them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import TypeAlias

from pyspark_theflash.tidb.codec.field_type import FieldType


@dataclass(frozen=True, slots=True)
class Literal:
    """A value. Bytes with `is_number` are `0x41` or `b'01'`: a number among numbers."""

    value: int | Decimal | float | str | bytes | None
    is_number: bool = False


@dataclass(frozen=True, slots=True)
class Column:
    """A column by its name in lower case."""

    name: str


@dataclass(frozen=True, slots=True)
class Call:
    """A function or operator by its name in lower case; `type` is what CAST converts to.

    CASE is `case(condition, result, ..., otherwise)`, without an operand: `CASE a WHEN b` has
    become `a = b`.
    """

    name: str
    arguments: tuple["Node", ...]
    type: FieldType | None = None


Node: TypeAlias = Literal | Column | Call


def column_names(node: Node) -> Iterator[str]:
    """Names of the columns, in order of appearance, repeated where they are."""
    pending = [node]
    while pending:
        current = pending.pop()
        if isinstance(current, Column):
            yield current.name
        elif isinstance(current, Call):
            pending.extend(reversed(current.arguments))
