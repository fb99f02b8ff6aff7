"""Transports of calls to a service. `remote.py` has those over a socket."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import pyarrow as pa

from pyspark_theflash.base.clock import Clock
from pyspark_theflash.base.fs import FileSystem
from pyspark_theflash.service.api.call import CallContext
from pyspark_theflash.service.api.service import Service
from pyspark_theflash.service.client.rows import Rows
from pyspark_theflash.service.wire.method import Method


class Transport(Protocol):
    """A connection to a service, in process or over a network. Thread-safe.

    A failed call raises the same class of `TheFlashError` over every transport.
    """

    def call(self, called: Method, request: Any, timeout_ms: int) -> Any:  # noqa: ANN401
        """Make a call without rows: send a `called.request`, return a `called.response`."""

    def scan(self, called: Method, request: Any, timeout_ms: int) -> Rows:  # noqa: ANN401
        """Make a call that returns rows. Iterating over them raises the same errors."""

    def write(
        self,
        called: Method,
        request: Any,  # noqa: ANN401
        tables: Sequence[pa.Table],
        timeout_ms: int,
    ) -> Any:  # noqa: ANN401
        """Make a call with the rows of each of the request's tables."""

    def close(self) -> None:
        """Close all connections."""


_SPARE_KEY: Final = bytes(32)
"""Seals tickets of stores without a key file. Processes that can read the folder share it."""


class LocalTransport:
    """A transport to a service in this process."""

    def __init__(self, path: Path, *, fs: FileSystem, clock: Clock) -> None:
        """Raises `StoreNotFoundError`."""
        self._service = Service(path, fs=fs, clock=clock, spare_key=_SPARE_KEY)
        self._clock = clock

    def call(self, called: Method, request: Any, timeout_ms: int) -> Any:  # noqa: ANN401
        call = CallContext(called.name, timeout_ms, self._clock)
        return self._service.answer(called, request, call)

    def scan(self, called: Method, request: Any, timeout_ms: int) -> Rows:  # noqa: ANN401
        rows = self.call(called, request, timeout_ms)
        return Rows(rows.schema, rows.batches, rows.batches.close)

    def write(
        self,
        called: Method,
        request: Any,  # noqa: ANN401
        tables: Sequence[pa.Table],
        timeout_ms: int,
    ) -> Any:  # noqa: ANN401
        # Imports modules that only writes need.
        from pyspark_theflash.service.api.write import check_size

        check_size(sum(table.nbytes for table in tables), called)
        call = CallContext(called.name, timeout_ms, self._clock)
        return self._service.answer(called, request, call, tables)

    def close(self) -> None:
        self._service.close()
