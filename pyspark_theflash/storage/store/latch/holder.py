"""The identity of a holder: one run of one process, told apart from every other.

A process id alone says little: it is given out again, and means another process in another
container. So a holder also names the machine's run, the container's process table and the moment
its process started (Linux counts it in clock ticks since the machine's start); only where the first
two are our own can a holder be *proved* gone. Everywhere else time must tell.
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
"""Linux's letters for a process that has ended and was not reaped yet."""


@dataclass(frozen=True, slots=True)
class Holder:
    """A process. `started` and `namespace` are "" where the system does not tell."""

    pid: int
    started: str
    namespace: str
    boot_id: str
    host: str
    program: str

    @classmethod
    def here(cls, clock: Clock) -> "Holder":
        """This process."""
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
        """Inverse of `dataclasses.astuple`. Raises one of `SHAPE_ERRORS` on anything else."""
        pid, *others = fields
        return cls(int64(pid), *map(text, others))

    def is_gone(self, clock: Clock) -> bool:
        """Whether the process has provably ended; False where this machine cannot tell."""
        if not (self.started and self.namespace):
            return False
        if (self.boot_id, self.namespace) != (clock.boot_id(), _namespace()):
            return False
        state, started = _state_and_start(self.pid)
        return started != self.started or state in _DEAD_STATES

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} ({self.program})"


def _namespace() -> str:
    """Names the table that process ids are looked up in."""
    try:
        return os.readlink(_PROC / "self/ns/pid")
    except OSError:
        return ""


def _state_and_start(pid: int) -> tuple[str, str]:
    """A process's state and start; ("", "") if there is none."""
    try:
        text = (_PROC / str(pid) / "stat").read_text("ascii", "replace")
    except OSError:
        return "", ""
    # The second field is the program's name in parentheses, which may hold any character.
    fields = text.rpartition(")")[2].split()
    return fields[0], fields[19]


def _program(argv: list[str]) -> str:
    """`theflash gc`: the program and its command; further arguments are nobody's business."""
    return " ".join([Path(argv[0]).name, *(word for word in argv[1:2] if word.isalpha())])
