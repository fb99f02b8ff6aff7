"""Messages between this process and those that it starts to read a cluster.

    this process ── a first message, then requests ── stdin ──► python -m MODULE: its end is the end
    an answer to each request, or an error ◄── stdout ───────── of the process

All are pickled: both ends are this program.
"""

import contextlib
import os
import pickle
import queue
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import IO, Any, Final, TypeVar

from pyspark_theflash.base.errors import InternalError, TheFlashError
from pyspark_theflash.base.process import start_module

_SIZE: Final = struct.Struct("<Q")
_T = TypeVar("_T")


def started(module: str) -> "subprocess.Popen[bytes]":
    """Start a module that calls `requests`. A Ctrl-C in a terminal is handled here."""
    return start_module(
        module, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )


def ended(process: "subprocess.Popen[bytes]") -> int:
    """Wait for the end of a process that was killed, or has ended, and return its status."""
    status = process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
    return status


def send(pipe: IO[bytes] | None, message: object) -> None:
    """Write a message to the other process."""
    body = pickle.dumps(message, protocol=5)
    assert pipe is not None  # noqa: S101
    pipe.write(_SIZE.pack(len(body)))
    pipe.write(body)
    pipe.flush()


def receive(pipe: IO[bytes] | None) -> Any:  # noqa: ANN401
    """Read a message of the other process. Raises `EOFError` if it has ended."""
    assert pipe is not None  # noqa: S101
    head = pipe.read(_SIZE.size)
    if len(head) < _SIZE.size:
        raise EOFError("the other process has ended")
    (size,) = _SIZE.unpack(head)
    body = pipe.read(size)
    if len(body) < size:
        raise EOFError("the other process has ended")
    return pickle.loads(body)  # noqa: S301 (the process that started us, or that we started)


def requests() -> "queue.SimpleQueue[Any]":
    """Return a queue of the messages on standard input, whose end ends this process at once."""
    messages: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def take() -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                messages.put(receive(sys.stdin.buffer))
        os._exit(0)

    threading.Thread(target=take, daemon=True).start()
    return messages


def respond(activity: str, answer: Callable[[], _T]) -> None:
    """Write an answer, or the error that was raised instead, to standard output."""
    response: _T | TheFlashError
    try:
        response = answer()
    except TheFlashError as error:
        response = error
    except Exception as error:  # noqa: BLE001 (its text may have values of rows)
        response = InternalError(f"{activity} failed with {type(error).__name__}")
    send(sys.stdout.buffer, response)
