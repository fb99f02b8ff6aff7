"""A buffer of commands in small batches, to decode them together.

Decoding a hundred requests takes about as long as decoding one, and the response to a command
contains only the durable state. So small batches of plain puts and deletes are buffered until there
are many of them, or until the applied state is read.
"""

from collections.abc import Sequence
from typing import Final

from pyspark_theflash.tikv.command import RaftCommand
from pyspark_theflash.tikv.request import are_plain

_REQUESTS_FEW: Final = 32
"""Larger batches are decoded immediately."""
_REQUESTS_MAX: Final = 512
_BYTES_MAX: Final = 1 << 20


class Waiting:
    """A buffer of commands. Not thread-safe."""

    def __init__(self) -> None:
        self._commands: list[RaftCommand] = []
        self._requests = 0
        self.size_bytes = 0
        """The approximate size in memory."""

    def __len__(self) -> int:
        return len(self._commands)

    def add(self, commands: Sequence[RaftCommand]) -> bool:
        """Append commands; return False if they must be applied now instead."""
        if self._requests > _REQUESTS_MAX or self.size_bytes > _BYTES_MAX:
            return False
        requests: list[bytes] = []
        for command in commands:
            if command.admin is not None or command.destroys:
                return False
            requests += command.requests
            if len(requests) > _REQUESTS_FEW:
                return False
        if not are_plain(requests):
            return False
        self._commands += commands
        self._requests += len(requests)
        self.size_bytes += sum(map(len, requests))
        return True

    def take(self) -> list[RaftCommand]:
        """Remove and return all commands, in their order."""
        commands, self._commands, self._requests, self.size_bytes = self._commands, [], 0, 0
        return commands
