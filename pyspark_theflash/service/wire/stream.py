"""Encode record batches as Arrow IPC streams, for both sides of a connection."""

from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa

from pyspark_theflash.service.wire.frame import End


class StreamEncoder:
    """Encode batches without copying their buffers, and count what was encoded.

    Also the file that Arrow writes to.
    """

    closed = False

    def __init__(self) -> None:
        self._parts: list[memoryview] = []
        self._batches = self._rows = self._size_bytes = 0

    def encode(
        self, schema: pa.Schema, batches: Iterable[pa.RecordBatch]
    ) -> Iterator[list[memoryview]]:
        """Encode one IPC stream; yields the parts of each batch and of the stream's end."""
        with pa.ipc.new_stream(pa.PythonFile(self, mode="w"), schema) as writer:
            for batch in batches:
                writer.write_batch(batch)
                self._batches, self._rows = self._batches + 1, self._rows + batch.num_rows
                yield self._take()
        yield self._take()

    def end(self) -> End:
        """Return the counts of all streams so far."""
        return End(self._batches, self._rows, self._size_bytes)

    def write(self, data: Any) -> int:  # noqa: ANN401 (bytes or an Arrow buffer)
        """Keep a reference to what Arrow writes."""
        view = memoryview(data).cast("B")
        if len(view):
            self._parts.append(view)
        self._size_bytes += len(view)
        return len(view)

    def flush(self) -> None:
        """Do nothing: nothing is buffered."""

    def close(self) -> None:
        """Do nothing: the parts are still to be sent."""

    def _take(self) -> list[memoryview]:
        parts, self._parts = self._parts, []
        return parts
