"""Random conditions on rows, in three forms: as TiDB's SQL, as a pushed filter, and in Python."""

import datetime as dt
from dataclasses import dataclass
from decimal import Decimal
from operator import eq, ge, gt, le, lt, ne
from random import Random
from typing import Any, Final

from pyspark_theflash.read.pushdown.term import (
    ColumnTerm,
    FunctionTerm,
    LiteralKind,
    LiteralTerm,
    Term,
)
from tests.soak.cluster import KINDS, Row, Table

_OPERATORS: Final = {"=": eq, "<>": ne, "<": lt, "<=": le, ">": gt, ">=": ge}
_EPOCH: Final = dt.date(1970, 1, 1)
_COMPARED: Final = ("int", "small", "decimal", "text", "date")
"""Kinds of columns whose values compare in Python as in TiDB and in Spark."""


@dataclass(frozen=True)
class Comparison:
    """`column operator value`, unknown where the column is NULL."""

    column: str
    operator: str
    value: Any

    def sql(self) -> str:
        return f"{self.column} {self.operator} {_sql(self.value)}"

    def term(self) -> Term:
        return FunctionTerm(self.operator, (ColumnTerm(self.column), _literal(self.value)))

    def holds(self, row: Row) -> bool | None:
        value = row[self.column]
        return None if value is None else bool(_OPERATORS[self.operator](value, self.value))


@dataclass(frozen=True)
class IsNull:
    """`column IS NULL`."""

    column: str

    def sql(self) -> str:
        return f"{self.column} IS NULL"

    def term(self) -> Term:
        return FunctionTerm("is null", (ColumnTerm(self.column),))

    def holds(self, row: Row) -> bool | None:
        return row[self.column] is None


@dataclass(frozen=True)
class Not:
    """`NOT (condition)`."""

    condition: "Condition"

    def sql(self) -> str:
        return f"NOT ({self.condition.sql()})"

    def term(self) -> Term:
        return FunctionTerm("not", (self.condition.term(),))

    def holds(self, row: Row) -> bool | None:
        inner = self.condition.holds(row)
        return None if inner is None else not inner


@dataclass(frozen=True)
class Both:
    """`(left) AND (right)`, or OR, which `decides` it: the value that one of them is enough for."""

    left: "Condition"
    right: "Condition"
    decides: bool

    def sql(self) -> str:
        word = "OR" if self.decides else "AND"
        return f"({self.left.sql()}) {word} ({self.right.sql()})"

    def term(self) -> Term:
        return FunctionTerm("or" if self.decides else "and", (self.left.term(), self.right.term()))

    def holds(self, row: Row) -> bool | None:
        truths = self.left.holds(row), self.right.holds(row)
        if self.decides in truths:
            return self.decides
        return None if None in truths else not self.decides


Condition = Comparison | IsNull | Not | Both


def random_condition(rng: Random, table: Table, depth: int = 2) -> Condition:
    """A condition on columns of a table."""
    what = rng.random()
    if depth and what < 0.15:
        return Not(random_condition(rng, table, depth - 1))
    if depth and what < 0.5:
        left, right = (random_condition(rng, table, depth - 1) for _ in range(2))
        return Both(left, right, rng.random() < 0.5)
    if what < 0.6:
        return IsNull(rng.choice(list(table.columns)))
    columns = [name for name, kind in table.columns.items() if kind in _COMPARED]
    if not columns:
        return IsNull(rng.choice(list(table.columns)))
    name = rng.choice(columns)
    value = table.keys(rng)[table.key.index(name)] if name in table.key else None
    value = KINDS[table.columns[name]].value(rng) if value is None else value
    return Comparison(name, rng.choice(sorted(_OPERATORS)), value)


def _sql(value: Any) -> str:
    return str(value) if isinstance(value, int | Decimal) else f"'{value}'"


def _literal(value: Any) -> LiteralTerm:
    if isinstance(value, int):
        return LiteralTerm(LiteralKind.INT, value)
    if isinstance(value, Decimal):
        return LiteralTerm(LiteralKind.DECIMAL, value)
    if isinstance(value, dt.date):
        return LiteralTerm(LiteralKind.DATE, (value - _EPOCH).days)
    return LiteralTerm(LiteralKind.STRING, value)
