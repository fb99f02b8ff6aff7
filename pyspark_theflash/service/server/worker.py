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
from contextlib import closing, suppress
from functools import partial
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from typing import Final

from pyspark_theflash.base.clock import Clock, SystemClock
from pyspark_theflash.base.errors import TheFlashError
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.service.server.control import (
    ControlMessage,
    ControlOp,
    Greeted,
    WorkerSettings,
    receive_control,
    send_control,
)

FAILED: Final = 7
_log = logging.getLogger(__name__)


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
    logging.basicConfig(format="theflash: %(levelname)s: %(message)s", level=logging.WARNING)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    settings: WorkerSettings = pickle.loads(sys.stdin.buffer.read())  # noqa: S301 (the router's)
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
        settings.store, fs=LocalFileSystem(), clock=clock, spare_key=settings.spare_key
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
        mutex = threading.Lock()

        def send(message: ControlMessage) -> None:
            # The end of the router is detected by `receive_control`.
            with suppress(OSError), mutex:
                send_control(control, message)

        def give_back(number: int, greeted: Greeted | None) -> None:
            op = ControlOp.OVER if greeted is None else ControlOp.WAITS
            send(ControlMessage(op, number, greeted))

        send(ControlMessage(ControlOp.READY))
        while (received := receive_control(control)) is not None:
            message, connection = received
            if message.op is ControlOp.STOP:
                sessions.stop(message.number)
                return True
            if connection is None:
                # This process has no free file descriptor. The router closes the connection.
                give_back(message.number, None)
            else:
                sessions.take(connection, message.greeted, partial(give_back, message.number))
    return False


if __name__ == "__main__":
    sys.exit(main())
