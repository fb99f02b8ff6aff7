"""Tables of a request that may be too large for memory."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pyarrow as pa

from pyspark_theflash.replication.pairing.spill import Spill, SpilledPayload

MEMORY_BYTES: Final = 32 << 20


class SpilledTables:
    """Tables that can be iterated several times; those above `MEMORY_BYTES` are in a file."""

    def __init__(self, folder: Path | None) -> None:
        """`folder` is for the temporary file; None is the system's."""
        self._spill = Spill(folder)
        self._tables: list[pa.Table | SpilledPayload] = []
        self._size_bytes = 0

    def add(self, table: pa.Table) -> None:
        """Append a table. Raises `StoreFullError`, `EngineError`: the file cannot be written."""
        if self._size_bytes + table.nbytes <= MEMORY_BYTES:
            self._size_bytes += table.nbytes
            self._tables.append(table)
            return
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        self._tables.append(self._spill.put(sink.getvalue().to_pybytes()))

    def __iter__(self) -> Iterator[pa.Table]:
        """Yield the tables. Raises `CorruptionError`, `EngineError`: the file cannot be read."""
        for each in self._tables:
            if isinstance(each, SpilledPayload):
                yield pa.ipc.open_stream(each.read()).read_all()
            else:
                yield each
