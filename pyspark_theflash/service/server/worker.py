"""A process that serves connections which the router has accepted.

    python -m pyspark_theflash.service.server.worker FD STORE        (settings on standard input)

FD is the worker's end of a socket pair. It is closed when the router's process ends, however that
happens, and the worker then ends too. Signals to a terminal or a service reach all its processes;
workers ignore them, and the router stops its workers itself.
"""

import logging
import os
import pickle
import signal
import socket
import sys
import threading
from concurrent.futures import Future, wait
from contextlib import closing, suppress
from functools import partial
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from typing import Final

from pyspark_theflash.base.clock import Clock, SystemClock
from pyspark_theflash.base.errors import ServiceUnavailableError, TheFlashError
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.base.log import start_log
from pyspark_theflash.service.api.limits import Usage
from pyspark_theflash.service.server.control import (
    ControlMessage,
    ControlOp,
    Greeted,
    UsageReport,
    WorkerSettings,
    receive_control,
    send_control,
)

FAILED: Final = 7
_log = logging.getLogger(__name__)


_REPORT_MS: Final = 1_000


class _NoPandas(MetaPathFinder):
    def find_spec(self, fullname: str, path: object, target: object = None) -> ModuleSpec | None:
        if fullname == "pandas":
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)
        return None


def leave_out_pandas() -> None:
    """Make `import pandas` fail in this process: pyarrow imports it if it is installed.

    A server does not use it. Pandas costs a process 37 MB and a third of its start time.
    """
    sys.meta_path.insert(0, _NoPandas())


def main() -> int:
    """Serve until the router sends STOP or has ended; returns the exit status."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    settings: WorkerSettings = pickle.loads(sys.stdin.buffer.read())  # noqa: S301 (the router's)
    start_log(settings.log)
    fd = int(sys.argv[1])
    # The program's name in the holders of latches.
    sys.argv = ["theflash", "serve"]
    with socket.socket(fileno=fd) as control:
        try:
            is_stopped = _serve(control, settings, SystemClock())
        except TheFlashError as error:
            _log.error("%s: %s", type(error).__name__, error)
            return FAILED
        if not is_stopped:
            # The router has ended, and all connections with it. Does not wait for threads.
            os._exit(FAILED)
    return 0


def _serve(control: socket.socket, settings: WorkerSettings, clock: Clock) -> bool:
    """Serve connections; returns whether the router has sent STOP."""
    leave_out_pandas()
    from pyspark_theflash.service.api.service import Service
    from pyspark_theflash.service.api.token import Tokens
    from pyspark_theflash.service.server.sessions import Sessions

    service = Service(
        settings.store,
        fs=LocalFileSystem(),
        clock=clock,
        spare_key=settings.spare_key,
        limits=settings.limits,
    )
    with closing(service):
        sessions = Sessions(
            service,
            settings.address,
            clock=clock,
            tokens=None if settings.tokens is None else Tokens(settings.tokens),
            tls=settings.tls,
            allowed_names=settings.allowed_names,
            timeouts=settings.timeouts,
            linger_ms=settings.linger_ms,
        )
        router = _Router(control, settings, clock)
        router.send(ControlMessage(ControlOp.READY))
        reporter = threading.Thread(target=router.report, args=(service.usage,), daemon=True)
        reporter.start()
        while (received := receive_control(control)) is not None:
            message, connection = received
            number = message.number
            if message.op is ControlOp.STOP:
                sessions.stop(number)
                return True
            if message.op is not ControlOp.TAKE:
                router.verdict(number, is_admitted=message.op is ControlOp.ADMITTED)
            elif connection is None:
                # This process has no free file descriptor. The router closes the connection.
                router.give_back(number, None)
            else:
                admit, ended = partial(router.admit, number), partial(router.give_back, number)
                sessions.take(number, connection, message.greeted, admit=admit, ended=ended)
    return False


class _Router:
    """The router's process, for the threads of connections."""

    def __init__(self, control: socket.socket, settings: WorkerSettings, clock: Clock) -> None:
        self._control, self._settings, self._clock = control, settings, clock
        self._mutex = threading.Lock()
        self._verdicts: dict[int, Future[bool]] = {}

    def send(self, message: ControlMessage) -> None:
        """Send a message. The end of the router is detected by `receive_control`."""
        with suppress(OSError), self._mutex:
            send_control(self._control, message)

    def report(self, usage: Usage) -> None:
        """Send the usage again and again, if it has changed."""
        last = UsageReport()
        while True:
            current = UsageReport(usage.scans.total, usage.memory.total)
            if current != last:
                self.send(ControlMessage(ControlOp.USAGE, current.to_number()))
            last = current
            self._clock.sleep_ms(_REPORT_MS)

    def give_back(self, number: int, greeted: Greeted | None) -> None:
        """Return a connection."""
        op = ControlOp.OVER if greeted is None else ControlOp.WAITS
        self.send(ControlMessage(op, number, greeted))

    def admit(self, number: int, greeted: Greeted) -> None:
        """Raise `ServiceUnavailableError` if the router counts too many connections."""
        settings, verdict = self._settings, Future[bool]()
        self._verdicts[number] = verdict
        self.send(ControlMessage(ControlOp.ADMIT, number, greeted))
        wait([verdict], settings.timeouts.greeting_ms / 1000)
        if not (verdict.done() and verdict.result()):
            limits = settings.limits
            most = f"{limits.connections_per_identity} of one caller, {limits.connections} in all"
            reason = f"there are too many connections ({most}): try again later"
            raise ServiceUnavailableError(settings.address, reason)

    def verdict(self, number: int, *, is_admitted: bool) -> None:
        """Pass the router's response to `admit`."""
        self._verdicts.pop(number).set_result(is_admitted)


if __name__ == "__main__":
    sys.exit(main())
