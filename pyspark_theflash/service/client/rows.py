"""The rows of a split, as whoever asked for them takes them."""

from collections.abc import Callable, Iterator
from types import TracebackType

import pyarrow as pa


class Rows:
    """Batches of one `schema`, taken once; a context manager that gives up what was not taken.

    An iteration that comes to its end has handed out all rows; one that does not raises.
    """

    def __init__(
        self, schema: pa.Schema, batches: Iterator[pa.RecordBatch], close: Callable[[], None]
    ) -> None:
        self.schema, self._batches, self._close = schema, batches, close

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        return self._batches

    def read_all(self) -> pa.Table:
        """All that has not been taken yet, as a table."""
        return pa.Table.from_batches(self._batches, schema=self.schema)

    def close(self) -> None:
        """Give up the rest; harmless the second time."""
        self._close()

    def __enter__(self) -> "Rows":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
