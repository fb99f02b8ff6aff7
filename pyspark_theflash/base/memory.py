"""Memory of the process."""

import ctypes
from functools import cache
from typing import Any


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
