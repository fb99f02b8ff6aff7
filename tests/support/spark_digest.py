"""Conversion of Spark's results to TiDB's text and checksum."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from pyspark_theflash.read.present import NATIVE, Presentation
from pyspark_theflash.tidb.codec.arrow import arrow_type
from pyspark_theflash.tidb.codec.digest import TableDigest
from pyspark_theflash.tidb.codec.text import format_column
from pyspark_theflash.tidb.schema.model import ColumnInfo


def spark_digest(
    rows: pa.Table, columns: Sequence[ColumnInfo], presentation: Presentation = NATIVE
) -> TableDigest:
    """The digest of a `DataFrame.toArrow()` that shows `columns`."""
    digest = TableDigest()
    for batch in rows.combine_chunks().to_batches():
        pairs = zip(batch.columns, columns, strict=True)
        digest.update([_text(values, column, presentation) for values, column in pairs])
    return digest


def _text(
    values: "pa.Array[Any]", column: ColumnInfo, presentation: Presentation
) -> "pa.Array[Any]":
    """Format values, after a cast to the stored type, as Spark's may be wider."""
    stored = arrow_type(column.type)
    if presentation.is_text(column.type) or pa.types.is_decimal256(stored):
        return values
    return format_column(values.cast(stored), column.type)
