"""The first rows in an order, as Spark sorts: NaN above all numbers, texts by their bytes."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from pyspark_theflash.errors import ColumnNotFoundError, UnsupportedError
from pyspark_theflash.query.term import SortKey
from pyspark_theflash.query.value import ordered_floats

ROWS_MAX: Final = 100_000
"""More rows are not kept to find out which are the first."""
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
        yield batch.slice(0, left).cast(schema)
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


def _field(schema: pa.Schema, key: SortKey) -> pa.Field:
    found = [field for field in schema if field.name.lower() == key.column.lower()]
    if not found:
        raise ColumnNotFoundError(WHERE, key.column, tuple(schema.names))
    return found[0]
