"""What the C functions do, on Python's side: texts in, texts and Arrow streams out.

A store that is open is a number, so that one which is closed, or never was, is told and not
followed to wherever it points.
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
    """The stores that are open, by number. Used by many threads."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._numbers = itertools.count(1)
        self._open: dict[int, TheFlash] = {}

    def open(self, where: str, options: str) -> int:
        """Open a store; see `theflash_open`.

        Raises:
            OptionError: the address or the options do not fit.
            StoreNotFoundError: there is no store in the folder.
        """
        given = _options(options)
        ca, cert, key = (_path(given, name) for name in _OPTIONS[1:])
        if ca is None and (cert is not None or key is not None):
            raise OptionError("tls_ca", "is wanted with tls_cert and tls_key")
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
        """Make a call; its answer.

        Raises:
            UnknownMethodError, CodecError: the call or its request is none.
            OptionError: it answers with rows.
            TheFlashError: what the call fails with.
        """
        called = method(name)
        if called is SCAN:
            raise OptionError("method", "Scan answers with rows: theflash_scan has them")
        asked: Any = decode(called.request, (request or "{}").encode(), as_json=True)
        answer = self._store(number).call(called, asked, timeout_ms)
        return encode(answer, as_json=True).decode()

    def scan(self, number: int, ticket: str, *, dictionaries: bool) -> pa.RecordBatchReader:
        """The rows of a split. Raises what `TheFlash.scan` does."""
        try:
            sealed = base64.b64decode(ticket, validate=True)
        except (binascii.Error, ValueError) as error:
            raise CodecError("ticket", "not base64") from error
        rows = self._store(number).scan(sealed, dictionaries=dictionaries)
        return _stream(rows.schema, _closing(rows))

    def read(self, number: int, request: str) -> pa.RecordBatchReader:
        """All rows of a scan. Raises what `TheFlash.plan` does."""
        store = self._store(number)
        asked = decode(message.PlanRequest, (request or "{}").encode(), as_json=True)
        plan: message.Plan = store.call(_PLAN, asked, LONG_MS)
        schema = pa.ipc.read_schema(pa.py_buffer(plan.arrow_schema))
        is_ours = not asked.moment.handle
        return _stream(schema, _released(store, plan, is_ours=is_ours))

    def write(
        self,
        number: int,
        request: str,
        streams: Sequence[pa.RecordBatchReader],
        timeout_ms: int,
    ) -> str:
        """Write what the streams hand out; see `theflash_write`. Raises what `TheFlash.write` does.

        Raises:
            CodecError: the request is none, or a stream fails.
            OptionError: they are more rows than one write may have.
        """
        store = self._store(number)
        asked = decode(message.WriteRequest, request.encode(), as_json=True)
        written = store.write(asked, _tables(streams), timeout_ms=timeout_ms)
        return encode(written, as_json=True).decode()

    def close(self, number: int) -> None:
        """Close a store. Raises `OptionError`: it is not open."""
        store = self._store(number)
        with self._mutex:
            self._open.pop(number, None)
        store.close()

    def _store(self, number: int) -> TheFlash:
        with self._mutex:
            found = self._open.get(number)
        if found is None:
            raise OptionError("store", f"{number} is not open")
        return found


def _stream(schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> pa.RecordBatchReader:
    return pa.RecordBatchReader.from_batches(schema, _failing_in_words(batches))


def _failing_in_words(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Whoever reads a C stream gets the text of an error only."""
    try:
        yield from batches
    except TheFlashError as error:
        raise OSError(f"{type(error).__name__}: {error}") from None


def _closing(rows: Any) -> Iterator[pa.RecordBatch]:  # noqa: ANN401 (Rows)
    with rows:
        yield from rows


def _released(store: TheFlash, plan: message.Plan, *, is_ours: bool) -> Iterator[pa.RecordBatch]:
    """The rows; gives back the snapshot that was taken for them."""
    try:
        yield from store.read(plan)
    finally:
        if is_ours:
            store.release(plan.snapshot)


def _tables(streams: Sequence[pa.RecordBatchReader]) -> list[pa.Table]:
    """All that the streams hand out, as long as it is not too much."""
    tables, size_bytes = [], 0
    for stream in streams:
        batches: list[pa.RecordBatch] = []
        try:
            for batch in stream:
                size_bytes += batch.nbytes
                check_size(size_bytes)
                batches.append(batch)
        except (pa.ArrowException, OSError) as error:
            # What it says is the caller's own, and may have rows in it.
            raise CodecError("rows to write", f"a stream fails ({type(error).__name__})") from error
        tables.append(pa.Table.from_batches(batches, schema=stream.schema))
    return tables


def _options(text: str) -> dict[str, str]:
    try:
        given = load(text or "{}")
    except (ValueError, RecursionError):
        raise OptionError("options", "are no JSON") from None
    if not isinstance(given, dict) or not all(isinstance(v, str) for v in given.values()):
        raise OptionError("options", "are no JSON object of texts")
    for name in given:
        if name not in _OPTIONS:
            raise OptionError(name[:80], f"is none of {', '.join(_OPTIONS)}")
    return given


def _path(given: dict[str, str], name: str) -> Path | None:
    return Path(given[name]) if name in given else None
