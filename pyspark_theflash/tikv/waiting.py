"""Commands that come alone and wait to be decoded with others.

Decoding takes about as long for one request as for a hundred, and the answer to a command tells
what is durable, not what it says. So small batches of plain puts and deletes wait until there are
many of them, or until somebody asks for what is applied.
"""

from collections.abc import Sequence
from typing import Final

from pyspark_theflash.tikv.command import RaftCommand
from pyspark_theflash.tikv.request import are_plain

_REQUESTS_FEW: Final = 32
"""More are decoded at once."""
_REQUESTS_MAX: Final = 512
_BYTES_MAX: Final = 1 << 20


class Waiting:
    """See the module. Not thread-safe."""

    def __init__(self) -> None:
        self._commands: list[RaftCommand] = []
        self._requests = 0
        self.size_bytes = 0
        """The size in memory, about."""

    def __len__(self) -> int:
        return len(self._commands)

    def add(self, commands: Sequence[RaftCommand]) -> bool:
        """Keep some commands, behind those that wait; False where they should be applied now."""
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
        """All that wait, in the order they came, which do not any more."""
        taken, self._commands, self._requests, self.size_bytes = self._commands, [], 0, 0
        return taken
