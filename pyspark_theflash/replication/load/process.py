"""Processes that read pieces of a load; see `scan.py`.

    this process                                      python -m pyspark_theflash...load.process
    a LoadRequest, then pairs of keys ── stdin ─────► its end is the end of the process
    a LoadPiece, or an error ◄── stdout ───────────── the answer to each pair of keys

All are pickled: both ends are this program. A thread here serves each process.
"""

import contextlib
import os
import pickle
import queue
import struct
import subprocess
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import IO, Any, Final

from pyspark_theflash.base.errors import InternalError, TheFlashError
from pyspark_theflash.base.process import start_module
from pyspark_theflash.replication.load.scan import (
    LoadPiece,
    LoadRequest,
    PieceReader,
    opened_reader,
)
from pyspark_theflash.tidb.codec.key import RawKey

_MODULE: Final = "pyspark_theflash.replication.load.process"
_SIZE: Final = struct.Struct("<Q")


class ReaderProcesses:
    """Processes that read pieces of one load. Close it to end them."""

    def __init__(self, count: int, request: LoadRequest) -> None:
        self._request = request
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="load")
        self._own = threading.local()
        self._mutex, self._is_closed = threading.Lock(), False
        self._processes: list[subprocess.Popen[bytes]] = []

    def read(self, start: RawKey, end: RawKey) -> "Future[LoadPiece]":
        """Begin to read a piece; see `PieceReader.read`.

        The future also raises `InternalError` if the process has ended.
        """
        return self._threads.submit(self._read, start, end)

    def close(self) -> None:
        """End the processes. Pieces that are being read fail."""
        with self._mutex:
            self._is_closed = True
            for process in self._processes:
                process.kill()
        self._threads.shutdown(cancel_futures=True)
        for process in self._processes:
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()

    def _read(self, start: RawKey, end: RawKey) -> LoadPiece:
        process = self._process()
        try:
            send(process.stdin, (start, end))
            answer = receive(process.stdout)
        except (OSError, EOFError):
            status = process.wait()
            reason = f"a process of the load ended with status {status}; run the same command again"
            raise InternalError(reason) from None
        if isinstance(answer, LoadPiece):
            return answer
        raise answer

    def _process(self) -> "subprocess.Popen[bytes]":
        """Return the process of this thread."""
        if (process := getattr(self._own, "process", None)) is None:
            with self._mutex:
                if self._is_closed:
                    raise InternalError("the load has ended")
                # A Ctrl-C in a terminal is handled here.
                process = start_module(
                    _MODULE,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    start_new_session=True,
                )
                self._processes.append(process)
            self._own.process = process
            with contextlib.suppress(OSError):  # the next message fails too
                send(process.stdin, self._request)
        return process


def send(pipe: IO[bytes] | None, message: object) -> None:
    """Write a message to another process of this program."""
    body = pickle.dumps(message, protocol=5)
    assert pipe is not None  # noqa: S101
    pipe.write(_SIZE.pack(len(body)))
    pipe.write(body)
    pipe.flush()


def receive(pipe: IO[bytes] | None) -> Any:  # noqa: ANN401
    """Read a message of another process of this program. Raises `EOFError` if it has ended."""
    assert pipe is not None  # noqa: S101
    head = pipe.read(_SIZE.size)
    if len(head) < _SIZE.size:
        raise EOFError("the other process has ended")
    (size,) = _SIZE.unpack(head)
    body = pipe.read(size)
    if len(body) < size:
        raise EOFError("the other process has ended")
    return pickle.loads(body)  # noqa: S301 (the process that started us, or that we started)


def main() -> int:
    """Read the pieces that standard input requests, until it ends."""
    requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=take, args=(requests,), daemon=True).start()
    with opened_reader(requests.get()) as reader:
        while True:
            send(sys.stdout.buffer, _answer(reader, *requests.get()))


def _answer(reader: PieceReader, start: RawKey, end: RawKey) -> LoadPiece | TheFlashError:
    try:
        return reader.read(start, end)
    except TheFlashError as error:
        return error
    except Exception as error:  # noqa: BLE001 (its text may have values of rows)
        return InternalError(f"reading rows failed with {type(error).__name__}")


def take(requests: "queue.SimpleQueue[Any]") -> None:
    """Pass requests on; at the end of the input, end the process immediately."""
    with contextlib.suppress(EOFError, OSError):
        while True:
            requests.put(receive(sys.stdin.buffer))
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
