"""Taking apart what others wrote: JSON whose shape is only hoped for.

A document that is not what it should be makes Python raise whatever the code that reads it meets
first: a missing key, a list where a number was, `Infinity` as a table id, brackets without end. All
of that is `SHAPE_ERRORS`, and means the same: the document is wrong. The functions here fail in
these ways too, so that a wrong type is found where the document is read and not where it is used.
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
    """An error in a line. Its `repr` may hold all of what could not be decoded."""
    return f"{type(error).__name__}: {str(error)[:_EXCERPT]}"


@contextmanager
def shaped(layer: str) -> Iterator[None]:
    """A block that takes a document apart; raises `CodecError` where that fails."""
    try:
        yield
    except SHAPE_ERRORS as error:
        raise CodecError(layer, brief(error)) from error


def load(body: bytes | str) -> Any:  # noqa: ANN401 (JSON)
    """The JSON of a text that must be Unicode. Raises one of `SHAPE_ERRORS`."""
    # Given bytes, `json` would look for UTF-16 and UTF-32 as well.
    return _decode(body.decode() if isinstance(body, bytes) else body)


def int64(value: object) -> int:
    """A whole number of 64 bits with a sign."""
    return _whole(value, -(1 << 63), (1 << 63) - 1)


def uint64(value: object) -> int:
    """A whole number of 64 bits without a sign."""
    return _whole(value, 0, (1 << 64) - 1)


def _whole(value: object, low: int, high: int) -> int:
    # A bool is an int, too, but not of that type; looked at once a value, since there are many.
    if type(value) is not int:
        raise TypeError(f"{type(value).__name__} where a whole number should be")
    if not low <= value <= high:
        raise ValueError("a number that is out of range")
    return value


def boolean(value: object) -> bool:
    """True or false, nothing that counts as one of them."""
    if not isinstance(value, bool):
        raise TypeError(f"{type(value).__name__} where true or false should be")
    return value


def text(value: object) -> str:
    """A text, of characters that UTF-8 can hold."""
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} where a text should be")
    if not value.isascii():
        value.encode()
    return value


def texts(value: object) -> tuple[str, ...]:
    """A list of texts; none for null."""
    return tuple(text(each) for each in items(value))


def items(value: object) -> list[Any]:
    """A list; an empty one for null."""
    if value is None:
        return []
    if not isinstance(value, list | tuple):
        raise TypeError(f"{type(value).__name__} where a list should be")
    return list(value)
