"""Named places at which a test can make the program fail.

Each durable step calls `fail_point("area.step")`. Nothing is armed outside tests, so a call costs
one look at an empty dictionary.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

_armed: dict[str, Callable[[], None]] = {}


def fail_point(name: str) -> None:
    """Run what a test has armed under this name, if anything."""
    if _armed and (action := _armed.get(name)) is not None:
        action()


@contextmanager
def armed(name: str, action: Callable[[], None]) -> Iterator[None]:
    """Within the block, `fail_point(name)` runs `action` (which usually raises or exits)."""
    _armed[name] = action
    try:
        yield
    finally:
        del _armed[name]
