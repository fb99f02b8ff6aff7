"""Other processes and their open files, as reported by the system."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from pyspark_theflash.base.clock import SystemClock

CLOCK = SystemClock()
_PROC = Path("/proc")


def wait_until(condition: Callable[[], object], timeout_ms: int = 60_000) -> None:
    """Wait until a condition is true; fail after a time, which a loaded machine needs too."""
    deadline_ms = CLOCK.boottime_ms() + timeout_ms
    while not condition():
        assert CLOCK.boottime_ms() < deadline_ms
        CLOCK.sleep_ms(20)


def command_line(pid: int) -> list[str]:
    """Return the arguments of a process; none if it has ended."""
    with suppress(OSError):
        return (_PROC / str(pid) / "cmdline").read_text().split("\0")
    return []


def engines(store: Path) -> list[int]:
    """Return the processes that serve a store."""
    pids = []
    for pid in _pids():
        words = command_line(pid)
        if "serve" in words and str(store.resolve()) in words:
            pids.append(pid)
    return pids


def children(pid: int) -> list[int]:
    """Return the running processes that a process has started."""
    pids: list[int] = []
    with suppress(OSError):
        # Each thread has those that it has started; a thread may end while this reads.
        for task in (_PROC / str(pid) / "task").iterdir():
            with suppress(OSError):
                pids += map(int, (task / "children").read_text().split())
    return pids


def descendants(pid: int) -> list[int]:
    """Return the children of a process, their children, and so on."""
    pids = children(pid)
    for child in pids:
        pids += children(child)
    return pids


def is_stopped(pid: int) -> bool:
    """Return whether a process is stopped by SIGSTOP."""
    return _stat(pid)[:1] == ["T"]


def is_alive(pid: int) -> bool:
    """Return whether a process has not ended, reaped or not."""
    return _stat(pid)[:1] not in ([], ["Z"])


def open_files(pid: int) -> int:
    """Return the number of open files and sockets of a process."""
    return len(os.listdir(_PROC / str(pid) / "fd"))


def _pids() -> list[int]:
    return [int(entry.name) for entry in _PROC.glob("[0-9]*")]


def _stat(pid: int) -> list[str]:
    """Return state, parent and so on; nothing if the process has ended."""
    with suppress(OSError):
        return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    return []
