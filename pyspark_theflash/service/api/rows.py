"""The rows of a scan: their schema, and the encoding of strings as dictionaries."""

from collections.abc import Collection, Generator, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from pyspark_theflash.read.present import Presentation
from pyspark_theflash.tidb.codec.arrow import arrow_type
from pyspark_theflash.tidb.schema.model import ColumnInfo

FEW: Final = 8
"""A column is encoded as a dictionary if each value has this many rows on average."""
SAMPLE_ROWS: Final = 4096
Batches: TypeAlias = Generator[pa.RecordBatch, None, None]
_INDEXED: Final = pa.dictionary(pa.int32(), pa.string())


@dataclass(frozen=True, slots=True)
class RowStream:
    """Batches of one schema, which can be read once. The order of rows is undefined."""

    schema: pa.Schema
    batches: Batches


def rows_schema(columns: Sequence[ColumnInfo], presentation: Presentation) -> pa.Schema:
    """Return the schema of a scan's batches without reading rows."""
    fields = []
    for column in columns:
        empty = pa.nulls(0, arrow_type(column.type))
        fields.append((column.name, presentation.apply(empty, column.type, column.name).type))
    return pa.schema(fields)


def with_dictionaries(rows: RowStream, unchanged: Collection[str] = ()) -> RowStream:
    """Encode string columns as dictionaries if their first rows have few distinct values.

    Columns in `unchanged` are not encoded. Reads the first batch and raises its errors.
    """
    first = next(rows.batches, None)
    if first is None:
        return rows
    few = [
        name not in unchanged and _has_few_values(column)
        for name, column in zip(first.schema.names, first.columns, strict=True)
    ]
    if not any(few):
        return RowStream(rows.schema, _chained(first, rows.batches))
    fields = [
        field.with_type(_INDEXED) if is_few else field
        for field, is_few in zip(rows.schema, few, strict=True)
    ]
    schema = pa.schema(fields)
    return RowStream(schema, _all_encoded(_chained(first, rows.batches), schema))


def _has_few_values(column: pa.Array) -> bool:
    """Whether a column has strings, and few distinct ones in its first rows."""
    sample = column.slice(0, SAMPLE_ROWS)
    if not pa.types.is_string(column.type) or not len(sample):
        return False
    return len(pc.unique(sample)) * FEW <= len(sample)


def _chained(first: pa.RecordBatch, others: Batches) -> Batches:
    yield first
    yield from others


def _all_encoded(batches: Batches, schema: pa.Schema) -> Batches:
    for batch in batches:
        arrays = [
            pc.dictionary_encode(column) if field.type == _INDEXED else column
            for column, field in zip(batch.columns, schema, strict=True)
        ]
        yield pa.RecordBatch.from_arrays(arrays, schema=schema)
