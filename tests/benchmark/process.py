"""Measurements in a separate process: on one core, with its own peak of memory."""

import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pyarrow as pa


def run_apart(work: Callable[..., Any], *arguments: Any, pinned: bool = True) -> Any:
    """Return the result of `work` in a new process; `pinned` restricts it to one core."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(theirs, work, arguments, pinned))
    process.start()
    theirs.close()
    try:
        return ours.recv()
    finally:
        process.join()


def _run(
    answer: Connection, work: Callable[..., Any], arguments: tuple[Any, ...], pinned: bool
) -> None:
    if pinned:
        # The last one: the first has most of the system's own work.
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    # Where there is a pandas, the first array loads it, which takes some tenths of a second.
    pa.array([0])
    answer.send(work(*arguments))


def peak_rss_bytes(process_id: int | str = "self") -> int:
    """The most memory a process has ever had; unlike getrusage's, not what its parent had."""
    status = Path(f"/proc/{process_id}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) << 10
