"""Transports of calls to a service. `remote.py` has those over a socket."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias

import pyarrow as pa

from pyspark_theflash.base.clock import Clock, SystemClock
from pyspark_theflash.base.errors import OptionError
from pyspark_theflash.base.fs import FileSystem, LocalFileSystem
from pyspark_theflash.base.tls import TlsFiles, TlsMaterial
from pyspark_theflash.net.address import SCHEME, is_address
from pyspark_theflash.service.api.call import CallContext
from pyspark_theflash.service.api.limits import Limits
from pyspark_theflash.service.api.service import Service
from pyspark_theflash.service.api.token import AccessToken
from pyspark_theflash.service.client.rows import Rows
from pyspark_theflash.service.wire.method import Method

Tables: TypeAlias = Iterable[pa.Table] | None
"""The rows of each of a request's tables, iterated several times; None for calls without rows."""


class Transport(Protocol):
    """A connection to a service, in process or over a network. Thread-safe.

    A failed call raises the same class of `TheFlashError` over every transport.
    """

    def call(self, called: Method, request: object, timeout_ms: int, tables: Tables = None) -> Any:  # noqa: ANN401
        """Make a call: send a `called.request` and the rows that it takes, return the response."""

    def scan(self, called: Method, request: object, timeout_ms: int) -> Rows:
        """Make a call that returns rows. Iterating over them raises the same errors."""

    def close(self) -> None:
        """Close all connections."""


_SPARE_KEY: Final = bytes(32)
"""Seals tickets of stores without a key file. Processes that can read the folder share it."""


class LocalTransport:
    """A transport to a service in this process."""

    def __init__(
        self, path: Path, *, fs: FileSystem, clock: Clock, limits: Limits | None = None
    ) -> None:
        """Raises `StoreNotFoundError`."""
        self._service = Service(path, fs=fs, clock=clock, spare_key=_SPARE_KEY, limits=limits)
        self._clock, self._path = clock, path

    def __str__(self) -> str:
        return str(self._path)

    def call(self, called: Method, request: object, timeout_ms: int, tables: Tables = None) -> Any:  # noqa: ANN401
        if tables is not None:
            # Imports modules that only writes need.
            from pyspark_theflash.service.api.write import check_size

            tables = list(tables)
            check_size(sum(table.nbytes for table in tables), called)
        call = CallContext(called.name, timeout_ms, self._clock)
        return self._service.answer(called, request, call, tables)

    def scan(self, called: Method, request: object, timeout_ms: int) -> Rows:
        rows = self.call(called, request, timeout_ms)
        return Rows(rows.schema, rows.batches, rows.batches.close)

    def close(self) -> None:
        self._service.close()


def transport_to(
    where: str | os.PathLike[str],
    *,
    token: AccessToken | str | None = None,
    tls: TlsFiles | TlsMaterial | None = None,
    fs: FileSystem | None = None,
    clock: Clock | None = None,
    limits: Sequence[str] = (),
) -> Transport:
    """Return the transport to a store; see `service.client.theflash.connect`."""
    if isinstance(token, str):
        token = AccessToken(token)
    clock, place = clock or SystemClock(), os.fspath(where)
    if isinstance(where, str) and is_address(place):
        # Imports modules that only connections need.
        from pyspark_theflash.service.client.remote import RemoteTransport

        if limits:
            raise OptionError("limits", "are for folders; those of a server are its own")
        return RemoteTransport(place.removeprefix(SCHEME), clock=clock, token=token, tls=tls)
    if token is not None or tls is not None:
        raise OptionError("token", "tokens and certificates are for servers, not for folders")
    chosen = Limits().with_changes(limits)
    return LocalTransport(Path(place), fs=fs or LocalFileSystem(), clock=clock, limits=chosen)
