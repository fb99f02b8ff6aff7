"""LIST partitioning: the partition that lists the row's value or NULL, or else the DEFAULT one.

LIST COLUMNS is evaluated column by column as a state machine: the state reached by the previous
columns and the value of the next one give the next state, or no match.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pyspark_theflash.tidb.codec.field_type import FieldType
from pyspark_theflash.tidb.expression.evaluate import TypedArray, parse
from pyspark_theflash.tidb.partitioning.bounds import (
    DEFAULT,
    comparable,
    integer_bound,
    is_word,
    typed_bounds,
)
from pyspark_theflash.tidb.partitioning.placement import NO_PARTITION, ExpressionPlacement, Indexes
from pyspark_theflash.tidb.schema.model import PartitionDefinition

_NO_MATCH = -1


@dataclass(frozen=True, slots=True)
class ListPlacement(ExpressionPlacement):
    """LIST (expr): partition by value, of NULL, and of all other values (DEFAULT)."""

    partition_of: Mapping[int, int]
    null_partition: int
    other_partition: int

    def locate(self, columns: Mapping[str, TypedArray], rows: int) -> Indexes:
        values, null = self.numbers(columns, rows)
        limits = np.iinfo(values.dtype)
        keys = sorted(v for v in self.partition_of if limits.min <= v <= limits.max)
        partitions = np.array([self.partition_of[v] for v in keys] + [NO_PARTITION], np.int64)
        listed = np.array(keys, values.dtype)
        slots = np.searchsorted(listed, values)
        is_listed = np.zeros(rows, np.bool_)
        in_range = slots < len(listed)
        is_listed[in_range] = listed[slots[in_range]] == values[in_range]
        places = np.where(is_listed, partitions[slots], self.other_partition)
        return np.where(null, self.null_partition, places)


def list_placement(
    expr: str, definitions: Sequence[PartitionDefinition], where: str
) -> ListPlacement:
    """Return the placement of LIST (expr). Raises `UnsupportedError`."""
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
    return ListPlacement(parse(expr, where), where, partition_of, null_partition, other)


def _values(
    definitions: Sequence[PartitionDefinition],
) -> list[tuple[int, tuple[str, ...]]]:
    """Return every value of every partition, with the index of the partition."""
    return [(n, values) for n, d in enumerate(definitions) for values in d.in_values]


@dataclass(frozen=True, slots=True)
class _Step:
    """One column of LIST COLUMNS.

    Attributes:
        values: The distinct values in the definitions, one of which may be null.
        transitions: Sorted valid transitions `state * (len(values) + 1) + value`. The index of a
            transition is the next state.
    """

    values: pa.Array
    transitions: Indexes

    def follow(self, states: Indexes, values: pa.Array) -> Indexes:
        """Return the next state of each row, or `_NO_MATCH`."""
        matches = pc.index_in(values, value_set=self.values)
        codes = np.asarray(pc.fill_null(matches, len(self.values))).astype(np.int64)
        keys = np.where(states < 0, _NO_MATCH, states * (len(self.values) + 1) + codes)
        slots = np.minimum(np.searchsorted(self.transitions, keys), len(self.transitions) - 1)
        return np.where(self.transitions[slots] == keys, slots, _NO_MATCH)


@dataclass(frozen=True, slots=True)
class ListColumnsPlacement:
    """LIST COLUMNS: steps, and the partition of each state after the last step.

    There are no steps if DEFAULT is the only value.
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
        return np.append(self.partitions, self.other_partition)[states]


def list_columns_placement(
    columns: Sequence[tuple[str, FieldType]],
    definitions: Sequence[PartitionDefinition],
    where: str,
) -> ListColumnsPlacement:
    """Return the placement of LIST COLUMNS, by name and type. Raises `UnsupportedError`."""
    other, places, listed_values = NO_PARTITION, [], []
    for place, values in _values(definitions):
        if len(values) == 1 and is_word(values[0], DEFAULT):
            other = place
        else:
            places.append(place)
            listed_values.append(values)
    names = tuple(name for name, _ in columns)
    if not listed_values:
        return ListColumnsPlacement(names, (), np.zeros(0, np.int64), other, where)
    steps, states = [], np.zeros(len(listed_values), np.int64)
    for column, (_, field_type) in enumerate(columns):
        bounds = typed_bounds([values[column] for values in listed_values], field_type, where)
        distinct = bounds.unique()
        codes = np.asarray(pc.index_in(bounds, value_set=distinct)).astype(np.int64)
        transitions, states = np.unique(states * (len(distinct) + 1) + codes, return_inverse=True)
        steps.append(_Step(distinct, transitions))
    partitions = np.full(len(steps[-1].transitions), NO_PARTITION, np.int64)
    partitions[states] = places
    return ListColumnsPlacement(names, tuple(steps), partitions, other, where)
