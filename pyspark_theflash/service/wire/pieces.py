"""What Arrow writes into, for both sides of a connection."""

from typing import Any


class Pieces:
    """Takes what Arrow writes, as it is, to be sent without another copy."""

    closed = False

    def __init__(self) -> None:
        self._parts: list[memoryview] = []

    def write(self, data: Any) -> int:  # noqa: ANN401 (bytes or an Arrow buffer)
        view = memoryview(data).cast("B")
        if len(view):
            self._parts.append(view)
        return len(view)

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """What was written is still to be taken."""

    def taken(self) -> list[memoryview]:
        """What was written since the last time."""
        parts, self._parts = self._parts, []
        return parts
