"""LIST: the partition that names the row's value. NULL and DEFAULT have to be named too.

Several columns are looked up one after the other: what the columns before have matched, and the
value of the next, give a step that leads further or nowhere.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc

from pyspark_theflash.tidb.codec.array import ArrowArray
from pyspark_theflash.tidb.codec.field_type import FieldType
from pyspark_theflash.tidb.expression.evaluate import (
    Expression,
    TypedArray,
    evaluate_integers,
    parse,
)
from pyspark_theflash.tidb.partitioning.bounds import (
    DEFAULT,
    comparable,
    integer_bound,
    is_word,
    typed_bounds,
)
from pyspark_theflash.tidb.partitioning.placement import NO_PARTITION, Indexes
from pyspark_theflash.tidb.schema.model import PartitionDefinition

_NOWHERE = -1


@dataclass(frozen=True, slots=True)
class ListPlacement:
    """LIST (expr): the partition of each value, of NULL, and of all others."""

    expression: Expression
    partition_of: Mapping[int, int]
    null_partition: int
    other_partition: int
    where: str

    @property
    def columns(self) -> tuple[str, ...]:
        return self.expression.columns

    def locate(self, columns: Mapping[str, TypedArray], rows: int) -> Indexes:
        values, null = evaluate_integers(self.expression, columns, rows, self.where)
        limits = np.iinfo(values.dtype)
        named = sorted(v for v in self.partition_of if limits.min <= v <= limits.max)
        partitions = np.array([self.partition_of[v] for v in named] + [NO_PARTITION], np.int64)
        listed = np.array(named, values.dtype)
        slots = np.searchsorted(listed, values)
        is_named = np.zeros(rows, np.bool_)
        inside = slots < len(listed)
        is_named[inside] = listed[slots[inside]] == values[inside]
        places = np.where(is_named, partitions[slots], self.other_partition)
        return np.where(null, self.null_partition, places)


def list_placement(
    expr: str, definitions: Sequence[PartitionDefinition], where: str
) -> ListPlacement:
    """LIST (expr).

    Raises:
        UnsupportedError: the expression or a value is not evaluated here.
    """
    partition_of: dict[int, int] = {}
    null, other = None, NO_PARTITION
    for place, (text,) in _values(definitions):
        if is_word(text, DEFAULT):
            other = place
        elif (value := integer_bound(text, where)) is None:
            null = place
        else:
            partition_of[value] = place
    null_partition = other if null is None else null
    return ListPlacement(parse(expr, where), partition_of, null_partition, other, where)


def _values(
    definitions: Sequence[PartitionDefinition],
) -> list[tuple[int, tuple[str, ...]]]:
    """Every value of every partition, with the partition's place."""
    return [(n, values) for n, d in enumerate(definitions) for values in d.in_values]


@dataclass(frozen=True, slots=True)
class _Step:
    """One column of LIST COLUMNS.

    Attributes:
        values: its different values in the definitions, one of which may be null.
        known: sorted `state * (len(values) + 1) + value`: which values follow which state, where a
            state stands for what the columns before have matched.
    """

    values: ArrowArray
    known: Indexes

    def follow(self, states: Indexes, values: ArrowArray) -> Indexes:
        """The next state of each row: its place in `known`, or nowhere."""
        found = pc.index_in(values, value_set=self.values)
        codes = np.asarray(pc.fill_null(found, len(self.values))).astype(np.int64)
        keys = np.where(states < 0, _NOWHERE, states * (len(self.values) + 1) + codes)
        slots = np.minimum(np.searchsorted(self.known, keys), len(self.known) - 1)
        return np.where(self.known[slots] == keys, slots, _NOWHERE)


@dataclass(frozen=True, slots=True)
class ListColumnsPlacement:
    """LIST COLUMNS: steps, and the partition of each state that the last one leads to.

    Without any value, of DEFAULT alone, there are no steps.
    """

    columns: tuple[str, ...]
    steps: tuple[_Step, ...]
    partitions: Indexes
    other_partition: int
    where: str

    def locate(self, columns: Mapping[str, TypedArray], rows: int) -> Indexes:
        if not self.steps:
            return np.full(rows, self.other_partition)
        states = np.zeros(rows, np.int64)
        for name, step in zip(self.columns, self.steps, strict=True):
            values, field_type = columns[name]
            states = step.follow(states, comparable(values, field_type, self.where))
        places: Indexes = np.append(self.partitions, self.other_partition)[states]
        return places


def list_columns_placement(
    columns: Sequence[tuple[str, FieldType]],
    definitions: Sequence[PartitionDefinition],
    where: str,
) -> ListColumnsPlacement:
    """LIST COLUMNS, of columns given by name and type.

    Raises:
        UnsupportedError: a value or a column's type.
    """
    other, places, named = NO_PARTITION, [], []
    for place, values in _values(definitions):
        if len(values) == 1 and is_word(values[0], DEFAULT):
            other = place
        else:
            places.append(place)
            named.append(values)
    names = tuple(name for name, _ in columns)
    if not named:
        return ListColumnsPlacement(names, (), np.zeros(0, np.int64), other, where)
    steps, states = [], np.zeros(len(named), np.int64)
    for column, (_, field_type) in enumerate(columns):
        bounds = typed_bounds([values[column] for values in named], field_type, where)
        distinct = bounds.unique()
        codes = np.asarray(pc.index_in(bounds, value_set=distinct)).astype(np.int64)
        known, states = np.unique(states * (len(distinct) + 1) + codes, return_inverse=True)
        steps.append(_Step(distinct, known))
    partitions = np.full(len(steps[-1].known), NO_PARTITION, np.int64)
    partitions[states] = places
    return ListColumnsPlacement(names, tuple(steps), partitions, other, where)
