"""Memory of the process."""

import ctypes
import os
from functools import cache
from pathlib import Path
from typing import Any, Final

_PROC: Final = Path("/proc")


def resident_bytes(pid: int | None = None) -> int | None:
    """Return the resident memory of a process, by default this one; None if it is not known.

    It is unknown if the process has ended, and on systems without /proc.
    """
    try:
        pages = (_PROC / str(pid or "self") / "statm").read_text().split()[1]
    except (OSError, IndexError):
        return None
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def return_freed_memory() -> None:
    """Return freed memory to the system, if the C library has a function for it (glibc does).

    Otherwise it is used for later allocations of similar sizes only. Takes some milliseconds.
    """
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@cache
def _malloc_trim() -> Any:  # noqa: ANN401 (a function of C)
    return getattr(ctypes.CDLL(None), "malloc_trim", None)
