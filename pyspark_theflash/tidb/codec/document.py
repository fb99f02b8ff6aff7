"""Parsing of JSON documents that may not have the expected structure.

Code that reads a malformed document raises different exceptions: for a missing key, a list in place
of a number, `Infinity` as a table id, or too deeply nested brackets. `SHAPE_ERRORS` lists them; all
of them mean that the document is invalid. The functions here raise them too, so that a wrong type
is detected when the document is read and not when the value is used.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from pyspark_theflash.base.errors import CodecError

SHAPE_ERRORS: Final = (
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
_EXCERPT: Final = 200
_decode: Final = json.JSONDecoder().decode


def brief(error: Exception) -> str:
    """Format an error in one line. Its `repr` may contain the whole document."""
    return f"{type(error).__name__}: {str(error)[:_EXCERPT]}"


@contextmanager
def shaped(layer: str) -> Iterator[None]:
    """Context manager for parsing a document; converts `SHAPE_ERRORS` to `CodecError`."""
    try:
        yield
    except SHAPE_ERRORS as error:
        raise CodecError(layer, brief(error)) from error


def load(body: bytes | str) -> Any:  # noqa: ANN401 (JSON)
    """Parse JSON text; bytes must be UTF-8. Raises one of `SHAPE_ERRORS`."""
    # `json.loads` would also detect UTF-16 and UTF-32 in bytes.
    return _decode(body.decode() if isinstance(body, bytes) else body)


def int64(value: object) -> int:
    """Check that a value is a signed 64-bit integer, and return it."""
    return _integer(value, -(1 << 63), (1 << 63) - 1)


def uint64(value: object) -> int:
    """Check that a value is an unsigned 64-bit integer, and return it."""
    return _integer(value, 0, (1 << 64) - 1)


def _integer(value: object, low: int, high: int) -> int:
    # `type` excludes bool, a subclass of int, with one test: this function is called often.
    if type(value) is not int:
        raise TypeError(f"{type(value).__name__} instead of an integer")
    if not low <= value <= high:
        raise ValueError("integer out of range")
    return value


def boolean(value: object) -> bool:
    """Check that a value is `True` or `False`, and return it."""
    if not isinstance(value, bool):
        raise TypeError(f"{type(value).__name__} instead of a boolean")
    return value


def text(value: object) -> str:
    """Check that a value is a string that UTF-8 can encode, and return it."""
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} instead of a string")
    if not value.isascii():
        value.encode()
    return value


def texts(value: object) -> tuple[str, ...]:
    """Check that a value is a list of strings or null, and return it; null is an empty list."""
    return tuple(text(each) for each in items(value))


def items(value: object) -> list[Any]:
    """Check that a value is a list or null, and return it; null is an empty list."""
    if value is None:
        return []
    if not isinstance(value, list | tuple):
        raise TypeError(f"{type(value).__name__} instead of a list")
    return list(value)
