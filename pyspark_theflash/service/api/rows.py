"""Rows as they are handed out: their schema, and which texts travel as dictionaries."""

from collections.abc import Collection, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from pyspark_theflash.read.present import Presentation
from pyspark_theflash.tidb.codec.array import nulls
from pyspark_theflash.tidb.codec.arrow import arrow_type
from pyspark_theflash.tidb.schema.model import ColumnInfo

FEW: Final = 8
"""A text has few values where so many rows share one, on average."""
SAMPLE_ROWS: Final = 4096
Batches: TypeAlias = Generator[pa.RecordBatch, None, None]
_INDEXED: Final = pa.dictionary(pa.int32(), pa.string())


@dataclass(frozen=True, slots=True)
class RowStream:
    """Batches of one schema, in no particular order of rows; taken once."""

    schema: pa.Schema
    batches: Batches


def rows_schema(columns: Sequence[ColumnInfo], presentation: Presentation) -> pa.Schema:
    """The schema of a scan's batches, known before there is one."""
    fields = []
    for column in columns:
        empty = nulls(0, arrow_type(column.type))
        fields.append((column.name, presentation.apply(empty, column.type, column.name).type))
    return pa.schema(fields)


def with_dictionaries(rows: RowStream, known: Collection[str] = ()) -> RowStream:
    """The same rows, texts with few different values at the beginning as dictionaries.

    Columns that are `known` stay as they are. Raises what taking the first batch raises.
    """
    first = next(rows.batches, None)
    if first is None:
        return rows
    few = [
        name not in known and _has_few_values(column)
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


def _has_few_values(column: "pa.Array[Any]") -> bool:
    """Whether a column is of texts, and many are the same among the first."""
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
