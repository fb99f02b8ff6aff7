"""The rows that a client receives."""

from collections.abc import Callable, Iterator

import pyarrow as pa


class Rows:
    """Record batches of one `schema`, which can be read once; a context manager.

    An iteration that ends without an error has returned all rows.
    """

    def __init__(
        self, schema: pa.Schema, batches: Iterator[pa.RecordBatch], close: Callable[[], None]
    ) -> None:
        self.schema, self._batches, self._close = schema, batches, close

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        return self._batches

    def read_all(self) -> pa.Table:
        """Return the remaining rows as a table."""
        return pa.Table.from_batches(self._batches, schema=self.schema)

    def close(self) -> None:
        """Discard the remaining rows; may be called again."""
        self._close()

    def __enter__(self) -> "Rows":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
