"""Functions that `libtheflash.so` calls: conversion of C values and errors.

The library imports it; the library contains the module `_theflash`.
"""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Final

import pyarrow as pa
from _theflash import ffi, lib

from pyspark_theflash.base.errors import OptionError, TheFlashError
from pyspark_theflash.cli.capi.stores import OpenStores
from pyspark_theflash.cli.jobs.outcome import OTHER_FAILURE, exit_status, unexpected

_STORES: Final = OpenStores()


def _exported(function: Callable[..., None]) -> Callable[..., None]:
    """Export as the C function of the same name, which sets `status`."""

    def run(*arguments: Any) -> None:  # noqa: ANN401 (C's values)
        *inputs, status = arguments
        try:
            function(*inputs)
            status[0] = 0
        except TheFlashError as error:
            status[0] = _failed(error, exit_status(error))
        except Exception as error:  # noqa: BLE001 (C cannot be raised into)
            status[0] = _failed(unexpected(error), OTHER_FAILURE)

    exported: Callable[..., None] = ffi.def_extern(name=function.__name__)(run)
    return exported


@_exported
def py_open(where: Any, options: Any, store: Any) -> None:  # noqa: ANN401
    """See `theflash_open`."""
    store[0] = _STORES.open(_text(where, "where"), _text(options, "options", ""))


@_exported
def py_call(store: int, method: Any, request: Any, timeout_ms: int, answer: Any) -> None:  # noqa: ANN401
    """See `theflash_call`."""
    text = _STORES.call(store, _text(method, "method"), _text(request, "request", ""), timeout_ms)
    answer[0] = _copied(text)


@_exported
def py_scan(store: int, ticket: Any, dictionaries: int, rows: Any) -> None:  # noqa: ANN401
    """See `theflash_scan`."""
    reader = _STORES.scan(store, _text(ticket, "ticket"), dictionaries=bool(dictionaries))
    reader._export_to_c(int(ffi.cast("uintptr_t", rows)))


@_exported
def py_read(store: int, request: Any, rows: Any) -> None:  # noqa: ANN401
    """See `theflash_read`."""
    reader = _STORES.read(store, _text(request, "request"))
    reader._export_to_c(int(ffi.cast("uintptr_t", rows)))


@_exported
def py_write(
    store: int,
    request: Any,  # noqa: ANN401
    rows: Any,  # noqa: ANN401
    count: int,
    timeout_ms: int,
    written: Any,  # noqa: ANN401
) -> None:
    """See `theflash_write`."""
    streams = [
        pa.RecordBatchReader._import_from_c(int(ffi.cast("uintptr_t", rows + at)))
        for at in range(count)
    ]
    with ExitStack() as undo:
        for stream in streams:
            undo.enter_context(stream)
        text = _STORES.write(store, _text(request, "request"), streams, timeout_ms)
    written[0] = _copied(text)


@_exported
def py_close(store: int) -> None:
    """See `theflash_close`."""
    _STORES.close(store)


def _text(pointer: Any, name: str, default: str | None = None) -> str:  # noqa: ANN401
    """Return a C string's text, or the default for NULL."""
    if pointer == ffi.NULL:
        if default is None:
            raise OptionError(name, "is NULL")
        return default
    try:
        return str(ffi.string(pointer).decode())
    except UnicodeDecodeError:
        raise OptionError(name, "is not UTF-8") from None


def _copied(text: str) -> Any:  # noqa: ANN401 (C's)
    """Copy a text to memory that the C caller frees."""
    copied = lib.theflash_copy(text.encode())
    if copied == ffi.NULL:
        raise MemoryError
    return copied


def _failed(error: TheFlashError, status: int) -> int:
    """Store the error for `theflash_last_error` in this thread."""
    lib.theflash_fail(f"{type(error).__name__}: {error}".encode())
    return status
