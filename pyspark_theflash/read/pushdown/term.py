"""Terms of Spark's pushdown: values, conditions, aggregates and sort orders.

Columns are named as in the output of the scan; names are compared without regard to case.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from typing import Final, TypeAlias

COMPARISONS: Final = ("=", "<>", "<", "<=", ">", ">=", "<=>")
ARITHMETIC: Final = ("+", "-", "*")


class LiteralKind(str, Enum):
    """Type of a literal; see `protos/theflash/v1/theflash.proto`."""

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
    """Reference to a column by name."""

    name: str


@dataclass(frozen=True, slots=True)
class LiteralTerm:
    """Constant; dates are int days, timestamps and durations int microseconds."""

    kind: LiteralKind
    value: bool | int | float | Decimal | str | bytes | None = None


@dataclass(frozen=True, slots=True)
class FunctionTerm:
    """Function or operator with its arguments; `and` and `or` take two or more."""

    name: str
    arguments: tuple["Term", ...]


Term: TypeAlias = ColumnTerm | LiteralTerm | FunctionTerm


class AggregateFunction(str, Enum):
    """Aggregate functions that can be pushed down."""

    COUNT = "count"
    SUM = "sum"
    MIN = "min"
    MAX = "max"


@dataclass(frozen=True, slots=True)
class Aggregate:
    """Aggregate function and its argument; COUNT without an argument counts rows."""

    function: AggregateFunction
    argument: Term | None = None


@dataclass(frozen=True, slots=True)
class Aggregation:
    """Aggregates grouped by the columns `groups` and then by the values of the terms `keys`."""

    groups: tuple[str, ...] = ()
    aggregates: tuple[Aggregate, ...] = ()
    keys: tuple["Term", ...] = ()

    @property
    def by(self) -> tuple["Term", ...]:
        """All grouping terms."""
        return (*map(ColumnTerm, self.groups), *self.keys)

    @property
    def is_row_count(self) -> bool:
        """Whether the result is only the number of rows."""
        return not self.by and all(a == _ROWS for a in self.aggregates)

    @property
    def counted(self) -> frozenset[str]:
        """Lower-case names of columns of which only the validity is read: `COUNT(column)`."""
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
        """Lower-case names of the grouping columns."""
        return frozenset(term.name.lower() for term in self.by if isinstance(term, ColumnTerm))


@dataclass(frozen=True, slots=True)
class SortKey:
    """Sort column with its direction and the position of NULLs."""

    column: str
    descending: bool = False
    nulls_first: bool = False


_ROWS: Final = Aggregate(AggregateFunction.COUNT)


def column_names(term: Term | None) -> Iterator[str]:
    """Yield the column names in a term, with repetitions."""
    pending = [] if term is None else [term]
    while pending:
        current = pending.pop()
        if isinstance(current, ColumnTerm):
            yield current.name
        elif isinstance(current, FunctionTerm):
            pending.extend(reversed(current.arguments))


def distinct(names: list[str]) -> tuple[str, ...]:
    """Remove names that differ from an earlier one in case only."""
    return tuple({name.lower(): name for name in reversed(names)}.values())[::-1]
