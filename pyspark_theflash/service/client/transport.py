"""How calls get to a service: not at all, for one in this process; `remote.py` has the others."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import pyarrow as pa

from pyspark_theflash.base.clock import Clock
from pyspark_theflash.base.fs import FileSystem
from pyspark_theflash.service.api.call import CallContext
from pyspark_theflash.service.api.service import Service
from pyspark_theflash.service.client.rows import Rows
from pyspark_theflash.service.wire.message import ScanRequest, WriteRequest, Written
from pyspark_theflash.service.wire.method import SCAN, WRITE, Method


class Transport(Protocol):
    """A way to one service. Used by many threads."""

    def call(self, method: Method, request: Any, timeout_ms: int) -> Any:  # noqa: ANN401
        """The answer to a call: a `method.response` for a `method.request`.

        Raises:
            TheFlashError: what the call failed with, of the same class whatever the way.
        """

    def scan(self, request: ScanRequest, timeout_ms: int) -> Rows:
        """The rows of a split; fails likewise, also while they are taken."""

    def write(self, request: WriteRequest, tables: Sequence[pa.Table], timeout_ms: int) -> Written:
        """A write with the rows of each of the request's tables."""

    def close(self) -> None:
        """End all connections."""


class FramedTransport(Protocol):
    """A way that carries all calls, those of a stream's writer, too."""

    def call(self, method: Method, request: Any, timeout_ms: int) -> Any: ...  # noqa: ANN401

    def scan(
        self,
        request: Any,  # noqa: ANN401
        timeout_ms: int,
        called: Method = SCAN,
    ) -> Rows: ...

    def write(
        self,
        request: Any,  # noqa: ANN401
        tables: Sequence[pa.Table],
        timeout_ms: int,
        called: Method = WRITE,
    ) -> Any: ...  # noqa: ANN401

    def close(self) -> None: ...


_SPARE_KEY: Final = bytes(32)
"""Seals tickets of stores without a key file, which any process that reads the folder may use."""


class LocalTransport:
    """To a service in this process."""

    def __init__(self, path: Path, *, fs: FileSystem, clock: Clock) -> None:
        """Raises `StoreNotFoundError`."""
        self._service = Service(path, fs=fs, clock=clock, spare_key=_SPARE_KEY)
        self._clock = clock

    def call(self, method: Method, request: Any, timeout_ms: int) -> Any:  # noqa: ANN401
        call = CallContext(method.name, timeout_ms, self._clock)
        return getattr(self._service, method.attribute)(request, call)

    def scan(self, request: Any, timeout_ms: int, called: Method = SCAN) -> Rows:  # noqa: ANN401
        call = CallContext(called.name, timeout_ms, self._clock)
        rows = getattr(self._service, called.attribute)(request, call)
        return Rows(rows.schema, rows.batches, rows.batches.close)

    def write(
        self,
        request: Any,  # noqa: ANN401
        tables: Sequence[pa.Table],
        timeout_ms: int,
        called: Method = WRITE,
    ) -> Any:  # noqa: ANN401
        # Brings in what only writes need.
        from pyspark_theflash.service.api.write import check_size

        check_size(sum(table.nbytes for table in tables), called)
        call = CallContext(called.name, timeout_ms, self._clock)
        return getattr(self._service, called.attribute)(request, call, tables)

    def close(self) -> None:
        self._service.close()
