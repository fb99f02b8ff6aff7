"""A process that answers connections which another one, the front, has taken.

    python -m pyspark_theflash.service.server.worker FD STORE        (settings on its input)

FD is its end of a pair of sockets. That ends with the front however that dies, and so does this
process; signals that are meant for the front, which reach all of a terminal or a service, it leaves
to the router.
"""

import logging
import os
import signal
import socket
import sys
import threading
from contextlib import closing, suppress
from functools import partial
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
from pyspark_theflash.service.server.lean import leave_out_pandas

FAILED: Final = 7
_log = logging.getLogger(__name__)


def main() -> int:
    """Work until the front says that it is enough, or is gone."""
    logging.basicConfig(format="theflash: %(levelname)s: %(message)s", level=logging.WARNING)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    settings = WorkerSettings.from_json(sys.stdin.buffer.read())
    fd = int(sys.argv[1])
    # What latches tell of their holders.
    sys.argv = ["theflash", "serve"]
    with socket.socket(fileno=fd) as control:
        try:
            is_told = _work(control, settings, SystemClock())
        except TheFlashError as error:
            _log.error("%s: %s", type(error).__name__, error)
            return FAILED
        if not is_told:
            # Nobody is left whom an answer could reach.
            os._exit(FAILED)
    return 0


def _work(control: socket.socket, settings: WorkerSettings, clock: Clock) -> bool:
    """Answer what comes; whether the front has said that it is enough."""
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
            tls=None if settings.tls is None else settings.tls.context(),
            allowed_names=settings.allowed_names,
            timeouts=settings.timeouts,
            linger_ms=settings.linger_ms,
        )
        router = _Router(control)
        router.tell(ControlMessage(ControlOp.READY))
        while (received := receive_control(control)) is not None:
            message, connection = received
            if message.op is ControlOp.STOP:
                sessions.stop(message.number)
                return True
            if connection is None:
                # There was no descriptor left for it; its caller is told by its end.
                router.give_back(message.number, None)
            else:
                sessions.take(
                    connection, message.greeted, partial(router.give_back, message.number)
                )
    return False


class _Router:
    """Whom this process works for; used by many threads."""

    def __init__(self, control: socket.socket) -> None:
        self._control, self._mutex = control, threading.Lock()

    def tell(self, message: ControlMessage) -> None:
        # One that is gone is seen by who listens to it.
        with suppress(OSError), self._mutex:
            send_control(self._control, message)

    def give_back(self, number: int, greeted: Greeted | None) -> None:
        """A connection that is answered here no more."""
        self.tell(
            ControlMessage(ControlOp.OVER if greeted is None else ControlOp.WAITS, number, greeted)
        )


if __name__ == "__main__":
    sys.exit(main())
