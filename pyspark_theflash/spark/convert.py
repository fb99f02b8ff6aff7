"""Casts of scanned batches to the types that Spark expects.

Spark compares the first batch of a task with the schema's Arrow form (order, type, unit,
nullability) and trusts the rest, so every batch is cast here.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql.pandas.types import to_arrow_schema
from pyspark.sql.types import StructType

from pyspark_theflash.base.errors import CorruptionError
from pyspark_theflash.tidb.codec.text import format_column
from pyspark_theflash.tidb.schema.model import ColumnInfo

MAX_BATCH_ROWS: Final = 1 << 16


def arrow_schema(schema: StructType) -> pa.Schema:
    """Return the Arrow schema that Spark expects of batches of `schema`."""
    return to_arrow_schema(schema, timezone="UTC")


def spark_batches(
    batch: pa.RecordBatch, columns: Sequence[ColumnInfo], schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    """Cast a scanned batch and split it into batches of at most `MAX_BATCH_ROWS` rows.

    Raises:
        CorruptionError: A NOT NULL column contains a NULL; Spark would read an arbitrary value.
    """
    for start in range(0, batch.num_rows, MAX_BATCH_ROWS):
        part = batch.slice(start, MAX_BATCH_ROWS)
        arrays = [_cast(*each) for each in zip(part.columns, columns, schema, strict=True)]
        yield pa.RecordBatch.from_arrays(arrays, schema=schema)


def _cast(values: "pa.Array[Any]", column: ColumnInfo, field: "pa.Field[Any]") -> "pa.Array[Any]":
    if values.null_count and not field.nullable:
        raise CorruptionError(f"column {column.name}", 0, "a NULL in a NOT NULL column")
    if pa.types.is_decimal256(values.type):
        values = format_column(values, column.type)
    return pc.cast(values, field.type)
