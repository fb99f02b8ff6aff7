"""Errors on their way to whoever called: the same class and text there as here."""

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


def told_error(error: Exception) -> Error:
    """What the caller is told. Of what is not one of our errors, only its class: a bug of ours."""
    if not isinstance(error, TheFlashError):
        _log.error("unexpected: %s", type(error).__name__, exc_info=error)
        error = InternalError(f"the server failed with {type(error).__name__}")
    arguments = json.dumps(error.args)
    return Error(type(error).__name__, str(error)[:_TEXT_CHARS], arguments, error.retryable)


def heard_error(told: Error, address: str) -> TheFlashError:
    """The error that the server at `address` told, or one with its text if it is not known here."""
    try:
        error = rebuilt(told.name, load(told.arguments))
        if error is not None:
            return error
    except SHAPE_ERRORS:
        pass
    kind = ServiceUnavailableError if told.retryable else ServiceRefusedError
    return kind(address, f"{told.name[:80]}: {told.text[:_TEXT_CHARS]}")
