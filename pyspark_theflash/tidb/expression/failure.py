"""Why an expression is not evaluated, before it is known where it stands.

`evaluate` makes `UnsupportedError` and `UnrepresentableValueError` of these.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

_in_condition: Final = ContextVar("in_condition", default=False)


@contextmanager
def in_condition() -> Iterator[None]:
    """Evaluate a WHERE, which TiDB and TiKV may each do, and not a column that TiDB computes."""
    token = _in_condition.set(True)
    try:
        yield
    finally:
        _in_condition.reset(token)


def refuse_in_condition(what: str) -> None:
    """Raise for a value that TiDB and TiKV take differently.

    Raises:
        LackingError: a WHERE is evaluated.
    """
    if _in_condition.get():
        raise LackingError(f"{what}, which TiDB and TiKV take differently,")


class LackingError(Exception):
    """Something that is not evaluated here; its text names it, never a value."""


class OutOfRangeError(Exception):
    """A result that TiDB refuses too, an integer overflow for one; its text names the type."""
