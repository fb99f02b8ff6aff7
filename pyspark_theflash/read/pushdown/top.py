"""The first rows in an order, as Spark sorts: NaN above all numbers, texts by their bytes."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pyspark_theflash.base.errors import ColumnNotFoundError, UnsupportedError
from pyspark_theflash.read.pushdown.term import SortKey
from pyspark_theflash.read.pushdown.value import Mask, ordered_floats

ROWS_MAX: Final = 100_000
"""More rows are not kept to find out which are the first."""
LEADERS_MAX: Final = 1_000
"""Of more first rows, most row groups have some."""
WHERE: Final = "order"


def first_rows(
    batches: Iterable[pa.RecordBatch], order: Sequence[SortKey], limit: int, schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    """The first rows in that order, and in it, with that schema; of equal ones any.

    The batches may have dictionaries where the schema has none. Raises what `check_order` does.
    """
    best: pa.Table | None = None
    for batch in batches:
        found = pa.Table.from_batches([batch])
        found = found.take(_first(found, order, limit)).cast(schema)
        if best is not None:
            found = pa.concat_tables([best, found], promote_options="none").unify_dictionaries()
            found = found.take(_first(found, order, limit))
        best = found
    if best is not None:
        yield from best.combine_chunks().to_batches()


class FirstRows:
    """Finds among rows, some after others, those that can be the first of all of them.

    It is told of nothing but what they are sorted by, so that the rest of most rows is never read.
    """

    def __init__(self, order: Sequence[SortKey], limit: int) -> None:
        self._order, self._limit = order, limit
        self._best: pa.Table | None = None

    def rows(self, keys: pa.Table) -> Mask:
        """Which of these are among the first of all rows so far; `keys` has columns to sort by.

        The first of all that were told of so are first rows of all there were.
        """
        own = _first(keys, self._order, self._limit).to_numpy()
        found = _dense(keys.take(pa.array(own)))
        chosen = np.zeros(len(keys), np.bool_)
        if self._best is None:
            chosen[own] = True
            self._best = found
            return chosen
        before = len(self._best)
        every = pa.concat_tables([self._best, found])
        places = _first(every, self._order, self._limit).to_numpy()
        chosen[own[places[places >= before] - before]] = True
        if chosen.any():
            self._best = every.take(pa.array(places))
        return chosen


def check_order(schema: pa.Schema, order: Sequence[SortKey], limit: int) -> None:
    """Return if rows of that schema can be sorted so.

    Raises:
        ColumnNotFoundError: by a column that there is not.
        UnsupportedError: without a limit, or with one that is too large, or by a list.
    """
    if not 0 < limit <= ROWS_MAX:
        raise UnsupportedError(f"an order of all rows, or of more than {ROWS_MAX},", WHERE)
    for key in order:
        if pa.types.is_nested(_field(schema, key).type):
            raise UnsupportedError("sorting by a list", WHERE)


def limited(
    batches: Iterable[pa.RecordBatch], limit: int, schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    """No more rows than these, with that schema; no more is read than that takes."""
    left = limit
    for batch in batches:
        part = batch.slice(0, left)
        # Arrow's cast loses the row count of a batch without columns.
        yield part.cast(schema) if schema.names else part
        left -= batch.num_rows
        if left <= 0:
            return


def _first(rows: pa.Table, order: Sequence[SortKey], limit: int) -> pa.Array:
    columns: dict[str, pa.ChunkedArray] = {}
    keys = []
    for at, key in enumerate(order):
        values = rows.column(_field(rows.schema, key).name)
        if values.null_count:
            # NULLs are alike, and come first or last whatever the direction.
            columns[f"n{at}"] = pc.cast(values.is_valid(), pa.int8())
            keys.append((f"n{at}", "ascending" if key.nulls_first else "descending"))
        columns[f"v{at}"] = _sortable(values)
        keys.append((f"v{at}", "descending" if key.descending else "ascending"))
    return pc.select_k_unstable(pa.table(columns), min(limit, len(rows)), keys)


def _sortable(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """What sorts like the values, in a type that Arrow sorts."""
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
    """The rows without dictionaries, of which each batch has its own."""
    types = ((f.name, f.type) for f in rows.schema)
    dense = [(n, tp.value_type if pa.types.is_dictionary(tp) else tp) for n, tp in types]
    return rows.cast(pa.schema(dense))


def _field(schema: pa.Schema, key: SortKey) -> pa.Field:
    found = [field for field in schema if field.name.lower() == key.column.lower()]
    if not found:
        raise ColumnNotFoundError(WHERE, key.column, tuple(schema.names))
    return found[0]
