"""First rows in a sort order, by Spark's rules: NaN is the largest number, strings by bytes."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pyspark_theflash.base.budget import DEFAULT_BUDGET, Budget
from pyspark_theflash.base.errors import ColumnNotFoundError, UnsupportedError
from pyspark_theflash.read.pushdown.memory import row_slices
from pyspark_theflash.read.pushdown.term import SortKey
from pyspark_theflash.read.pushdown.value import Mask, ordered_floats
from pyspark_theflash.tidb.expression.allowance import (
    arrow_limits,
    decoded_bytes,
    reserve,
    reserve_decoded,
)

ROWS_MAX: Final = 100_000
"""Largest limit that is pushed down with an order: so many rows are kept in memory."""
LEADERS_MAX: Final = 1_000
"""With a larger limit, most row groups contain some of the first rows."""
WHERE: Final = "order"
_NUMBER_BYTES: Final = 24
"""A number while it is converted."""


def first_rows(
    batches: Iterable[pa.RecordBatch],
    order: Sequence[SortKey],
    limit: int,
    schema: pa.Schema,
    budget: Budget = DEFAULT_BUDGET,
) -> Iterator[pa.RecordBatch]:
    """Yield the first rows in sort order, with `schema`; any of equal rows.

    The batches may have dictionaries where the schema has none.

    Raises:
        ColumnNotFoundError, UnsupportedError: As in `check_order`.
        SqlMemoryError: The first rows are larger than the budget.
    """
    best: pa.Table | None = None
    for batch in _pieces(batches, budget):
        rows = pa.Table.from_batches([batch])
        with arrow_limits(WHERE):
            rows = rows.take(_first(rows, order, limit)).cast(schema)
            if best is not None:
                rows = pa.concat_tables([best, rows], promote_options="none").unify_dictionaries()
                rows = rows.take(_first(rows, order, limit))
        if rows.nbytes > budget.memory_bytes:
            raise budget.exceeded()
        best = rows
    if best is not None:
        yield from best.combine_chunks().to_batches()


def _pieces(batches: Iterable[pa.RecordBatch], budget: Budget) -> Iterator[pa.RecordBatch]:
    """Divide batches whose strings are long, as all of them may be decoded."""
    for batch in batches:
        row = sum(map(decoded_bytes, batch.columns)) // max(batch.num_rows, 1)
        for start, count in row_slices(batch.num_rows, row, budget):
            yield batch.slice(start, count)


class FirstRows:
    """Selects rows that can be among the first of all rows, batch by batch.

    It reads only the sort columns, so that the other columns of most rows are never read.
    """

    def __init__(
        self, order: Sequence[SortKey], limit: int, budget: Budget = DEFAULT_BUDGET
    ) -> None:
        self._order, self._limit, self._budget = order, limit, budget
        self._best: pa.Table | None = None

    def rows(self, keys: pa.Table) -> Mask:
        """Return which rows are among the first so far; `keys` has the sort columns.

        The first of all selected rows are the first of all rows.

        Raises:
            TooLargeError: Fewer rows at a time need less memory; nothing has changed.
            SqlMemoryError: The first rows are larger than the budget.
        """
        for key in self._order:
            _reserve_sortable(keys.column(_field(keys.schema, key).name))
        indices = _first(keys, self._order, self._limit).to_numpy()
        first = _dense(keys.take(pa.array(indices)))
        chosen = np.zeros(len(keys), np.bool_)
        if self._best is None:
            chosen[indices] = True
            self._best = first
            return chosen
        kept_count = len(self._best)
        merged = pa.concat_tables([self._best, first])
        places = _first(merged, self._order, self._limit).to_numpy()
        chosen[indices[places[places >= kept_count] - kept_count]] = True
        if chosen.any():
            self._best = merged.take(pa.array(places))
        if self._best.nbytes > self._budget.memory_bytes:
            raise self._budget.exceeded()
        return chosen


def check_order(schema: pa.Schema, order: Sequence[SortKey], limit: int) -> None:
    """Check that rows of a schema can be sorted.

    Raises:
        ColumnNotFoundError: A sort column is not in the schema.
        UnsupportedError: There is no limit, it is too large, or a sort column is a list.
    """
    if not 0 < limit <= ROWS_MAX:
        raise UnsupportedError(f"a sort without a limit, or of more than {ROWS_MAX} rows,", WHERE)
    for key in order:
        if pa.types.is_nested(_field(schema, key).type):
            raise UnsupportedError("sorting by a list", WHERE)


def limited(
    batches: Iterable[pa.RecordBatch], limit: int, schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    """Yield at most `limit` rows, with `schema`; no further batch is read."""
    rest = limit
    for batch in batches:
        part = batch.slice(0, rest)
        # Arrow's cast loses the row count of a batch without columns.
        yield part.cast(schema) if schema.names else part
        rest -= batch.num_rows
        if rest <= 0:
            return


def _first(rows: pa.Table, order: Sequence[SortKey], limit: int) -> pa.Array:
    columns: dict[str, pa.ChunkedArray] = {}
    keys = []
    for at, key in enumerate(order):
        values = rows.column(_field(rows.schema, key).name)
        if values.null_count:
            # The position of NULLs does not depend on the direction.
            columns[f"n{at}"] = pc.cast(values.is_valid(), pa.int8())
            keys.append((f"n{at}", "ascending" if key.nulls_first else "descending"))
        columns[f"v{at}"] = _sortable(values)
        keys.append((f"v{at}", "descending" if key.descending else "ascending"))
    return pc.select_k_unstable(pa.table(columns), min(limit, len(rows)), keys)


def _reserve_sortable(values: pa.ChunkedArray) -> None:
    """Reserve the memory of `_sortable`. Raises `TooLargeError`."""
    if pa.types.is_dictionary(values.type):
        for chunk in values.chunks:
            reserve_decoded(chunk)
    else:
        reserve(_NUMBER_BYTES * len(values))


def _sortable(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return values with the same order, in a type that Arrow sorts."""
    tp = values.type
    if pa.types.is_dictionary(tp):
        return pc.cast(values, tp.value_type)
    if pa.types.is_floating(tp):
        floats = pc.fill_null(pc.cast(values, pa.float64()), 0).to_numpy()
        return pa.chunked_array([pa.array(ordered_floats(floats))])
    if pa.types.is_duration(tp):
        return pc.cast(values, pa.int64())
    return values


def _dense(rows: pa.Table) -> pa.Table:
    """Decode dictionaries, which differ from batch to batch."""
    types = ((f.name, f.type) for f in rows.schema)
    dense = [(n, tp.value_type if pa.types.is_dictionary(tp) else tp) for n, tp in types]
    return rows.cast(pa.schema(dense))


def _field(schema: pa.Schema, key: SortKey) -> pa.Field:
    matches = [field for field in schema if field.name.lower() == key.column.lower()]
    if not matches:
        raise ColumnNotFoundError(WHERE, key.column, tuple(schema.names))
    return matches[0]
