"""Named points at which tests inject failures.

Each durable step calls `fail_point("area.step")`. Outside tests nothing is armed, so a call costs
one check of an empty dictionary.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

EVERY_POINT: Final = "*"
"""The name to arm at all points that have no action of their own."""
_armed: dict[str, Callable[[], None]] = {}


def fail_point(name: str) -> None:
    """Run the action that a test has armed under this name, if any."""
    if _armed and (action := _armed.get(name) or _armed.get(EVERY_POINT)) is not None:
        action()


@contextmanager
def armed(name: str, action: Callable[[], None]) -> Iterator[None]:
    """Make `fail_point(name)` run `action`, which usually raises or exits, within the block."""
    _armed[name] = action
    try:
        yield
    finally:
        del _armed[name]
