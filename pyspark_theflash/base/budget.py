"""Memory and time that one request may use."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pyspark_theflash.base.errors import SqlMemoryError

REQUEST_BYTES: Final = 256 << 20


def _unlimited() -> None:
    """Let the request continue."""


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits of one request.

    Attributes:
        memory_bytes: For the values that it computes and retains, besides the rows as read.
        check: Called at short intervals; raises if the request should end.
    """

    memory_bytes: int = REQUEST_BYTES
    check: Callable[[], None] = _unlimited

    @property
    def step_bytes(self) -> int:
        """Memory for one step of a computation; the size of steps is chosen accordingly."""
        return self.memory_bytes // 4

    def exceeded(self) -> SqlMemoryError:
        """Return the error of a request that needs more memory."""
        return SqlMemoryError(self.memory_bytes >> 20)


DEFAULT_BUDGET: Final = Budget()
"""The default memory, without a deadline."""
