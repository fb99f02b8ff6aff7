"""Identity of the process that holds a latch or lock.

A process id is not unique: it is reused, and means another process in another container. So a
holder also has the boot id, the PID namespace and the start time of the process (in Linux, clock
ticks since boot). Only a process with the same boot id and namespace as ours can be checked for
having ended; others are considered alive until their latches expire.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pyspark_theflash.base.clock import Clock
from pyspark_theflash.tidb.codec.document import int64, text

_PROC: Final = Path("/proc")
_DEAD_STATES: Final = frozenset("ZX")
"""Linux's state letters of a process that has ended but was not reaped yet."""


@dataclass(frozen=True, slots=True)
class Holder:
    """Identity of a process. `started` and `namespace` are "" if the system has no /proc."""

    pid: int
    started: str
    namespace: str
    boot_id: str
    host: str
    program: str

    @classmethod
    def here(cls, clock: Clock) -> "Holder":
        """Return the identity of this process."""
        pid = os.getpid()
        return cls(
            pid,
            _state_and_start(pid)[1],
            _namespace(),
            clock.boot_id(),
            os.uname().nodename,
            _program(sys.argv),
        )

    @classmethod
    def from_fields(cls, fields: Sequence[object]) -> "Holder":
        """Inverse of `dataclasses.astuple`. Raises one of `SHAPE_ERRORS`."""
        pid, *others = fields
        return cls(int64(pid), *map(text, others))

    def is_of_this_host(self, clock: Clock) -> bool:
        """Return whether the process runs, or ran before a restart, on this host."""
        return self.boot_id == clock.boot_id() or self.host == os.uname().nodename

    def is_gone(self, clock: Clock) -> bool:
        """Return whether the process has certainly ended; False if this cannot be determined."""
        if not (self.started and self.namespace):
            return False
        if (self.boot_id, self.namespace) != (clock.boot_id(), _namespace()):
            return False
        state, started = _state_and_start(self.pid)
        return started != self.started or state in _DEAD_STATES

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} ({self.program})"


def _namespace() -> str:
    """Return the id of this process's PID namespace."""
    try:
        return os.readlink(_PROC / "self/ns/pid")
    except OSError:
        return ""


def _state_and_start(pid: int) -> tuple[str, str]:
    """Return a process's state and start time; ("", "") if there is no such process."""
    try:
        text = (_PROC / str(pid) / "stat").read_text("ascii", "replace")
    except OSError:
        return "", ""
    # The second field is the program's name in parentheses, which may contain any character.
    fields = text.rpartition(")")[2].split()
    return fields[0], fields[19]


def _program(argv: list[str]) -> str:
    """Return the program and its command (`theflash gc`); arguments may be confidential."""
    return " ".join([Path(argv[0]).name, *(word for word in argv[1:2] if word.isalpha())])
