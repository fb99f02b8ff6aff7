"""Processes that read pieces of a load; see `scan.py`.

    this process                                      python -m pyspark_theflash...load.process
    a LoadRequest, then pairs of keys ── stdin ─────► its end is the end of the process
    a LoadPiece, or an error ◄── stdout ───────────── the answer to each pair of keys

A thread here serves each process. A small load is read by a thread without a process, which takes
longer to start than to read a region.
"""

import contextlib
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Final

from pyspark_theflash.base.errors import InternalError
from pyspark_theflash.replication.load.pipe import ended, receive, requests, respond, send, started
from pyspark_theflash.replication.load.scan import (
    LoadPiece,
    LoadRequest,
    PieceReader,
    opened_reader,
)
from pyspark_theflash.tidb.codec.key import RawKey

if TYPE_CHECKING:
    import subprocess

_MODULE: Final = "pyspark_theflash.replication.load.process"


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
            ended(process)

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
                process = started(_MODULE)
                self._processes.append(process)
            self._own.process = process
            with contextlib.suppress(OSError):  # the next message fails too
                send(process.stdin, self._request)
        return process


class ReaderThread:
    """A thread that reads pieces of one load, with its own connections. Close it to end it."""

    def __init__(self, request: LoadRequest) -> None:
        self._request = request
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="load")
        self._undo = contextlib.ExitStack()
        self._reader: PieceReader | None = None

    def read(self, start: RawKey, end: RawKey) -> "Future[LoadPiece]":
        """Begin to read a piece; see `PieceReader.read`."""
        return self._thread.submit(self._read, start, end)

    def close(self) -> None:
        """End the thread, after the piece that it is reading."""
        self._thread.shutdown(cancel_futures=True)
        self._undo.close()

    def _read(self, start: RawKey, end: RawKey) -> LoadPiece:
        if self._reader is None:
            self._reader = self._undo.enter_context(opened_reader(self._request))
        return self._reader.read(start, end)


def main() -> int:
    """Read the pieces that standard input requests, until it ends."""
    messages = requests()
    with opened_reader(messages.get()) as reader:
        while True:
            respond("reading rows", partial(reader.read, *messages.get()))


if __name__ == "__main__":
    sys.exit(main())
