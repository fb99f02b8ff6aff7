"""Other processes and their open files, as reported by the system."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from pyspark_theflash.base.clock import SystemClock

CLOCK = SystemClock()
_PROC = Path("/proc")


def wait_until(condition: Callable[[], object], timeout_ms: int = 10_000) -> None:
    """Until something is so; fails if it does not come to that."""
    deadline_ms = CLOCK.boottime_ms() + timeout_ms
    while not condition():
        assert CLOCK.boottime_ms() < deadline_ms
        CLOCK.sleep_ms(20)


def command_line(pid: int) -> list[str]:
    """The words that a process was started with; none if it is no more."""
    with suppress(OSError):
        return (_PROC / str(pid) / "cmdline").read_text().split("\0")
    return []


def engines(store: Path) -> list[int]:
    """The processes that serve a store."""
    found = []
    for pid in _pids():
        words = command_line(pid)
        if "serve" in words and str(store.resolve()) in words:
            found.append(pid)
    return found


def children(pid: int) -> list[int]:
    """The processes that a process has started, and that have not ended."""
    return [child for child in _pids() if _stat(child)[1:2] == [str(pid)]]


def descendants(pid: int) -> list[int]:
    """Its children, theirs, and so on."""
    found = children(pid)
    for child in found:
        found += children(child)
    return found


def is_stopped(pid: int) -> bool:
    """Whether a process was sent SIGSTOP and rests."""
    return _stat(pid)[:1] == ["T"]


def is_alive(pid: int) -> bool:
    """Whether a process has not ended, waited for or not."""
    return _stat(pid)[:1] not in ([], ["Z"])


def open_files(pid: int) -> int:
    """Return the number of open files and sockets of a process."""
    return len(os.listdir(_PROC / str(pid) / "fd"))


def _pids() -> list[int]:
    return [int(entry.name) for entry in _PROC.glob("[0-9]*")]


def _stat(pid: int) -> list[str]:
    """State, parent and so on; nothing of a process that is no more."""
    with suppress(OSError):
        return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    return []
