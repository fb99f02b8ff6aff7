"""What is asked of rows, as Spark would say it: values, conditions, aggregates, orders.

All names of columns are those that a scan hands out; they are looked up without regard to case.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from typing import Final, TypeAlias

COMPARISONS: Final = ("=", "<>", "<", "<=", ">", ">=", "<=>")
ARITHMETIC: Final = ("+", "-", "*")


class LiteralKind(str, Enum):
    """What a literal is; see `protos/theflash/v1/theflash.proto`."""

    NULL = "null"
    BOOL = "bool"
    INT = "int"
    FLOAT = "float"
    DOUBLE = "double"
    DECIMAL = "decimal"
    STRING = "string"
    BINARY = "binary"
    DATE = "date"
    TIMESTAMP = "timestamp"
    TIMESTAMP_NTZ = "timestamp_ntz"
    DURATION = "duration"


@dataclass(frozen=True, slots=True)
class ColumnTerm:
    """A column by its name."""

    name: str


@dataclass(frozen=True, slots=True)
class LiteralTerm:
    """A value: an int for all that is counted, days and microseconds too."""

    kind: LiteralKind
    value: bool | int | float | Decimal | str | bytes | None = None


@dataclass(frozen=True, slots=True)
class FunctionTerm:
    """An operator of arguments; `and` and `or` take two or more."""

    name: str
    arguments: tuple["Term", ...]


Term: TypeAlias = ColumnTerm | LiteralTerm | FunctionTerm


class AggregateFunction(str, Enum):
    """What an aggregate does with its values."""

    COUNT = "count"
    SUM = "sum"
    MIN = "min"
    MAX = "max"


@dataclass(frozen=True, slots=True)
class Aggregate:
    """A function of an argument; COUNT of None counts rows."""

    function: AggregateFunction
    argument: Term | None = None


@dataclass(frozen=True, slots=True)
class Aggregation:
    """Aggregates by groups, which are columns, then by the values of `keys`."""

    groups: tuple[str, ...] = ()
    aggregates: tuple[Aggregate, ...] = ()
    keys: tuple["Term", ...] = ()

    @property
    def by(self) -> tuple["Term", ...]:
        """All that it groups by."""
        return (*map(ColumnTerm, self.groups), *self.keys)

    @property
    def is_row_count(self) -> bool:
        """Whether all that is asked is how many rows there are."""
        return not self.by and all(a == _ROWS for a in self.aggregates)

    @property
    def counted(self) -> frozenset[str]:
        """Names, in lower case, of columns of which only the NULLs are of interest."""
        read = {name.lower() for term in self.by for name in column_names(term)}
        counted: set[str] = set()
        for aggregate in self.aggregates:
            names = {name.lower() for name in column_names(aggregate.argument)}
            is_count = aggregate.function is AggregateFunction.COUNT
            (counted if is_count and isinstance(aggregate.argument, ColumnTerm) else read).update(
                names
            )
        return frozenset(counted - read)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that it reads, each once."""
        terms = (*self.by, *(each.argument for each in self.aggregates))
        return distinct([name for term in terms for name in column_names(term)])

    @property
    def columns_grouped_by(self) -> frozenset[str]:
        """Names, in lower case, of columns whose values are those of groups."""
        return frozenset(term.name.lower() for term in self.by if isinstance(term, ColumnTerm))


@dataclass(frozen=True, slots=True)
class SortKey:
    """A column to sort by."""

    column: str
    descending: bool = False
    nulls_first: bool = False


_ROWS: Final = Aggregate(AggregateFunction.COUNT)


def column_names(term: Term | None) -> Iterator[str]:
    """Names of the columns of a term, repeated where they are."""
    pending = [] if term is None else [term]
    while pending:
        current = pending.pop()
        if isinstance(current, ColumnTerm):
            yield current.name
        elif isinstance(current, FunctionTerm):
            pending.extend(reversed(current.arguments))


def distinct(names: list[str]) -> tuple[str, ...]:
    """Names without those that differ from an earlier one in case only."""
    return tuple({name.lower(): name for name in reversed(names)}.values())[::-1]
