"""Internal errors of expressions, raised where the table and column are not available.

`evaluate` converts them to `UnsupportedError` and `UnrepresentableValueError`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

_in_condition: Final = ContextVar("in_condition", default=False)


@contextmanager
def in_condition() -> Iterator[None]:
    """Context of evaluating a WHERE condition, which TiDB or TiKV may evaluate."""
    token = _in_condition.set(True)
    try:
        yield
    finally:
        _in_condition.reset(token)


def reject_in_condition(what: str) -> None:
    """Reject a case that TiDB and TiKV evaluate differently, if it is in a WHERE condition.

    Raises:
        LackingError: A WHERE condition is being evaluated.
    """
    if _in_condition.get():
        raise LackingError(f"{what}, which TiDB and TiKV evaluate differently,")


class LackingError(Exception):
    """Unsupported operation; the message names the operation and never contains a value."""


class OutOfRangeError(Exception):
    """Result out of range, an error in TiDB as well; the message names the type."""
