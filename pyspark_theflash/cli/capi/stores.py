"""Python side of the C functions: text in, text and Arrow streams out.

Open stores are numbers, so that a closed or invalid one is an error and not a dangling pointer.
"""

import base64
import binascii
import itertools
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from pyspark_theflash.base.errors import CodecError, OptionError, TheFlashError
from pyspark_theflash.base.tls import TlsFiles
from pyspark_theflash.service.api.token import AccessToken
from pyspark_theflash.service.api.write import check_size
from pyspark_theflash.service.client.theflash import LONG_MS, TheFlash, connect
from pyspark_theflash.service.wire import message
from pyspark_theflash.service.wire.method import METHODS, SCAN, method
from pyspark_theflash.service.wire.protobuf import decode, encode
from pyspark_theflash.tidb.codec.document import load

_OPTIONS: Final = ("token_file", "tls_ca", "tls_cert", "tls_key")
_PLAN: Final = METHODS["PlanScan"]


class OpenStores:
    """Open stores by number. Thread-safe."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._numbers = itertools.count(1)
        self._open: dict[int, TheFlash] = {}

    def open(self, where: str, options: str) -> int:
        """Open a store; see `theflash_open`.

        Raises:
            OptionError: The address or the options are invalid.
            StoreNotFoundError: There is no store in the folder.
        """
        given = _options(options)
        ca, cert, key = (_path(given, name) for name in _OPTIONS[1:])
        if ca is None and (cert is not None or key is not None):
            raise OptionError("tls_ca", "is needed with tls_cert and tls_key")
        file = _path(given, "token_file")
        opened = connect(
            where,
            token=None if file is None else AccessToken.from_file(file),
            tls=None if ca is None else TlsFiles(ca, cert, key),
        )
        with self._mutex:
            number = next(self._numbers)
            self._open[number] = opened
        return number

    def call(self, number: int, name: str, request: str, timeout_ms: int) -> str:
        """Make a call; return its answer.

        Raises:
            UnknownMethodError, CodecError: The method or its request is invalid.
            OptionError: The method returns rows.
            TheFlashError: The call fails.
        """
        called = method(name)
        if called is SCAN:
            raise OptionError("method", "Scan returns rows: use theflash_scan")
        decoded: Any = decode(called.request, (request or "{}").encode(), as_json=True)
        answer = self._store(number).call(called, decoded, timeout_ms)
        return encode(answer, as_json=True).decode()

    def scan(self, number: int, ticket: str, *, dictionaries: bool) -> pa.RecordBatchReader:
        """Return the rows of a split. Raises like `TheFlash.scan`."""
        try:
            sealed = base64.b64decode(ticket, validate=True)
        except (binascii.Error, ValueError) as error:
            raise CodecError("ticket", "not base64") from error
        rows = self._store(number).scan(sealed, dictionaries=dictionaries)
        return _stream(rows.schema, _closing(rows))

    def read(self, number: int, request: str) -> pa.RecordBatchReader:
        """Return all rows of a scan. Raises like `TheFlash.plan`."""
        store = self._store(number)
        decoded = decode(message.PlanRequest, (request or "{}").encode(), as_json=True)
        plan: message.Plan = store.call(_PLAN, decoded, LONG_MS)
        schema = pa.ipc.read_schema(pa.py_buffer(plan.arrow_schema))
        owns_snapshot = not decoded.moment.handle
        return _stream(schema, _released(store, plan, owns_snapshot=owns_snapshot))

    def write(
        self,
        number: int,
        request: str,
        streams: Sequence[pa.RecordBatchReader],
        timeout_ms: int,
    ) -> str:
        """Write the rows of the streams; see `theflash_write`. Raises like `TheFlash.write`.

        Raises:
            CodecError: The request is invalid, or a stream fails.
            OptionError: There are more rows than one write may have.
        """
        store = self._store(number)
        decoded = decode(message.WriteRequest, request.encode(), as_json=True)
        written = store.write(decoded, _tables(streams), timeout_ms=timeout_ms)
        return encode(written, as_json=True).decode()

    def close(self, number: int) -> None:
        """Close a store. Raises `OptionError`: It is not open."""
        store = self._store(number)
        with self._mutex:
            self._open.pop(number, None)
        store.close()

    def _store(self, number: int) -> TheFlash:
        with self._mutex:
            store = self._open.get(number)
        if store is None:
            raise OptionError("store", f"{number} is not open")
        return store


def _stream(schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> pa.RecordBatchReader:
    return pa.RecordBatchReader.from_batches(schema, _failing_in_words(batches))


def _failing_in_words(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Convert errors to OSError with the name, because C streams pass on only the text."""
    try:
        yield from batches
    except TheFlashError as error:
        raise OSError(f"{type(error).__name__}: {error}") from None


def _closing(rows: Any) -> Iterator[pa.RecordBatch]:  # noqa: ANN401 (Rows)
    with rows:
        yield from rows


def _released(
    store: TheFlash, plan: message.Plan, *, owns_snapshot: bool
) -> Iterator[pa.RecordBatch]:
    """Yield the rows, then release the snapshot if it was created for them."""
    try:
        yield from store.read(plan)
    finally:
        if owns_snapshot:
            store.release(plan.snapshot)


def _tables(streams: Sequence[pa.RecordBatchReader]) -> list[pa.Table]:
    """Read the streams to tables, up to the size limit of a write."""
    tables, size_bytes = [], 0
    for stream in streams:
        batches: list[pa.RecordBatch] = []
        try:
            for batch in stream:
                size_bytes += batch.nbytes
                check_size(size_bytes)
                batches.append(batch)
        except (pa.ArrowException, OSError) as error:
            # Not included: the caller's message, which may contain values of rows.
            raise CodecError("rows to write", f"a stream fails ({type(error).__name__})") from error
        tables.append(pa.Table.from_batches(batches, schema=stream.schema))
    return tables


def _options(text: str) -> dict[str, str]:
    try:
        given = load(text or "{}")
    except (ValueError, RecursionError):
        raise OptionError("options", "are not JSON") from None
    if not isinstance(given, dict) or not all(isinstance(v, str) for v in given.values()):
        raise OptionError("options", "are not a JSON object of strings")
    for name in given:
        if name not in _OPTIONS:
            raise OptionError(name[:80], f"is not one of {', '.join(_OPTIONS)}")
    return given


def _path(given: dict[str, str], name: str) -> Path | None:
    return Path(given[name]) if name in given else None
