"""Rows that anything that speaks Arrow can read.

`__arrow_c_stream__` is Arrow's PyCapsule interface: DuckDB, Polars, pyarrow and, from version 3 on,
pandas take an object that has it for a table.

    duckdb.sql("SELECT count(*) FROM relation")     pa.table(relation)     pl.DataFrame(relation)

Source: https://arrow.apache.org/docs/format/CDataInterface/PyCapsuleInterface.html
"""

from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa


class Relation:
    """Rows of one schema that can be read any number of times; nothing is read before that."""

    def __init__(self, schema: pa.Schema, start: Callable[[], Iterator[pa.RecordBatch]]) -> None:
        """`start` begins to read: batches of `schema`, in order."""
        self._schema, self._start = schema, start

    @property
    def schema(self) -> pa.Schema:
        """The columns."""
        return self._schema

    def to_reader(self) -> pa.RecordBatchReader:
        """The rows, read as they are taken. Errors come as they are raised."""
        return pa.RecordBatchReader.from_batches(self._schema, self._start())

    def __arrow_c_schema__(self) -> Any:  # noqa: ANN401 (a PyCapsule)
        return self._schema.__arrow_c_schema__()

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:  # noqa: ANN401 (PyCapsules)
        """The rows for a reader in C, to which an error comes as its text."""
        return self.to_reader().__arrow_c_stream__(requested_schema)
