"""Partial aggregates of batches of rows; the receiver merges them.

    batch -> groups, values -> a row per group -+
    batch -> groups, values -> a row per group -+-> merge, repeatedly -> partial aggregate
    batch -> groups, values -> a row per group -+

Counts and sums are merged by SUM, minima and maxima by MIN and MAX. If there are many groups, more
rows are grouped at a time. If merging saves little or needs much memory, the current partial is
emitted, and the receiver gets several rows for a group. If nearly each row is a group of its own,
the next rows are emitted without grouping, so that aggregation costs little more than reading rows.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import pyarrow as pa

from pyspark_theflash.base.budget import DEFAULT_BUDGET, Budget
from pyspark_theflash.base.errors import ColumnNotFoundError, UnsupportedError
from pyspark_theflash.read.pushdown.evaluate import evaluate
from pyspark_theflash.read.pushdown.memory import (
    is_text,
    literal_bytes,
    row_bytes,
    row_slices,
    text_width,
)
from pyspark_theflash.read.pushdown.reduce import (
    Groups,
    Reduction,
    exact_array,
    group_type,
    groups_apart,
    groups_of,
    ordered_array,
    reduced_type,
)
from pyspark_theflash.read.pushdown.term import (
    Aggregate,
    AggregateFunction,
    Aggregation,
    ColumnTerm,
    Term,
    column_names,
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
from pyspark_theflash.tidb.expression.allowance import arrow_limits

GROUPS_MAX: Final = 1 << 19
"""A partial with more groups is emitted in pieces."""
MERGED_ROWS: Final = 1 << 16
BATCH_ROWS: Final = 1 << 16
SMALL_ROWS: Final = 1 << 15
WIDE_ROWS: Final = 1 << 20
WIDE_BYTES: Final = 1 << 26
_LABEL: Final = "aggregation"
_WIDTH: Final = 32
"""Estimated size of a string in a partial."""
_MANY: Final = 1 / 16
_NEARLY_ALL: Final = 0.95
_HALF: Final = 0.5
"""Ratios of groups to rows: above `_MANY` more rows are grouped at once, above others none."""
_FEW: Final = 256
"""Values whose size is not looked at."""
_ENDS: Final = (AggregateFunction.MIN, AggregateFunction.MAX)
_MERGED_BY: Final = {AggregateFunction.COUNT: AggregateFunction.SUM}


class Folding:
    """Aggregation of rows of one schema; columns may be dictionary-encoded."""

    def __init__(
        self, aggregation: Aggregation, schema: pa.Schema, budget: Budget = DEFAULT_BUDGET
    ) -> None:
        """Check the aggregation. Raises `ColumnNotFoundError`, `UnsupportedError`: not exact."""
        self._aggregation, self._rows, self._budget = aggregation, schema, budget
        try:
            fields = list(self._fields())
        except UnsupportedError as error:
            raise UnsupportedError(error.what, _LABEL) from None
        except ColumnNotFoundError as error:
            raise ColumnNotFoundError(_LABEL, error.column, tuple(schema.names)) from None
        self.schema: Final = pa.schema(fields)
        """Schema of partials: group columns, keys `k0`, `k1` ..., aggregates `a0`, `a1` ..."""
        kept = [
            each.argument
            for each in aggregation.aggregates
            if each.function in _ENDS and each.argument is not None
        ]
        kept += aggregation.by
        self._copied = Counter(name for term in kept for name in column_names(term))
        """The columns whose values a group may have as its keys, minima and maxima."""
        self._literal_bytes = sum(map(literal_bytes, kept))

    def _fields(self) -> Iterator[tuple[str, pa.DataType]]:
        """Yield the columns of partials: groups, keys, aggregates."""
        if not self._aggregation.by and not self._aggregation.aggregates:
            raise UnsupportedError("an aggregation without aggregates and groups", WHERE)
        empty = self._batch(self._empty())
        names = {name.lower(): name for name in self._rows.names}
        for name in self._aggregation.groups:
            yield names.get(name.lower(), name), group_type(empty.array(name).type)
        for at, key in enumerate(self._aggregation.keys):
            yield f"k{at}", group_type(_key(key, empty).type)
        for at, aggregate in enumerate(self._aggregation.aggregates):
            yield f"a{at}", _type_of(aggregate, empty)

    def of(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Yield the partial aggregates of the rows; without grouping, one row.

        Raises:
            SqlOverflowError: A number or a sum does not fit its type.
        """
        if self._aggregation.is_row_count:
            # A batch without columns may have more rows than fit in memory.
            rows = pa.array([sum(batch.num_rows for batch in batches)])
            yield batch_of(self.schema.names, [rows] * len(self.schema), 1)
            return
        parts: list[pa.RecordBatch] = []
        seen, size_bytes, limit = 0, 0, MERGED_ROWS
        bytes_max = self._budget.step_bytes // 2
        gathering = _Gathering()
        for batch in self._pieces(gathering.of(batches)):
            if gathering.are_apart:
                yield from _cut(self._folded(batch, are_apart=True))
                continue
            seen += batch.num_rows
            parts.append(self._folded(batch))
            size_bytes += parts[-1].nbytes
            gathering.learn(batch.num_rows, parts[-1].num_rows)
            if sum(part.num_rows for part in parts) < limit and size_bytes < bytes_max:
                continue
            merged = self.merged(parts)
            limit = max(MERGED_ROWS, 2 * merged.num_rows)
            parts, size_bytes = [merged], merged.nbytes
            is_large = merged.num_rows > GROUPS_MAX or size_bytes >= bytes_max
            if is_large or 2 * merged.num_rows > seen:
                yield from _cut(merged)
                parts, seen, size_bytes, limit = [], 0, 0, MERGED_ROWS
        if parts or not self._aggregation.by:
            yield from _cut(self.merged(parts or [self._folded(self._empty())]))

    def _pieces(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Divide batches so that the evaluation and the result of each piece need little memory."""
        has_texts = any(map(is_text, self._rows.types))
        size_bytes = 0
        for batch in batches:
            if has_texts or not size_bytes:
                size_bytes = self._row_bytes(self._batch(batch))
            if batch.num_rows * size_bytes <= self._budget.step_bytes:
                self._budget.check()
                yield batch
                continue
            for start, count in row_slices(batch.num_rows, size_bytes, self._budget):
                yield batch.slice(start, count)

    def _row_bytes(self, rows: Batch) -> int:
        """Return the estimated memory for a row and its partial, twice, as partials are merged."""
        width = sum(_WIDTH if (w := _bits(tp)) is None else w // 8 + 1 for tp in self.schema.types)
        if self._aggregation.by:
            width += self._literal_bytes
            wide = (
                (max(text_width(rows.array(k)) - _WIDTH, 0), n) for k, n in self._copied.items()
            )
            width += sum(size * n for size, n in wide)
        keys = sum(row_bytes(term, rows) for term in self._aggregation.by)
        arguments = (a.argument for a in self._aggregation.aggregates if a.argument is not None)
        largest = max((row_bytes(argument, rows) for argument in arguments), default=0)
        return 2 * width + keys + largest

    def merged(self, parts: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
        """Merge partials, at least one, so that each group occurs once."""
        if len(parts) == 1:
            return parts[0]
        whole = pa.Table.from_batches(parts).combine_chunks().to_batches()
        if not whole:
            return parts[0]
        (rows,) = whole
        keys = rows.columns[: len(self._aggregation.by)]
        values = rows.columns[len(keys) :]
        aggregates = (
            (_MERGED_BY.get(aggregate.function, aggregate.function), value_of(column), column.type)
            for aggregate, column in zip(self._aggregation.aggregates, values, strict=True)
        )
        return self._reduced(keys, aggregates, rows.num_rows)

    def _folded(self, batch: pa.RecordBatch, *, are_apart: bool = False) -> pa.RecordBatch:
        rows = self._batch(batch)
        with arrow_limits(_LABEL):
            keys = [_key(term, rows) for term in self._aggregation.by]
        types = self.schema.types[len(keys) :]
        # One after the other: arguments may take more memory than results.
        aggregates = (
            (each.function, _argument(each, rows), tp)
            for each, tp in zip(self._aggregation.aggregates, types, strict=True)
        )
        groups = groups_apart(keys, batch.num_rows) if are_apart else None
        return self._reduced(keys, aggregates, batch.num_rows, groups)

    def _reduced(
        self,
        keys: Sequence[pa.Array],
        aggregates: Iterable[tuple[AggregateFunction, Rows | None, pa.DataType]],
        rows: int,
        groups: Groups | None = None,
    ) -> pa.RecordBatch:
        with arrow_limits(_LABEL):
            groups = groups or groups_of(keys, rows)
            reduction = Reduction(groups)
            arrays = list(groups.keys)
            is_small = groups.count * len(self.schema) <= _FEW
            size_bytes = 0 if is_small else sum(each.nbytes for each in arrays)
            for each in aggregates:
                self._budget.check()
                arrays.append(reduction.run(*each))
                size_bytes += 0 if is_small else arrays[-1].get_total_buffer_size()
                if size_bytes > self._budget.memory_bytes:
                    raise self._budget.exceeded()
        return batch_of(self.schema.names, arrays, groups.count)

    def _empty(self) -> pa.RecordBatch:
        return batch_of(self._rows.names, [pa.array([], tp) for tp in self._rows.types], 0)

    def _batch(self, batch: pa.RecordBatch) -> Batch:
        columns = dict(zip(self._rows.names, batch.columns, strict=True))
        lower = {name.lower(): values for name, values in columns.items()}
        return Batch(lower, batch.num_rows, self._budget)


def _key(term: Term, rows: Batch) -> pa.Array:
    """Return a grouping column as passed in, or a computed one."""
    if isinstance(term, ColumnTerm):
        return rows.array(term.name)
    key = evaluate(term, rows)
    if isinstance(key, Texts | Other):
        return key.values
    if isinstance(key, Exact):
        return exact_array(key.ints, key.valid, key.type)
    if isinstance(key, Ordered):
        return ordered_array(key.ints, key.valid, key.type)
    raise UnsupportedError("grouping by a literal", WHERE)


def _argument(aggregate: Aggregate, rows: Batch) -> Rows | None:
    """Return the argument of an aggregate; None for COUNT(*)."""
    argument = aggregate.argument
    if aggregate.function is AggregateFunction.COUNT:
        if argument is None:
            return None
        if isinstance(argument, ColumnTerm):
            # Only the validity is read.
            values = rows.array(argument.name)
            return Other(values, values.type)
    result = None if argument is None else evaluate(argument, rows)
    if result is None or isinstance(result, Constant):
        raise UnsupportedError(f"{aggregate.function.value} of a literal or of no argument", WHERE)
    return result


def _type_of(aggregate: Aggregate, rows: Batch) -> pa.DataType:
    argument = _argument(aggregate, rows)
    return pa.int64() if argument is None else reduced_type(aggregate.function, argument.type)


class _Gathering:
    """Concatenates small batches, more of them if there are many groups."""

    def __init__(self) -> None:
        self._wanted, self._apart = SMALL_ROWS, 0

    @property
    def are_apart(self) -> bool:
        """Whether the next rows are emitted without grouping."""
        return self._apart > 0

    def learn(self, rows: int, groups: int) -> None:
        """Adjust the strategy to the number of groups among the last rows."""
        is_wide = self._wanted == WIDE_ROWS
        if groups > (_HALF if is_wide else _NEARLY_ALL) * rows and rows >= SMALL_ROWS:
            self._apart = (8 if is_wide else 1) * WIDE_ROWS
        if groups > _MANY * rows:
            self._wanted = WIDE_ROWS

    def of(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Yield the rows in batches of a suitable size."""
        alike: dict[pa.Schema, list[pa.RecordBatch]] = {}
        for batch in batches:
            if self.are_apart:
                yield batch
                self._apart -= batch.num_rows
                continue
            if batch.num_rows >= self._wanted or self._is_expensive(batch):
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

    def _is_expensive(self, batch: pa.RecordBatch) -> bool:
        """Return whether concatenating is expensive: the batch has a dictionary."""
        has_dictionary = any(map(pa.types.is_dictionary, batch.schema.types))
        return has_dictionary and self._wanted < WIDE_ROWS


def _joined(batches: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    """Concatenate batches of one schema."""
    if len(batches) == 1:
        return batches[0]
    (whole,) = pa.Table.from_batches(batches).unify_dictionaries().combine_chunks().to_batches()
    return whole


def _bits(tp: pa.DataType) -> int | None:
    """Return the bits per value of a type of fixed width."""
    return tp.bit_width if pa.types.is_primitive(tp) or pa.types.is_decimal(tp) else None


def _cut(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    for start in range(0, batch.num_rows, BATCH_ROWS):
        yield batch.slice(start, BATCH_ROWS)
