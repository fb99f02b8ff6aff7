"""A process that compares tables with TiKV beside a writer; see `verify.py`.

    the writer                                  python -m pyspark_theflash...load.check_process
    a CheckRequest, then questions ── stdin ──► its end is the end of the process
    answers, or errors ◄── stdout ───────────── one to each question

A question is the name of a table, whose answer is a `CheckedTable`, or None, whose answer is a
`TablesToCheck`. The process has a low priority. Its memory is bounded as that of `theflash verify`.
"""

import contextlib
import os
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Final

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.errors import InternalError
from pyspark_theflash.cluster.pd import PDClient
from pyspark_theflash.cluster.tikv.client import TiKVClient
from pyspark_theflash.replication.load.checking import Answer, CheckRequest, answer
from pyspark_theflash.replication.load.pipe import ended, receive, requests, respond, send, started

if TYPE_CHECKING:
    import subprocess

_MODULE: Final = "pyspark_theflash.replication.load.check_process"
_NICE: Final = 10


class CheckProcess:
    """The process, started with the first question. Close it to end the process."""

    def __init__(self, request: CheckRequest) -> None:
        self._request = request
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="check")
        self._process: subprocess.Popen[bytes] | None = None
        self._mutex, self._is_closed = threading.Lock(), False

    def request(self, table: str | None) -> "Future[Answer]":
        """Put a question. The answer is an error also if the process has ended."""
        return self._thread.submit(self._answer, table)

    def close(self) -> None:
        """End the process; a comparison that is running fails."""
        with self._mutex:
            self._is_closed = True
            if self._process is not None:
                self._process.kill()
        self._thread.shutdown(cancel_futures=True)
        self._reap()

    def _answer(self, table: str | None) -> Answer:
        try:
            process = self._started()
            send(process.stdin, (table,))
            answer: Answer = receive(process.stdout)
        except (OSError, EOFError):
            status = self._reap()
            return InternalError(f"the process that compares tables ended with status {status}")
        return answer

    def _started(self) -> "subprocess.Popen[bytes]":
        with self._mutex:
            if self._is_closed:
                raise EOFError("closed")
            if self._process is None:
                self._process = started(_MODULE)
                send(self._process.stdin, self._request)
            return self._process

    def _reap(self) -> int | None:
        process, self._process = self._process, None
        if process is None:
            return None
        process.kill()
        return ended(process)


def main() -> int:
    """Answer the questions on standard input, until it ends."""
    with contextlib.suppress(OSError):
        os.nice(_NICE)
    questions = requests()
    request: CheckRequest = questions.get()
    clock, cluster = SystemClock(), request.cluster
    with (
        PDClient(cluster.pd, cluster.tls, clock=clock) as pd,
        TiKVClient(pd, cluster.tls, clock=clock, policy=cluster.policy) as client,
    ):
        while True:
            (table,) = questions.get()
            respond("comparing rows", partial(answer, request, pd, client, table))


if __name__ == "__main__":
    sys.exit(main())
