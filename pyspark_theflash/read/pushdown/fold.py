"""Partial aggregates: what some rows add to an aggregation, for anybody to put together.

batch ──► groups, values ──► a row for each group ─┐
batch ──► groups, values ──► a row for each group ─┼─► together, again and again ──► the partial
batch ──► groups, values ──► a row for each group ─┘

Counts and sums are summed, minima and maxima compared. Where there are many groups, more rows are
grouped at once. Where there are so many that putting together saves little, or takes much memory,
what there is so far is handed out, and the receiver gets a group in several rows; and where nearly
each row is a group, so are the next rows, without a look at who is alike: the price of an
aggregation that should not have been pushed down is about that of the rows.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import pyarrow as pa

from pyspark_theflash.base.errors import ColumnNotFoundError, UnsupportedError
from pyspark_theflash.read.pushdown.choice import value
from pyspark_theflash.read.pushdown.group import Groups, group_type, groups_apart, groups_of
from pyspark_theflash.read.pushdown.reduce import (
    Reduction,
    exact_array,
    ordered_array,
    reduced_type,
)
from pyspark_theflash.read.pushdown.term import (
    Aggregate,
    AggregateFunction,
    Aggregation,
    ColumnTerm,
    Term,
)
from pyspark_theflash.read.pushdown.value import (
    WHERE,
    Batch,
    Constant,
    Exact,
    Ordered,
    Other,
    Rows,
    Texts,
    value_of,
)
from pyspark_theflash.storage.mvcc.project import batch_of

GROUPS_MAX: Final = 1 << 19
"""Of more groups than these the partial comes in pieces."""
MERGED_ROWS: Final = 1 << 16
BATCH_ROWS: Final = 1 << 16
SMALL_ROWS: Final = 1 << 15
WIDE_ROWS: Final = 1 << 20
WIDE_BYTES: Final = 1 << 26
_MANY: Final = 1 / 16
_NEARLY_ALL: Final = 0.95
_HALF: Final = 0.5
"""Of so many groups for each row, more rows are grouped at once; of so many, none."""
_MERGED_BY: Final = {
    AggregateFunction.COUNT: AggregateFunction.SUM,
    AggregateFunction.SUM: AggregateFunction.SUM,
    AggregateFunction.MIN: AggregateFunction.MIN,
    AggregateFunction.MAX: AggregateFunction.MAX,
}


class Folding:
    """An aggregation over rows of one schema, in the types of a scan or dictionaries of these."""

    def __init__(self, aggregation: Aggregation, schema: pa.Schema) -> None:
        """Raises `ColumnNotFoundError`, or `UnsupportedError` where it would not be exact."""
        if not aggregation.by and not aggregation.aggregates:
            raise UnsupportedError("an aggregation of nothing", WHERE)
        self._aggregation, self._rows = aggregation, schema
        known = {field.name.lower(): field for field in schema}
        fields = []
        for name in aggregation.groups:
            if name.lower() not in known:
                raise ColumnNotFoundError(WHERE, name, tuple(schema.names))
            found = known[name.lower()]
            fields.append((found.name, group_type(found.type)))
        nothing = self._batch(self._nothing())
        for at, key in enumerate(aggregation.keys):
            fields.append((f"k{at}", group_type(_key(key, nothing).type)))
        for at, aggregate in enumerate(aggregation.aggregates):
            fields.append((f"a{at}", _type_of(aggregate, nothing)))
        self.schema: Final = pa.schema(fields)
        """Of partials: the groups, then the keys `k0`, `k1` ..., then `a0`, `a1` ..."""

    def of(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """The partial of these rows; without groups, one row.

        Raises:
            SqlOverflowError: a number or a sum that does not fit its type.
        """
        if self._aggregation.is_row_count:
            # One batch may tell of more rows than there is memory for.
            rows = pa.array([sum(batch.num_rows for batch in batches)])
            yield batch_of(self.schema.names, [rows] * len(self.schema), 1)
            return
        parts: list[pa.RecordBatch] = []
        seen, limit = 0, MERGED_ROWS
        gathering = _Gathering()
        for batch in gathering.of(batches):
            if gathering.are_apart:
                yield from _cut(self._folded(batch, are_apart=True))
                continue
            seen += batch.num_rows
            parts.append(self._folded(batch))
            gathering.learn(batch.num_rows, parts[-1].num_rows)
            if sum(part.num_rows for part in parts) < limit:
                continue
            merged = self.merged(parts)
            limit = max(MERGED_ROWS, 2 * merged.num_rows)
            parts = [merged]
            if merged.num_rows > GROUPS_MAX or 2 * merged.num_rows > seen:
                yield from _cut(merged)
                parts, seen, limit = [], 0, MERGED_ROWS
        if parts or not self._aggregation.by:
            yield from _cut(self.merged(parts or [self._folded(self._nothing())]))

    def merged(self, parts: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
        """Partials, at least one, as one in which each group is once."""
        if len(parts) == 1:
            return parts[0]
        whole = pa.Table.from_batches(parts).combine_chunks().to_batches()
        if not whole:
            return parts[0]
        (rows,) = whole
        keys = rows.columns[: len(self._aggregation.by)]
        values = rows.columns[len(keys) :]
        wanted = [
            (_MERGED_BY[aggregate.function], value_of(column), column.type)
            for aggregate, column in zip(self._aggregation.aggregates, values, strict=True)
        ]
        return self._reduced(keys, wanted, rows.num_rows)

    def _folded(self, batch: pa.RecordBatch, *, are_apart: bool = False) -> pa.RecordBatch:
        rows = self._batch(batch)
        keys = [_key(term, rows) for term in self._aggregation.by]
        types = self.schema.types[len(keys) :]
        wanted = [
            (each.function, _argument(each, rows), tp)
            for each, tp in zip(self._aggregation.aggregates, types, strict=True)
        ]
        groups = groups_apart(keys, batch.num_rows) if are_apart else None
        return self._reduced(keys, wanted, batch.num_rows, groups)

    def _reduced(
        self,
        keys: Sequence[pa.Array],
        wanted: Sequence[tuple[AggregateFunction, Rows | None, pa.DataType]],
        rows: int,
        groups: Groups | None = None,
    ) -> pa.RecordBatch:
        groups = groups or groups_of(keys, rows)
        arrays = [*groups.keys, *Reduction(groups).run(wanted)]
        return batch_of(self.schema.names, arrays, groups.count)

    def _nothing(self) -> pa.RecordBatch:
        return batch_of(self._rows.names, [pa.array([], tp) for tp in self._rows.types], 0)

    def _batch(self, batch: pa.RecordBatch) -> Batch:
        columns = dict(zip(self._rows.names, batch.columns, strict=True))
        return Batch({name.lower(): values for name, values in columns.items()}, batch.num_rows)


def _key(term: Term, rows: Batch) -> pa.Array:
    """What is grouped by: a column as it came, or values that are made of columns."""
    if isinstance(term, ColumnTerm):
        return rows.array(term.name)
    found = value(term, rows)
    if isinstance(found, Texts | Other):
        return found.values
    if isinstance(found, Exact):
        return exact_array(found.ints, found.valid, found.type)
    if isinstance(found, Ordered):
        return ordered_array(found.ints, found.valid, found.type)
    raise UnsupportedError("grouping by a literal", WHERE)


def _argument(aggregate: Aggregate, rows: Batch) -> Rows | None:
    """What is aggregated; None: the rows themselves."""
    argument = aggregate.argument
    if aggregate.function is AggregateFunction.COUNT:
        if argument is None:
            return None
        if isinstance(argument, ColumnTerm):
            # Nothing but its nulls is asked for.
            values = rows.array(argument.name)
            return Other(values, values.type)
    found = None if argument is None else value(argument, rows)
    if found is None or isinstance(found, Constant):
        raise UnsupportedError(f"{aggregate.function.value} of no column", WHERE)
    return found


def _type_of(aggregate: Aggregate, rows: Batch) -> pa.DataType:
    found = _argument(aggregate, rows)
    return pa.int64() if found is None else reduced_type(aggregate.function, found.type)


class _Gathering:
    """Batches to group at once: small ones together, and more where there are many groups."""

    def __init__(self) -> None:
        self._wanted, self._apart = SMALL_ROWS, 0

    @property
    def are_apart(self) -> bool:
        """Whether the rows that come now are hardly worth grouping."""
        return self._apart > 0

    def learn(self, rows: int, groups: int) -> None:
        """Decide what to do next, by so many groups of so many rows."""
        is_wide = self._wanted == WIDE_ROWS
        if groups > (_HALF if is_wide else _NEARLY_ALL) * rows and rows >= SMALL_ROWS:
            self._apart = (8 if is_wide else 1) * WIDE_ROWS
        if groups > _MANY * rows:
            self._wanted = WIDE_ROWS

    def of(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """The same rows."""
        alike: dict[pa.Schema, list[pa.RecordBatch]] = {}
        for batch in batches:
            if self.are_apart:
                yield batch
                self._apart -= batch.num_rows
                continue
            if batch.num_rows >= self._wanted or self._is_dear(batch):
                yield batch
                continue
            if not batch.num_rows:
                continue
            waiting = alike.setdefault(batch.schema, [])
            waiting.append(batch)
            if (
                sum(each.num_rows for each in waiting) >= self._wanted
                or sum(each.nbytes for each in waiting) >= WIDE_BYTES
            ):
                yield _joined(waiting)
                waiting.clear()
        yield from (_joined(waiting) for waiting in alike.values() if waiting)

    def _is_dear(self, batch: pa.RecordBatch) -> bool:
        """Whether to join it with others is worth it for many rows only: it has a dictionary."""
        has_dictionary = any(map(pa.types.is_dictionary, batch.schema.types))
        return has_dictionary and self._wanted < WIDE_ROWS


def _joined(batches: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    """The rows of batches of one schema."""
    if len(batches) == 1:
        return batches[0]
    (whole,) = pa.Table.from_batches(batches).unify_dictionaries().combine_chunks().to_batches()
    return whole


def _cut(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    for start in range(0, batch.num_rows, BATCH_ROWS):
        yield batch.slice(start, BATCH_ROWS)
