"""RANGE partitioning: the first partition whose upper bound is above the row; NULL is lowest.

RANGE COLUMNS compares tuples. The values of each column are ranked together with the bounds, NULL
first and MAXVALUE last, and then tuples of ranks are compared.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pyspark_theflash.tidb.codec.field_type import FieldType
from pyspark_theflash.tidb.expression.evaluate import TypedArray, parse
from pyspark_theflash.tidb.partitioning.bounds import (
    MAXVALUE,
    comparable,
    integer_bound,
    is_word,
    typed_bounds,
)
from pyspark_theflash.tidb.partitioning.placement import NO_PARTITION, ExpressionPlacement, Indexes
from pyspark_theflash.tidb.schema.model import PartitionDefinition


@dataclass(frozen=True, slots=True)
class RangePlacement(ExpressionPlacement):
    """RANGE (expr). `upper` are the bounds without MAXVALUE; `is_open` is true if there is one."""

    upper: tuple[int, ...]
    is_open: bool

    def locate(self, columns: Mapping[str, TypedArray], rows: int) -> Indexes:
        values, null = self.numbers(columns, rows)
        # Clip bounds to the range of the values' type.
        limits = np.iinfo(values.dtype)
        reachable = [max(bound, int(limits.min)) for bound in self.upper if bound <= limits.max]
        indexes = np.searchsorted(np.array(reachable, values.dtype), values, side="right")
        count = len(self.upper) + self.is_open
        places = np.where(indexes < count, indexes, NO_PARTITION)
        return np.where(null, 0, places)


def range_placement(
    expr: str, definitions: Sequence[PartitionDefinition], where: str
) -> RangePlacement:
    """Return the placement of RANGE (expr). Raises `UnsupportedError`."""
    upper = []
    for definition in definitions:
        text = definition.less_than[0]
        bound = None if is_word(text, MAXVALUE) else integer_bound(text, where)
        if bound is not None:
            upper.append(bound)
    is_open = len(upper) < len(definitions)
    return RangePlacement(parse(expr, where), where, tuple(upper), is_open)


@dataclass(frozen=True, slots=True)
class RangeColumnsPlacement:
    """RANGE COLUMNS.

    Attributes:
        bounds: For each column, the bounds of all partitions; null for MAXVALUE.
    """

    columns: tuple[str, ...]
    bounds: tuple[pa.Array, ...]
    where: str

    def locate(self, columns: Mapping[str, TypedArray], rows: int) -> Indexes:
        keys = np.zeros(rows + len(self.bounds[0]), np.int64)
        for name, bounds in zip(self.columns, self.bounds, strict=True):
            values, field_type = columns[name]
            ranks = _ranks(comparable(values, field_type, self.where), bounds)
            # `unique` renumbers the keys after every column, so that they do not overflow.
            _, keys = np.unique(keys * (len(keys) + 2) + ranks, return_inverse=True)
        indexes = np.searchsorted(keys[rows:], keys[:rows], side="right")
        return np.where(indexes < len(self.bounds[0]), indexes, NO_PARTITION)


def _ranks(values: pa.Array, bounds: pa.Array) -> Indexes:
    """Return the common ranks of values and bounds: 0 for NULL, the largest for MAXVALUE."""
    joined = pa.concat_arrays([values, bounds])
    ranks = np.asarray(pc.rank(joined, "ascending", tiebreaker="dense")).astype(np.int64)
    ranks[: len(values)][np.asarray(values.is_null())] = 0
    ranks[len(values) :][np.asarray(bounds.is_null())] = len(joined) + 1
    return ranks


def range_columns_placement(
    columns: Sequence[tuple[str, FieldType]],
    definitions: Sequence[PartitionDefinition],
    where: str,
) -> RangeColumnsPlacement:
    """Return the placement of RANGE COLUMNS, by name and type. Raises `UnsupportedError`."""
    bounds = []
    for place, (_, field_type) in enumerate(columns):
        texts = [definition.less_than[place] for definition in definitions]
        # NULL cannot be a bound, so it represents MAXVALUE.
        texts = ["NULL" if is_word(text, MAXVALUE) else text for text in texts]
        bounds.append(typed_bounds(texts, field_type, where))
    return RangeColumnsPlacement(tuple(name for name, _ in columns), tuple(bounds), where)
