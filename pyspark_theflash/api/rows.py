"""Rows as they are handed out: their schema, and which texts travel as dictionaries."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from pyspark_theflash.codec.array import nulls
from pyspark_theflash.codec.arrow import arrow_type
from pyspark_theflash.planner.present import Presentation
from pyspark_theflash.schema.model import ColumnInfo

FEW: Final = 8
"""A text has few values where a batch has this many times as many rows as values."""
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


def with_dictionaries(rows: RowStream) -> RowStream:
    """The same rows, texts with few different values in the first batch as dictionaries.

    Raises what taking the first batch raises.
    """
    first = next(rows.batches, None)
    if first is None:
        return rows
    few = [_encoded(column) is not None for column in first.columns]
    if not any(few):
        return RowStream(rows.schema, _chained(first, rows.batches))
    fields = [
        field.with_type(_INDEXED) if is_few else field
        for field, is_few in zip(rows.schema, few, strict=True)
    ]
    schema = pa.schema(fields)
    return RowStream(schema, _all_encoded(_chained(first, rows.batches), schema))


def _encoded(column: "pa.Array[Any]") -> "pa.Array[Any] | None":
    """A column of few texts as a dictionary; None for any other."""
    if not pa.types.is_string(column.type) or not len(column):
        return None
    encoded = pc.dictionary_encode(column)
    return encoded if len(encoded.dictionary) * FEW <= len(column) else None


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
