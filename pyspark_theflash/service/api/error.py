"""Errors as messages: a caller receives an error of the same class and text as the server's."""

import json
import logging

from pyspark_theflash.base.errors import (
    InternalError,
    ServiceRefusedError,
    ServiceUnavailableError,
    TheFlashError,
    rebuilt,
)
from pyspark_theflash.service.wire.message import Error
from pyspark_theflash.tidb.codec.document import SHAPE_ERRORS, load

_log = logging.getLogger(__name__)
_TEXT_CHARS = 2000


def encode_error(error: Exception) -> Error:
    """Convert an error to a message.

    An error that is not a `TheFlashError` is a bug: it is logged, and the message has its class
    only, because its text may contain data.
    """
    if not isinstance(error, TheFlashError):
        _log.error("unexpected: %s", type(error).__name__, exc_info=error)
        error = InternalError(f"the server failed with {type(error).__name__}")
    arguments = json.dumps(error.args)
    return Error(type(error).__name__, str(error)[:_TEXT_CHARS], arguments, error.retryable)


def decode_error(error: Error, address: str) -> TheFlashError:
    """Convert a message of the server at `address` to an error.

    If its class is unknown here, returns a `ServiceUnavailableError` or `ServiceRefusedError` with
    its text.
    """
    try:
        rebuilt_error = rebuilt(error.name, load(error.arguments))
        if rebuilt_error is not None:
            return rebuilt_error
    except SHAPE_ERRORS:
        pass
    kind = ServiceUnavailableError if error.retryable else ServiceRefusedError
    return kind(address, f"{error.name[:80]}: {error.text[:_TEXT_CHARS]}")
