"""Rows as an Arrow stream for other libraries.

`__arrow_c_stream__` is Arrow's PyCapsule interface: DuckDB, Polars, pyarrow and pandas (from
version 3) accept an object that has it as a table.

    duckdb.sql("SELECT count(*) FROM relation")     pa.table(relation)     pl.DataFrame(relation)

Source: https://arrow.apache.org/docs/format/CDataInterface/PyCapsuleInterface.html
"""

from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa


class Relation:
    """Rows of one schema that can be read repeatedly; reading starts on demand."""

    def __init__(self, schema: pa.Schema, start: Callable[[], Iterator[pa.RecordBatch]]) -> None:
        """Create the relation. `start` begins a read: batches of `schema`, in order."""
        self._schema, self._start = schema, start

    @property
    def schema(self) -> pa.Schema:
        """The columns."""
        return self._schema

    def to_reader(self) -> pa.RecordBatchReader:
        """Return a reader of the rows, which are read as it is consumed. Errors keep their type."""
        return pa.RecordBatchReader.from_batches(self._schema, self._start())

    def __arrow_c_schema__(self) -> Any:  # noqa: ANN401 (a PyCapsule)
        return self._schema.__arrow_c_schema__()

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:  # noqa: ANN401 (PyCapsules)
        """Export the rows as a C stream, which passes on only the text of errors."""
        return self.to_reader().__arrow_c_stream__(requested_schema)
